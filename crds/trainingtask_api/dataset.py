"""The `dataset` section of a task: the source of the texts and labels, and the rows and labels that are used."""

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field
from pydantic.alias_generators import to_snake

from trainingtask_api.capabilities import DATASETS, SOURCE_FIELDS
from trainingtask_api.fields import (
    ColumnName,
    Encoding,
    Fraction,
    HubConfig,
    HubId,
    HubSplit,
    IndicatorName,
    ObjectName,
    RegisteredName,
    RelativePath,
    Revision,
    Seed,
    Uri,
    count_fields,
    to_cel_list,
)
from trainingtask_api.rules import Contract, Rule


class Config(StrEnum):
    """The configuration of a data set on the hub."""

    SIMPLIFIED = "simplified"
    RAW = "raw"


class HubSplits(Contract):
    """Which splits of a hub data set are used for what."""

    train: HubSplit = Field("train", description="The split to train on.")
    validation: HubSplit | None = Field(
        None, description="The split to tune thresholds on. Default: held out from the training rows."
    )
    test: HubSplit | None = Field(None, description="The split to score on. Default: held out from the training rows.")


class HubSource(Contract):
    """A data set on a hub."""

    id: HubId = Field(description="Id of the data set on the hub, such as 'google-research-datasets/go_emotions'.")
    config: HubConfig | None = Field(
        None, description="table: the configuration, for a data set with several. Default: the only one."
    )
    revision: Revision = Field(
        "main", description="Branch, tag or commit. Pin a commit to train on the same data for ever."
    )
    splits: HubSplits | None = Field(
        None, description="table: the names of the splits. Default: found by the usual names."
    )


class LabelFormat(StrEnum):
    """How the labels of a row stand in one cell."""

    DELIMITED = "delimited"
    LIST = "list"
    MULTI_HOT = "multi_hot"
    CHOICES = "choices"
    SINGLE = "single"


class OnBadRow(StrEnum):
    """What a row that cannot be read does to the training."""

    FAIL = "fail"
    SKIP = "skip"


class FileFormat(Contract):
    """What the files of a table do not say of themselves."""

    separator: Annotated[str, Field(min_length=1, max_length=1)] | None = Field(
        None,
        description="What separates the columns of a csv or tsv file. Default: found in the header, of ',', ';', tab and '|'.",
    )
    encoding: Encoding | None = Field(
        None,
        description="Encoding of text files, such as 'cp1250'. Default: UTF-8, UTF-16 and Western European cp1252 are recognised.",
    )
    sheet: Annotated[str, Field(min_length=1, max_length=31)] | None = Field(
        None, description="Sheet of an xlsx file. Default: the first."
    )


class TableColumns(Contract):
    """The columns of a table that hold the text and the labels, found in spite of case and blanks around their names."""

    text: ColumnName = Field("text", description="Column that holds the text.")
    texts: Annotated[list[IndicatorName], Field(min_length=2, max_length=16)] | None = Field(
        None, description="Instead of `text`: several columns whose texts are joined by line breaks, in this order."
    )
    labels: ColumnName | None = Field(
        None,
        description="Column that holds all labels of a row: a delimited string, a list (also as JSON or as Python writes it), a 0/1 vector, or Label Studio's choices. Default: 'labels', else 'label'.",
    )
    label_format: LabelFormat | None = Field(
        None,
        description="Format of the cells of the `labels` column. 'single': one label, whatever separators are in it. Default: found from the cells.",
    )
    label_names: Annotated[list[IndicatorName], Field(min_length=2, max_length=500)] | None = Field(
        None, description="Names of the positions of the 0/1 vectors in the `labels` column."
    )
    indicators: Annotated[list[IndicatorName], Field(min_length=2, max_length=500)] | None = Field(
        None, description="Instead of `labels`: one column per label, with 0 or 1 in each row."
    )
    delimiter: Annotated[str, Field(min_length=1, max_length=3)] = Field(
        ",", description="What separates the labels of a row in the `labels` column."
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!(has(self.labels) && has(self.indicators))",
            "dataset.columns.labels and dataset.columns.indicators exclude each other: name one label column or the indicator columns",
            lambda columns: columns.labels is None or columns.indicators is None,
        ),
        Rule(
            "!has(self.indicators) || !(has(self.labelNames) || has(self.labelFormat))",
            "dataset.columns.labelNames and dataset.columns.labelFormat are for a label column: remove them, or dataset.columns.indicators",
            lambda columns: (
                columns.indicators is None or (columns.label_names is None and columns.label_format is None)
            ),
        ),
        Rule(
            "!has(self.labelNames) || !has(self.labelFormat) || self.labelFormat == 'multi_hot'",
            "dataset.columns.labelNames is for dataset.columns.labelFormat 'multi_hot': remove one of them",
            lambda columns: columns.label_names is None or columns.label_format in (None, LabelFormat.MULTI_HOT),
        ),
        Rule(
            "!has(self.labelFormat) || self.labelFormat != 'multi_hot' || has(self.labelNames)",
            "dataset.columns.labelNames is required for dataset.columns.labelFormat 'multi_hot'",
            lambda columns: columns.label_format is not LabelFormat.MULTI_HOT or columns.label_names is not None,
        ),
        Rule(
            "!has(self.texts) || self.text == 'text'",
            "dataset.columns.text and dataset.columns.texts exclude each other: name one text column or several",
            lambda columns: columns.texts is None or columns.text == "text",
        ),
    )


