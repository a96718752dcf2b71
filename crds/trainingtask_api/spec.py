"""What a user writes: the `spec` of a TrainingTask, every bound and every rule beside the field it guards."""

import re
from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from trainingtask_api.dataset import Dataset
from trainingtask_api.fields import (
    Fraction,
    ObjectName,
    RegisteredName,
    RelativePath,
    Revision,
    Seed,
    cel_in,
    matches,
    only_for,
)
from trainingtask_api.names import CLASSICAL_MODELS, TRANSFORMER_FAMILIES
from trainingtask_api.rules import Contract, Rule


class Device(StrEnum):
    """The kind of node a task trains on."""

    CPU = "cpu"
    GPU = "gpu"


class Strategy(StrEnum):
    """How a classical model, made for one label, is applied to many."""

    ONE_VS_REST = "one_vs_rest"
    MULTI_OUTPUT = "multi_output"
    CLASSIFIER_CHAIN = "classifier_chain"


class Preprocessor(Contract):
    """How text becomes what the model reads."""

    name: RegisteredName | None = Field(
        None, description="Registered preprocessor: 'tokenizer' or 'tfidf'. Default: what the model needs."
    )
    max_length: Annotated[int, Field(ge=4, le=32_768)] | None = Field(
        None,
        description="tokenizer: longest text in tokens; longer ones are cut. Default: 128, or the model's own limit if lower.",
    )
    ngram_max: Annotated[int, Field(ge=1, le=5)] | None = Field(
        None, description="tfidf: longest word n-gram. Default: 2."
    )
    min_document_frequency: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        None, description="tfidf: ignore terms that stand in fewer training texts. Default: 2."
    )
    max_features: Annotated[int, Field(ge=10, le=10_000_000)] | None = Field(
        None, description="tfidf: keep this many most frequent terms. Default: all."
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.maxLength) || !has(self.name) || self.name != 'tfidf'",
            "preprocessor.maxLength belongs to the 'tokenizer': remove it",
            lambda part: part.max_length is None or part.name != "tfidf",
        ),
        Rule(
            "!(has(self.ngramMax) || has(self.minDocumentFrequency) || has(self.maxFeatures)) || !has(self.name) || self.name != 'tokenizer'",
            "preprocessor.ngramMax, minDocumentFrequency and maxFeatures belong to 'tfidf': remove them",
            lambda part: (
                (part.ngram_max, part.min_document_frequency, part.max_features) == (None, None, None)
                or part.name != "tokenizer"
            ),
        ),
    )


class Model(Contract):
    """The model to train."""

    name: RegisteredName = Field(
        description="Registered model: 'distilbert', 'bert', 'logistic_regression', or one that the image adds."
    )
    checkpoint: Annotated[str, Field(min_length=1, max_length=512)] | None = Field(
        None,
        description="Pretrained weights to start from: a hub id, or with `volumeClaim` a folder in that claim ('.' for its root). Default: the family's base checkpoint on the hub.",
    )
    revision: Revision | None = Field(None, description="Branch, tag or commit of a hub checkpoint. Default: main.")
    volume_claim: ObjectName | None = Field(
        None, description="PersistentVolumeClaim that holds the checkpoint; mounted read-only."
    )
    strategy: Strategy | None = Field(
        None, description="How a classical model serves many labels. Default: one_vs_rest."
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"!has(self.strategy) || !(self.name in {cel_in(TRANSFORMER_FAMILIES)})",
            f"model.strategy is for classical models ({', '.join(CLASSICAL_MODELS)}): a transformer predicts all labels at once, remove it",
            lambda model: model.strategy is None or model.name not in TRANSFORMER_FAMILIES,
        ),
        Rule(
            f"!(has(self.checkpoint) || has(self.volumeClaim) || has(self.revision)) || !(self.name in {cel_in(CLASSICAL_MODELS)})",
            "model.checkpoint, model.revision and model.volumeClaim are for transformers: a classical model starts from nothing, remove them",
            lambda model: (
                (model.checkpoint, model.volume_claim, model.revision) == (None, None, None)
                or model.name not in CLASSICAL_MODELS
            ),
        ),
        Rule(
            "!has(self.volumeClaim) || (has(self.checkpoint) && !self.checkpoint.startsWith('/') && !self.checkpoint.split('/').exists(part, part == '..'))",
            "model.checkpoint must be a folder relative to the root of model.volumeClaim, without a leading '/' and without '..' ('.' for the root itself)",
            lambda model: (
                model.volume_claim is None
                or (
                    model.checkpoint is not None
                    and not model.checkpoint.startswith("/")
                    and ".." not in model.checkpoint.split("/")
                )
            ),
        ),
        Rule(
            "has(self.volumeClaim) || !has(self.checkpoint) || self.checkpoint.matches('^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?$')",
            "model.checkpoint must be a hub id ('name' or 'owner/name'), or a folder together with model.volumeClaim",
            lambda model: (
                model.volume_claim is not None
                or model.checkpoint is None
                or re.search(r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?$", model.checkpoint)
                is not None
            ),
        ),
        Rule(
            "!(has(self.revision) && has(self.volumeClaim))",
            "model.revision is for a hub checkpoint: remove it, or remove model.volumeClaim",
            lambda model: model.revision is None or model.volume_claim is None,
        ),
    )


