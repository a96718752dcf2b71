"""The `spec` of a TrainingTask, with each bound and rule beside the field that it constrains."""

import re
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field
from pydantic.alias_generators import to_camel, to_snake

from trainingtask_api.capabilities import CLASSICAL_MODELS, MODELS, PREPROCESSORS, TRANSFORMER_FAMILIES
from trainingtask_api.dataset import Dataset
from trainingtask_api.exports import Format
from trainingtask_api.fields import (
    HubRepository,
    ObjectName,
    RelativePath,
    StoreUri,
    count_fields,
    match_pattern,
    quote_names,
    refuse_field,
    to_cel_list,
)
from trainingtask_api.model import PREPROCESSOR_FIELDS, Model, Preprocessor
from trainingtask_api.rules import Contract, Rule
from trainingtask_api.run_policy import MUTABLE_FIELDS, RunPolicy
from trainingtask_api.tracking import Tracking
from trainingtask_api.training import HYPERPARAMETER_MODELS, Evaluation, Loop, Precision, Training


class Device(StrEnum):
    """The kind of node a task trains on."""

    CPU = "cpu"
    GPU = "gpu"


_SIZE_PATTERN = r"^[1-9][0-9]*(\.[0-9]+)?(Mi|Gi|Ti|M|G|T)$"


class Resources(Contract):
    """Resources of the trainer container; each is both request and limit."""

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
            match_pattern(_SIZE_PATTERN, "must be a memory size with a unit, such as '4Gi' or '512Mi'"),
        ]
        | None
    ) = Field(None, description="Memory, such as '4Gi'. Default: the operator's setting for the device.")
    storage: (
        Annotated[
            str,
            Field(max_length=20),
            match_pattern(_SIZE_PATTERN, "must be a size on disk with a unit, such as '20Gi' or '500Mi'"),
        ]
        | None
    ) = Field(
        None,
        description="The node's disk for all that is in no volume claim: downloads, an output without a claim, logs; such as '20Gi'. Default: the operator's setting for the device.",
    )
    gpus: Annotated[int, Field(ge=1, le=16)] | None = Field(
        None, description="Number of GPUs of each node, with device 'gpu' only; a process trains on each. Default: 1."
    )
    nodes: Annotated[int, Field(ge=1, le=64)] | None = Field(
        None,
        description="Number of nodes that train together; each has the cpu, memory, storage and gpus given here. More than one needs JobSet in the cluster. Default: 1.",
    )
    profile: ObjectName | None = Field(
        None,
        description="One of the admin's device profiles, such as another GPU make. Default: the device's own settings.",
    )


OutputPath = Annotated[
    RelativePath,
    match_pattern(r"[^./]", "must name a folder in the volume claim: its root itself cannot be replaced by a model"),
]


_DESTINATIONS = ("volumeClaim", "uri", "hub")


class Output(Contract):
    """The destination of the trained model, and of the checkpoints while it trains."""

    volume_claim: ObjectName | None = Field(None, description="PersistentVolumeClaim that receives the model.")
    sub_path: OutputPath | None = Field(None, description="Folder in `volumeClaim`. Default: the task's name.")
    uri: StoreUri | None = Field(
        None, description="Instead of `volumeClaim`: the folder in an object store (s3://, gs://, az://)."
    )
    hub: HubRepository | None = Field(
        None,
        description="Instead of `volumeClaim`: the model's repository on the hub, 'owner/name'; made private if it is not there yet.",
    )

    formats: (
        Annotated[
            list[Format],
            Field(min_length=1, max_length=4),
            Rule(
                "self.all(format, self.exists_one(other, other == format))",
                "must name each format once",
                lambda formats: len(set(formats)) == len(formats),
            ),
        ]
        | None
    ) = Field(
        None,
        description="Formats of the model: 'safetensors' (transformers) or 'skops' (classical models), 'onnx', and 'onnx_int8' (8-bit weights, of transformers and with preprocessor.name 'embedding'). Default: the model's own format.",
    )
    max_f1_loss: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None,
        description="An export of output.formats that costs more than this of the micro-averaged F1 on the test rows is not written. Default: 0.01.",
    )
    keep_texts: bool = Field(
        False,
        description="Write the texts of the rows into the files beside the model that show its mistakes, and these as an import for Label Studio. Default: row numbers alone.",
    )

    tensorboard: bool = Field(
        False, description="Write the curves and scores as TensorBoard event files beside the model, in 'tensorboard'."
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"{count_fields(_DESTINATIONS)} == 1",
            "output needs exactly one destination: output.volumeClaim, output.uri or output.hub",
            lambda output: sum(getattr(output, to_snake(field)) is not None for field in _DESTINATIONS) == 1,
        ),
        Rule(
            "!has(self.subPath) || has(self.volumeClaim)",
            "output.subPath is a folder in output.volumeClaim: remove it, an address names its own folder",
            lambda output: output.sub_path is None or output.volume_claim is not None,
        ),
    )