_SOURCE_WORDS = {
    "path": "dataset.volumeClaim with dataset.path",
    "uri": "dataset.uri",
    "hub": "dataset.hub",
}


def _refuse_unread(field: str, remedy: str) -> Rule:
    """Return the rule that a built-in data set which does not read `field` is not given it."""
    refused = tuple(name for name, known in DATASETS.items() if field not in known.fields)
    attribute = to_snake(field)
    return Rule(
        f"!has(self.{field}) || !(self.name in {to_cel_list(refused)})",
        f"dataset.{field} {remedy}",
        lambda dataset: getattr(dataset, attribute) is None or dataset.name not in refused,
    )


def _refuse_source(name: str) -> Rule:
    """Return the rule that the generated data set of this name is given no files."""
    return Rule(
        f"self.name != '{name}' || {count_fields(SOURCE_FIELDS)} == 0",
        f"dataset.name '{name}' is generated: remove dataset.path, dataset.volumeClaim, dataset.uri and dataset.hub",
        lambda dataset: dataset.name != name or not dataset.count_sources(),
    )


def _require_source(name: str) -> Rule:
    """Return the rule that a built-in data set without a source of its own is given one."""
    sources = DATASETS[name].sources
    *first, last = (_SOURCE_WORDS[field] for field in sources)
    return Rule(
        f"self.name != '{name}' || {count_fields(sources)} > 0",
        f"dataset.name '{name}' needs the place of its data: {', '.join(first)} or {last} is required",
        lambda dataset: dataset.name != name or dataset.count_sources(sources) > 0,
    )


def _refuse_hub(name: str) -> Rule:
    """Return the rule that the built-in data set of this name is read from files alone."""
    return Rule(
        f"self.name != '{name}' || !has(self.hub)",
        f"dataset.name '{name}' is not on a hub: name dataset.volumeClaim with dataset.path, or dataset.uri",
        lambda dataset: dataset.name != name or dataset.hub is None,
    )