class Training(Contract):
    """Hyperparameters."""

    epochs: Annotated[int, Field(ge=1, le=1000)] | None = Field(
        None, description="Passes over the training rows. Transformers only. Default: 3."
    )
    batch_size: Annotated[int, Field(ge=1, le=4096)] | None = Field(
        None, description="Rows per optimiser step. Transformers only. Default: 32."
    )
    learning_rate: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="Peak learning rate, decayed linearly to 0. Transformers only. Default: 5e-5."
    )
    weight_decay: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None, description="Weight decay of AdamW. Transformers only. Default: 0.01."
    )
    seed: Seed = Field(42, description="Seed of initial weights, dropout and the order of the rows.")


class Evaluation(Contract):
    """How probabilities become labels and scores."""

    threshold: Fraction | None = Field(
        None,
        description="A label is predicted when its probability reaches this. Default: tuned on the validation rows for micro-averaged F1, never on the test rows.",
    )


class Resources(Contract):
    """What the trainer container gets; each is both request and limit."""

    cpu: (
        Annotated[
            Annotated[str, Field(max_length=20)] | int,
            Rule(
                "type(self) == int ? self >= 1 : self.matches('^[0-9]+(\\\\.[0-9]{1,3})?m?$')",
                "must be a number of cores such as 2, '1.5' or '500m'",
                lambda value: (
                    value >= 1 if isinstance(value, int) else re.search(r"^[0-9]+(\.[0-9]{1,3})?m?$", value) is not None
                ),
            ),
        ]
        | None
    ) = Field(None, description="CPU cores, such as 2 or '500m'. Default: the operator's setting for the device.")
    memory: (
        Annotated[
            str,
            Field(max_length=20),
            matches(
                r"^[1-9][0-9]*(\.[0-9]+)?(Mi|Gi|Ti|M|G|T)$",
                "must be a memory size with a unit, such as '4Gi' or '512Mi'",
            ),
        ]
        | None
    ) = Field(None, description="Memory, such as '4Gi'. Default: the operator's setting for the device.")
    gpus: Annotated[int, Field(ge=1, le=16)] | None = Field(
        None, description="Number of GPUs, with device 'gpu' only. Default: 1."
    )


class Output(Contract):
    """Where the trained model is kept."""

    volume_claim: ObjectName = Field(description="PersistentVolumeClaim that receives the model.")
    sub_path: RelativePath | None = Field(None, description="Folder in the claim. Default: the task's name.")


class RunPolicy(Contract):
    """When the task runs, and how often it may fail."""

    suspend: bool = Field(
        False, description="Stop the task, or do not start it, until this is false again. May be changed at any time."
    )
    active_deadline_seconds: Annotated[int, Field(ge=1, le=31_536_000)] | None = Field(
        None,
        description="Fail the task when it has been active for this long, all attempts together; a suspension starts the count anew. Default: no deadline.",
    )
    retries: Annotated[int, Field(ge=0, le=10)] = Field(
        2,
        description="How often a fault is tried again. A user's mistake is never tried again, and an evicted pod does not count.",
    )
    ttl_seconds_after_finished: Annotated[int, Field(ge=0, le=31_536_000)] | None = Field(
        None,
        description="Delete the finished Job and its pods after this long; the TrainingTask stays. May be changed at any time. Default: keep them.",
    )


class SecretKey(Contract):
    """A key of a Secret in the task's namespace."""

    name: ObjectName = Field(description="Name of the Secret.")
    key: Annotated[
        str,
        Field(min_length=1, max_length=253),
        matches(r"^[-._a-zA-Z0-9]+$", "must be a key of a Secret: letters, digits, '-', '_' and '.'"),
    ] = Field(description="Key in the Secret.")


class EnvironmentSecret(Contract):
    """An environment variable that comes from a Secret, such as HF_TOKEN."""

    name: Annotated[
        str,
        Field(min_length=1, max_length=63),
        matches(
            r"^[A-Z][A-Z0-9_]*$",
            "must be an environment variable's name: upper-case letters, digits and '_', such as 'HF_TOKEN'",
        ),
        Rule(
            "!self.startsWith('TRAININGTASK_')",
            "must not start with TRAININGTASK_: those names belong to the operator",
            lambda name: not name.startswith("TRAININGTASK_"),
        ),
    ] = Field(description="Name of the variable, such as HF_TOKEN for a hub's access token.")
    secret_key_ref: SecretKey = Field(description="The Secret's key that holds the value.")