class Code(Contract):
    """Python files on the trainer's import path."""

    config_map: ObjectName = Field(
        description="ConfigMap whose keys are Python files, such as 'my_model.py'; mounted read-only."
    )


class SecretKey(Contract):
    """A key of a Secret in the task's namespace."""

    name: ObjectName = Field(description="Name of the Secret.")
    key: Annotated[
        str,
        Field(min_length=1, max_length=253),
        match_pattern(r"^[-._a-zA-Z0-9]+$", "must be a key of a Secret: letters, digits, '-', '_' and '.'"),
    ] = Field(description="Key in the Secret.")


class EnvironmentSecret(Contract):
    """An environment variable that comes from a Secret, such as HF_TOKEN."""

    name: Annotated[
        str,
        Field(min_length=1, max_length=63),
        match_pattern(
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


def _unchanged(field: str) -> str:
    """Return the CEL condition that an optional field is as before."""
    return f"has(self.{field}) == has(oldSelf.{field}) && (!has(self.{field}) || self.{field} == oldSelf.{field})"


def _make_immutable(field: str) -> Rule:
    """Return the transition rule of an optional field of the spec; only the API server has the old value."""
    return Rule(
        _unchanged(field),
        f"spec.{field} cannot be changed: create a new TrainingTask instead",
        lambda _: True,
    )


def _refuse_preprocessor(preprocessor: str, kind: str, models: tuple[str, ...], instead: str) -> Rule:
    """Return the rule that models of a kind are not given this preprocessor."""
    return Rule(
        f"!has(self.preprocessor) || !has(self.preprocessor.name) || self.preprocessor.name != '{preprocessor}' || !(self.model.name in {to_cel_list(models)})",
        f"preprocessor.name '{preprocessor}' cannot feed {kind}: use '{instead}', or leave it out",
        lambda spec: (
            spec.preprocessor is None or spec.preprocessor.name != preprocessor or spec.model.name not in models
        ),
    )


def _refuse_unread_by_default(field: str) -> Rule:
    """Return the rule that `field` is not given to the default preprocessor of a model if that does not read it."""
    refused = tuple(name for name, model in MODELS.items() if field not in PREPROCESSORS[model.preprocessor])
    attribute = to_snake(field)
    return Rule(
        f"!has(self.preprocessor) || has(self.preprocessor.name) || !has(self.preprocessor.{field}) || !(self.model.name in {to_cel_list(refused)})",
        f"preprocessor.{field} belongs to {quote_names(PREPROCESSOR_FIELDS[field])}: remove it, or set preprocessor.name",
        lambda spec: (
            spec.preprocessor is None
            or spec.preprocessor.name is not None
            or getattr(spec.preprocessor, attribute) is None
            or spec.model.name not in refused
        ),
    )


_CLASSICAL_FORMATS = "'skops' and 'onnx', with preprocessor.name 'embedding' also 'onnx_int8'"


def _refuse_format(
    formats: tuple[Format, ...], kind: str, models: tuple[str, ...], allowed: str, *, but_on: str = ""
) -> Rule:
    """Return the rule that models of a kind are not written in these formats, but on one preprocessor."""
    exception = f" || (has(self.preprocessor) && has(self.preprocessor.name) && self.preprocessor.name == '{but_on}')"
    return Rule(
        f"!has(self.output) || !has(self.output.formats) || !(self.model.name in {to_cel_list(models)})"
        f" || !self.output.formats.exists(format, format in {to_cel_list(formats)}){exception if but_on else ''}",
        f"output.formats of {kind} are {allowed}",
        lambda spec: (
            spec.output is None
            or not set(spec.output.formats or ()).intersection(formats)
            or spec.model.name not in models
            or (but_on != "" and spec.preprocessor is not None and spec.preprocessor.name == but_on)
        ),
    )


def _refuse_unused_processes(field: str, condition: str, is_given: Callable[[Resources], bool]) -> Rule:
    """Return the rule that a classical model is not given what neither it nor its preprocessor uses."""
    return Rule(
        f"!has(self.resources) || !({condition}) || !(self.model.name in {to_cel_list(CLASSICAL_MODELS)})"
        " || (has(self.preprocessor) && has(self.preprocessor.name) && self.preprocessor.name != 'tfidf')",
        f"resources.{field} is of no use to a classical model with 'tfidf': remove it, or set preprocessor.name to 'embedding'",
        lambda spec: (
            spec.resources is None
            or not is_given(spec.resources)
            or spec.model.name not in CLASSICAL_MODELS
            or (spec.preprocessor is not None and spec.preprocessor.name not in (None, "tfidf"))
        ),
    )


_HAS_NODES = "has(self.resources.nodes) && self.resources.nodes > 1"
_HAS_PEERS = f"(has(self.resources.gpus) && self.resources.gpus > 1) || ({_HAS_NODES})"


def _describe_models(models: tuple[str, ...]) -> str:
    """Return models as a part of a sentence, the families of transformers in one word."""
    if models == TRANSFORMER_FAMILIES:
        return "transformers"
    return ", ".join(name for name in models if name not in TRANSFORMER_FAMILIES) + (
        " and transformers" if set(TRANSFORMER_FAMILIES) <= set(models) else ""
    )


class TrainingTaskSpec(Contract):
    """What to train, on what, how and where. Fixed at creation, except suspend, ttlSecondsAfterFinished and deleteTask of runPolicy."""

    dataset: Dataset = Field(description="The texts and labels to train on.")
    preprocessor: Preprocessor | None = Field(
        None, description="How text becomes what the model reads. Default: what the model needs."
    )
    model: Model = Field(description="The model to train.")
    training: Training = Field(Training(), description="Hyperparameters.")
    evaluation: Evaluation | None = Field(None, description="How probabilities become labels and scores.")
    device: Device = Field(Device.CPU, description="Kind of node to train on: 'cpu' or 'gpu'.")
    resources: Resources | None = Field(
        None, description="CPU, memory, disk and GPUs of the trainer. Default: the operator's settings for the device."
    )
    output: Output | None = Field(
        None, description="Where to keep the trained model. Default: nowhere; only the scores stay."
    )
    run_policy: RunPolicy = Field(RunPolicy(), description="Suspension, deadline, retries and clean-up.")
    image: (
        Annotated[
            str,
            Field(min_length=1, max_length=500),
            match_pattern(
                r"^[a-zA-Z0-9][-a-zA-Z0-9._:/@]*$",
                "must be a container image, such as 'registry.example.com/team/trainer:1.0'",
            ),
        ]
        | None
    ) = Field(None, description="Trainer image. Default: the operator's image for the device.")
    tracking: Tracking | None = Field(
        None, description="Experiment tracking beside the history. Default: the operator's settings."
    )
    code: Code | None = Field(None, description="Python files of your own, for a name of the form 'module:Class'.")
    env: Annotated[list[EnvironmentSecret], Field(max_length=16)] | None = Field(
        None,
        description="Environment variables from Secrets, such as a hub's access token or the keys of an object store.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )

    @property
    def node_count(self) -> int:
        """Nodes that train together."""
        return (self.resources and self.resources.nodes) or 1

    @property
    def process_count(self) -> int:
        """Processes that train together, on all nodes: one for each GPU, or one for each node without GPUs."""
        return self.node_count * ((self.resources and self.resources.gpus) or 1)

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.device == 'gpu' || !has(self.resources) || !has(self.resources.gpus)",
            "resources.gpus needs device 'gpu': set device to 'gpu', or remove resources.gpus",
            lambda spec: spec.device == Device.GPU or spec.resources is None or spec.resources.gpus is None,
        ),
        _refuse_unused_processes("gpus", "has(self.resources.gpus)", lambda resources: resources.gpus is not None),
        _refuse_unused_processes("nodes", _HAS_NODES, lambda resources: (resources.nodes or 1) > 1),
        Rule(
            f"!has(self.resources) || !({_HAS_PEERS}) || !has(self.training.loop) || self.training.loop != 'trainer'",
            "training.loop 'trainer' trains in one process: use 'accelerate' with several GPUs or nodes",
            lambda spec: spec.process_count == 1 or spec.training.loop != Loop.TRAINER,
        ),
        Rule(
            "self.device == 'gpu' || !has(self.training.precision) || self.training.precision != 'fp16'",
            "training.precision 'fp16' needs device 'gpu': use 'bf16' or 'fp32' on a CPU",
            lambda spec: spec.device == Device.GPU or spec.training.precision != Precision.FP16,
        ),
        *(
            _refuse_preprocessor(name, "a transformer", TRANSFORMER_FAMILIES, "tokenizer")
            for name in ("tfidf", "embedding")
        ),
        _refuse_preprocessor("tokenizer", "a classical model", CLASSICAL_MODELS, "tfidf' or 'embedding"),
        *(
            refuse_field(
                field,
                "training",
                "model.name",
                tuple(name for name in MODELS if name not in users),
                f"is for {_describe_models(users)}: this model does not use it, remove it",
            )
            for field, users in HYPERPARAMETER_MODELS.items()
        ),
        _refuse_format((Format.SAFETENSORS,), "a classical model", CLASSICAL_MODELS, _CLASSICAL_FORMATS),
        _refuse_format(
            (Format.ONNX_INT8,), "a classical model", CLASSICAL_MODELS, _CLASSICAL_FORMATS, but_on="embedding"
        ),
        _refuse_format(
            (Format.ONNX, Format.ONNX_INT8), "knn", ("knn",), "'skops' alone: the model is its training rows"
        ),
        _refuse_format((Format.SKOPS,), "a transformer", TRANSFORMER_FAMILIES, "'safetensors', 'onnx' and 'onnx_int8'"),
        Rule(
            f"!has(self.evaluation) || !has(self.evaluation.folds) || !(self.model.name in {to_cel_list(TRANSFORMER_FAMILIES)})",
            "evaluation.folds trains the model once more for each fold and is for classical models: remove it, or train one on preprocessor.name 'embedding'",
            lambda spec: (
                spec.evaluation is None or spec.evaluation.folds is None or spec.model.name not in TRANSFORMER_FAMILIES
            ),
        ),
        # Without a name the model's default preprocessor runs.
        *(_refuse_unread_by_default(field) for field in PREPROCESSOR_FIELDS),
        *(
            _make_immutable(field)
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
                "code",
                "env",
                "tracking",
            )
        ),
        Rule(
            " && ".join(
                [
                    "self.runPolicy.retries == oldSelf.runPolicy.retries",
                    *(
                        _unchanged(f"runPolicy.{to_camel(field)}")
                        for field in RunPolicy.model_fields
                        if to_camel(field) not in (*MUTABLE_FIELDS, "retries")
                    ),
                ]
            ),
            f"of spec.runPolicy only {', '.join(MUTABLE_FIELDS)} can be changed: create a new TrainingTask instead",
            lambda _: True,
        ),
    )
