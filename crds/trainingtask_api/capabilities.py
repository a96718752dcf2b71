"""The built-in data sets, preprocessors and models, and which fields of a task each of them reads.

An image may add more; the contract has no rules about those.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

SOURCE_FIELDS: Final = ("path", "uri", "hub")
_TOKENIZER, _TFIDF = "tokenizer", "tfidf"


@dataclass(frozen=True)
class DatasetCapabilities:
    """A built-in data set.

    Attributes
    ----------
    fields
        Those of the `dataset` section's fields config, includeAnswers, hub, path, uri, columns, format and onBadRow that
        it reads.
    is_source_required
        It has no source of its own: the task names one.
    """

    fields: tuple[str, ...] = ()
    is_source_required: bool = False

    @property
    def sources(self) -> tuple[str, ...]:
        """The fields that name where the data comes from."""
        return tuple(field for field in SOURCE_FIELDS if field in self.fields)


@dataclass(frozen=True)
class ModelCapabilities:
    """A built-in model.

    Attributes
    ----------
    preprocessor
        Its default preprocessor.
    hyperparameters
        The fields of the `training` section that it reads, beside the seed.
    is_native_multi_label
        It learns all labels at once. A classical model that does not needs a strategy.
    """

    preprocessor: str
    hyperparameters: tuple[str, ...]
    is_native_multi_label: bool = False


DATASETS: Final[Mapping[str, DatasetCapabilities]] = {
    "go_emotions": DatasetCapabilities(("config", "hub", "path", "uri")),
    "cross_validated": DatasetCapabilities(("includeAnswers", "path", "uri"), is_source_required=True),
    "table": DatasetCapabilities(("path", "uri", "hub", "columns", "format", "onBadRow"), is_source_required=True),
    "support_tickets": DatasetCapabilities(),
}

# Name -> the fields of the `preprocessor` section that it reads.
PREPROCESSORS: Final[Mapping[str, tuple[str, ...]]] = {
    _TOKENIZER: ("maxLength",),
    _TFIDF: ("ngramMax", "characterNgramMax", "minDocumentFrequency", "maxFeatures"),
    "embedding": ("maxLength", "checkpoint", "revision", "volumeClaim", "uri"),
}

_TRANSFORMER = ModelCapabilities(
    _TOKENIZER,
    (
        "epochs",
        "batchSize",
        "gradientAccumulationSteps",
        "learningRate",
        "scheduler",
        "warmupFraction",
        "layerDecay",
        "weightDecay",
        "maxGradientNorm",
        "loss",
        "loop",
        "precision",
        "batching",
        "earlyStoppingPatience",
        "checkpointSteps",
        "posWeight",
    ),
    is_native_multi_label=True,
)
TRANSFORMER_FAMILIES: Final = ("distilbert", "bert", "roberta", "xlnet", "albert", "auto")
MODELS: Final[Mapping[str, ModelCapabilities]] = {
    **dict.fromkeys(TRANSFORMER_FAMILIES, _TRANSFORMER),
    "logistic_regression": ModelCapabilities(_TFIDF, ("posWeight", "inverseRegularization")),
    "linear_svc": ModelCapabilities(_TFIDF, ("posWeight", "inverseRegularization")),
    "random_forest": ModelCapabilities(_TFIDF, ("posWeight", "trees"), is_native_multi_label=True),
    "knn": ModelCapabilities(_TFIDF, ("neighbors",), is_native_multi_label=True),
}
CLASSICAL_MODELS: Final = tuple(name for name in MODELS if name not in TRANSFORMER_FAMILIES)


def group_by_field(fields: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Return field -> the names that read it, from name -> the fields that it reads."""
    every_field = dict.fromkeys(field for read in fields.values() for field in read)
    return {field: tuple(name for name, read in fields.items() if field in read) for field in every_field}
