"""The `preprocessor` and `model` sections of a task."""

import re
from enum import StrEnum
from typing import Annotated, Any, ClassVar

from pydantic import Field
from pydantic.alias_generators import to_snake

from trainingtask_api.capabilities import (
    CLASSICAL_MODELS,
    MODELS,
    PREPROCESSORS,
    TRANSFORMER_FAMILIES,
    group_by_field,
)
from trainingtask_api.fields import HUB_ID_PATTERN, ObjectName, RegisteredName, Revision, Uri, quote_names, to_cel_list
from trainingtask_api.rules import Contract, Rule

PREPROCESSOR_FIELDS = group_by_field(PREPROCESSORS)


def _refuse_unread(field: str, readers: tuple[str, ...]) -> Rule:
    """Return the rule that a built-in preprocessor which does not read `field` is not given it."""
    refused = tuple(name for name in PREPROCESSORS if name not in readers)
    attribute = to_snake(field)
    return Rule(
        f"!has(self.{field}) || !has(self.name) || !(self.name in {to_cel_list(refused)})",
        f"preprocessor.{field} belongs to {quote_names(readers)}: remove it",
        lambda preprocessor: getattr(preprocessor, attribute) is None or preprocessor.name not in refused,
    )


def _build_checkpoint_rules(name: str) -> tuple[Rule, ...]:
    """Return the rules on `checkpoint`, `revision` and `volumeClaim` of a section."""
    return (
        Rule(
            "!has(self.volumeClaim) || (has(self.checkpoint) && !self.checkpoint.startsWith('/') && !self.checkpoint.split('/').exists(part, part == '..'))",
            f"{name}.checkpoint must be a folder relative to the root of {name}.volumeClaim, without a leading '/' and without '..' ('.' for the root itself)",
            _is_checkpoint_relative,
        ),
        Rule(
            f"has(self.volumeClaim) || !has(self.checkpoint) || self.checkpoint.matches('{HUB_ID_PATTERN}')",
            f"{name}.checkpoint must be a hub id ('name' or 'owner/name'), or a folder together with {name}.volumeClaim",
            lambda section: (
                section.volume_claim is not None
                or section.checkpoint is None
                or re.search(HUB_ID_PATTERN, section.checkpoint) is not None
            ),
        ),
        Rule(
            "!(has(self.revision) && has(self.volumeClaim))",
            f"{name}.revision is for a hub checkpoint: remove it, or remove {name}.volumeClaim",
            lambda section: section.revision is None or section.volume_claim is None,
        ),
        Rule(
            "!has(self.uri) || !(has(self.checkpoint) || has(self.revision) || has(self.volumeClaim))",
            f"{name}.uri excludes {name}.checkpoint, {name}.revision and {name}.volumeClaim: the checkpoint comes from an address, a hub or a volume claim",
            lambda section: (
                section.uri is None
                or (section.checkpoint, section.revision, section.volume_claim) == (None, None, None)
            ),
        ),
    )


def _is_checkpoint_relative(section: Any) -> bool:
    return section.volume_claim is None or (
        section.checkpoint is not None
        and not section.checkpoint.startswith("/")
        and ".." not in section.checkpoint.split("/")
    )


class Preprocessor(Contract):
    """The preprocessor, which turns text into features."""

    name: RegisteredName | None = Field(
        None,
        description="Registered preprocessor: 'tokenizer', 'tfidf', 'embedding' (a frozen encoder, for classical models), or a class as 'module:Class'. Default: what the model needs.",
    )
    max_length: (
        Annotated[
            int | Annotated[str, Field(max_length=4)],
            Rule(
                "type(self) == int ? self >= 4 && self <= 32768 : self == 'auto'",
                "must be a number of tokens from 4 to 32768, or 'auto'",
                lambda value: 4 <= value <= 32_768 if isinstance(value, int) else value == "auto",
            ),
        ]
        | None
    ) = Field(
        None,
        description="tokenizer and embedding: longest text in tokens; longer ones are cut. 'auto': as long as 95 % of the training texts are, within the checkpoint's own limit. Default: 128, or that limit if lower.",
    )
    ngram_max: Annotated[int, Field(ge=1, le=5)] | None = Field(
        None, description="tfidf: longest word n-gram. Default: 2."
    )
    character_ngram_max: Annotated[int, Field(ge=2, le=8)] | None = Field(
        None,
        description="tfidf: add character n-grams of 2 to this many characters within words. Default: no character n-grams.",
    )
    min_document_frequency: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        None, description="tfidf: ignore terms that stand in fewer training texts. Default: 2."
    )
    max_features: Annotated[int, Field(ge=10, le=10_000_000)] | None = Field(
        None, description="tfidf: keep this many most frequent terms, of words and of characters each. Default: all."
    )
    checkpoint: Annotated[str, Field(min_length=1, max_length=512)] | None = Field(
        None,
        description="embedding: the encoder, a hub id, or with `volumeClaim` a folder in that claim ('.' for its root).",
    )
    revision: Revision | None = Field(
        None, description="embedding: branch, tag or commit of a hub checkpoint. Default: main."
    )
    volume_claim: ObjectName | None = Field(
        None, description="embedding: PersistentVolumeClaim that holds the encoder; mounted read-only."
    )
    uri: Uri | None = Field(
        None,
        description="embedding: instead of `checkpoint`, the prefix of the encoder's files in an object store (s3://, gs://, az://), or a .zip or .tar.gz of them at https://.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        *(_refuse_unread(field, readers) for field, readers in PREPROCESSOR_FIELDS.items()),
        Rule(
            "!has(self.name) || self.name != 'embedding' || has(self.checkpoint) || has(self.uri)",
            "preprocessor.checkpoint or preprocessor.uri is required for preprocessor.name 'embedding': the encoder that turns texts into vectors",
            lambda section: section.name != "embedding" or section.checkpoint is not None or section.uri is not None,
        ),
        *_build_checkpoint_rules("preprocessor"),
    )