# These may change while a task exists; a change of anything else would make its record a lie.
MUTABLE_RUN_POLICY = ("suspend", "ttlSecondsAfterFinished")


def _fixed(field: str) -> Rule:
    """Return a transition rule for an optional field of the spec; only the API server knows the old value."""
    return Rule(
        f"has(self.{field}) == has(oldSelf.{field}) && (!has(self.{field}) || self.{field} == oldSelf.{field})",
        f"spec.{field} cannot be changed: create a new TrainingTask instead",
        lambda _: True,
    )


class TrainingTaskSpec(Contract):
    """What to train, on what, how and where. Fixed at creation, except runPolicy.suspend and runPolicy.ttlSecondsAfterFinished."""

    dataset: Dataset = Field(description="The texts and labels to train on.")
    preprocessor: Preprocessor | None = Field(
        None, description="How text becomes what the model reads. Default: what the model needs."
    )
    model: Model = Field(description="The model to train.")
    training: Training = Field(Training(), description="Hyperparameters.")
    evaluation: Evaluation | None = Field(None, description="How probabilities become labels and scores.")
    device: Device = Field(Device.CPU, description="Kind of node to train on: 'cpu' or 'gpu'.")
    resources: Resources | None = Field(
        None, description="CPU, memory and GPUs of the trainer. Default: the operator's settings for the device."
    )
    output: Output | None = Field(
        None, description="Where to keep the trained model. Default: nowhere; only the scores stay."
    )
    run_policy: RunPolicy = Field(RunPolicy(), description="Suspension, deadline, retries and clean-up.")
    image: (
        Annotated[
            str,
            Field(min_length=1, max_length=500),
            matches(
                r"^[a-zA-Z0-9][-a-zA-Z0-9._:/@]*$",
                "must be a container image, such as 'registry.example.com/team/trainer:1.0'",
            ),
        ]
        | None
    ) = Field(None, description="Trainer image. Default: the operator's image for the device.")
    env: Annotated[list[EnvironmentSecret], Field(max_length=16)] | None = Field(
        None,
        description="Environment variables from Secrets, such as a hub's access token.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.device == 'gpu' || !has(self.resources) || !has(self.resources.gpus)",
            "resources.gpus needs device 'gpu': set device to 'gpu', or remove resources.gpus",
            lambda spec: spec.device == Device.GPU or spec.resources is None or spec.resources.gpus is None,
        ),
        Rule(
            f"!has(self.preprocessor) || !has(self.preprocessor.name) || self.preprocessor.name != 'tfidf' || !(self.model.name in {cel_in(TRANSFORMER_FAMILIES)})",
            "preprocessor.name 'tfidf' cannot feed a transformer: use 'tokenizer', or leave it out",
            lambda spec: (
                spec.preprocessor is None
                or spec.preprocessor.name != "tfidf"
                or spec.model.name not in TRANSFORMER_FAMILIES
            ),
        ),
        Rule(
            f"!has(self.preprocessor) || !has(self.preprocessor.name) || self.preprocessor.name != 'tokenizer' || !(self.model.name in {cel_in(CLASSICAL_MODELS)})",
            "preprocessor.name 'tokenizer' cannot feed a classical model: use 'tfidf', or leave it out",
            lambda spec: (
                spec.preprocessor is None
                or spec.preprocessor.name != "tokenizer"
                or spec.model.name not in CLASSICAL_MODELS
            ),
        ),
        *(
            only_for(
                field,
                "training",
                "model.name",
                CLASSICAL_MODELS,
                "is for transformers: a classical model does not use it, remove it",
            )
            for field in ("epochs", "batchSize", "learningRate", "weightDecay")
        ),
        only_for(
            "maxLength",
            "preprocessor",
            "model.name",
            CLASSICAL_MODELS,
            "belongs to the 'tokenizer' of transformers: remove it",
        ),
        *(
            only_for(
                field,
                "preprocessor",
                "model.name",
                TRANSFORMER_FAMILIES,
                "belongs to 'tfidf', which cannot feed a transformer: remove it",
            )
            for field in ("ngramMax", "minDocumentFrequency", "maxFeatures")
        ),
        *(
            _fixed(field)
            for field in (
                "dataset",
                "preprocessor",
                "model",
                "training",
                "evaluation",
                "device",
                "resources",
                "output",
                "image",
                "env",
            )
        ),
        Rule(
            "self.runPolicy.retries == oldSelf.runPolicy.retries"
            " && has(self.runPolicy.activeDeadlineSeconds) == has(oldSelf.runPolicy.activeDeadlineSeconds)"
            " && (!has(self.runPolicy.activeDeadlineSeconds) || self.runPolicy.activeDeadlineSeconds == oldSelf.runPolicy.activeDeadlineSeconds)",
            f"of spec.runPolicy only {' and '.join(MUTABLE_RUN_POLICY)} can be changed: create a new TrainingTask instead",
            lambda _: True,
        ),
    )