class Dataset(Contract):
    """The texts and labels to train on."""

    name: RegisteredName = Field(
        description="Registered data set: 'go_emotions', 'cross_validated', 'table' (a file of your own), 'support_tickets' (generated, needs no file), one that the image adds, or a class as 'module:Class'."
    )
    config: Config | None = Field(
        None,
        description="go_emotions: 'simplified' (official splits) or 'raw' (one row per rater: a text keeps the labels that at least two of its raters chose, and is dropped without one). Default: simplified.",
    )
    include_answers: bool | None = Field(
        None, description="cross_validated: append the answers to title and body. Default: false."
    )
    hub: HubSource | None = Field(
        None, description="Read the data set from a hub. Default for data sets that live on one."
    )
    volume_claim: ObjectName | None = Field(
        None, description="PersistentVolumeClaim in the task's namespace that holds the data; mounted read-only."
    )
    path: RelativePath | None = Field(
        None, description="File or folder of the data, relative to the root of `volumeClaim`."
    )
    uri: Uri | None = Field(
        None,
        description="File, or prefix of several, in an object store (s3://, gs://, az://), or a file at https://.",
    )
    columns: TableColumns | None = Field(None, description="Columns of a `table`.")
    format: FileFormat | None = Field(None, description="Format of the files of a `table`, where it is not found.")
    on_bad_row: OnBadRow | None = Field(
        None,
        description="table: 'fail' when a row cannot be read, after all have been counted; 'skip' such rows, with a warning in the results. Default: fail.",
    )
    sample_size: Annotated[int, Field(ge=10, le=100_000_000)] | None = Field(
        None, description="Train on this many rows, drawn from the training rows with `seed`. Default: all rows."
    )
    top_labels: Annotated[int, Field(ge=2, le=1000)] | None = Field(
        None, description="Keep the k most frequent labels and the rows that carry one of them. Default: all labels."
    )
    validation_fraction: Fraction | None = Field(
        None,
        description="Fraction of the training rows held out to tune the threshold on. Default: the data set's own validation split, else 0.1.",
    )
    test_fraction: Fraction | None = Field(
        None,
        description="Fraction of all rows held out for the scores, for data sets without a test split of their own. Default: 0.2.",
    )
    seed: Seed = Field(42, description="Seed of the sample and of the splits.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.path) == has(self.volumeClaim)",
            "dataset.path and dataset.volumeClaim go together: name the claim and the path in it",
            lambda dataset: (dataset.path is None) == (dataset.volume_claim is None),
        ),
        Rule(
            f"{count_fields(SOURCE_FIELDS)} <= 1",
            "dataset.path, dataset.uri and dataset.hub exclude each other: the data comes from a volume claim, an address or a hub",
            lambda dataset: dataset.count_sources() <= 1,
        ),
        *(_require_source(name) for name, known in DATASETS.items() if known.is_source_required),
        *(_refuse_hub(name) for name, known in DATASETS.items() if known.sources and "hub" not in known.sources),
        Rule(
            "self.name != 'go_emotions' || !has(self.hub) || !(has(self.hub.config) || has(self.hub.splits))",
            "dataset.hub.config and dataset.hub.splits are for dataset.name 'table': use dataset.config",
            lambda dataset: (
                dataset.name != "go_emotions"
                or dataset.hub is None
                or (dataset.hub.config is None and dataset.hub.splits is None)
            ),
        ),
        Rule(
            "!(has(self.format) && has(self.hub))",
            "dataset.format is for files: remove it, a data set on a hub has a format of its own",
            lambda dataset: dataset.format is None or dataset.hub is None,
        ),
        _refuse_unread("config", "is for dataset.name 'go_emotions': remove it"),
        _refuse_unread("includeAnswers", "is for dataset.name 'cross_validated': remove it"),
        *(_refuse_source(name) for name, known in DATASETS.items() if not {"path", "hub"} & set(known.fields)),
        _refuse_unread("columns", "is for tables: remove it, or use dataset.name 'table'"),
        _refuse_unread("format", "is for tables: remove it, or use dataset.name 'table'"),
        _refuse_unread("onBadRow", "is for tables: remove it, or use dataset.name 'table'"),
        Rule(
            "(has(self.validationFraction) ? self.validationFraction : 0.1) + (has(self.testFraction) ? self.testFraction : 0.2) < 1.0",
            "dataset.validationFraction (default 0.1) and dataset.testFraction (default 0.2) must add up to less than 1: no row would be left to train on",
            lambda dataset: (dataset.validation_fraction or 0.1) + (dataset.test_fraction or 0.2) < 1.0,
        ),
    )

    def count_sources(self, fields: tuple[str, ...] = SOURCE_FIELDS) -> int:
        """Return how many of these fields name a source."""
        return sum(getattr(self, field) is not None for field in fields)