class Strategy(StrEnum):
    """How a classical model, most of which predict one label, is applied to many."""

    NATIVE = "native"
    ONE_VS_REST = "one_vs_rest"
    MULTI_OUTPUT = "multi_output"
    CLASSIFIER_CHAIN = "classifier_chain"


_NATIVE = tuple(name for name in CLASSICAL_MODELS if MODELS[name].is_native_multi_label)
_NOT_NATIVE = tuple(name for name in CLASSICAL_MODELS if name not in _NATIVE)


class Model(Contract):
    """The model to train."""

    name: RegisteredName = Field(
        description=f"Registered model: {', '.join(repr(name) for name in MODELS)}, one that the image adds, or a class as 'module:Class'. 'auto' takes the family from the checkpoint."
    )
    checkpoint: Annotated[str, Field(min_length=1, max_length=512)] | None = Field(
        None,
        description="Pretrained weights to start from: a hub id, or with `volumeClaim` a folder in that claim ('.' for its root). Default: the family's base checkpoint on the hub.",
    )
    revision: Revision | None = Field(None, description="Branch, tag or commit of a hub checkpoint. Default: main.")
    volume_claim: ObjectName | None = Field(
        None, description="PersistentVolumeClaim that holds the checkpoint; mounted read-only."
    )
    uri: Uri | None = Field(
        None,
        description="Instead of `checkpoint`: the prefix of the checkpoint's files in an object store (s3://, gs://, az://), or a .zip or .tar.gz of them at https://.",
    )
    strategy: Strategy | None = Field(
        None,
        description="How a classical model serves many labels. Default: 'native' for random_forest and knn, else 'one_vs_rest'.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"!has(self.strategy) || !(self.name in {to_cel_list(TRANSFORMER_FAMILIES)})",
            f"model.strategy is for classical models ({', '.join(CLASSICAL_MODELS)}): a transformer predicts all labels at once, remove it",
            lambda model: model.strategy is None or model.name not in TRANSFORMER_FAMILIES,
        ),
        Rule(
            f"!has(self.strategy) || self.strategy != 'native' || !(self.name in {to_cel_list(_NOT_NATIVE)})",
            f"model.strategy 'native' is for models that learn all labels at once ({', '.join(_NATIVE)}): use one_vs_rest, multi_output or classifier_chain",
            lambda model: model.strategy != Strategy.NATIVE or model.name not in _NOT_NATIVE,
        ),
        Rule(
            "self.name != 'auto' || has(self.checkpoint) || has(self.uri)",
            "model.checkpoint or model.uri is required for model.name 'auto': the family is read from it",
            lambda model: model.name != "auto" or model.checkpoint is not None or model.uri is not None,
        ),
        Rule(
            f"!(has(self.checkpoint) || has(self.volumeClaim) || has(self.revision) || has(self.uri)) || !(self.name in {to_cel_list(CLASSICAL_MODELS)})",
            "model.checkpoint, model.revision, model.volumeClaim and model.uri are for transformers: a classical model starts from nothing, remove them",
            lambda model: (
                (model.checkpoint, model.volume_claim, model.revision, model.uri) == (None, None, None, None)
                or model.name not in CLASSICAL_MODELS
            ),
        ),
        *_build_checkpoint_rules("model"),
    )
