"""``predictions.parquet`` beside a saved model: a line for each row that the model was not trained on.

The probabilities are one column of fixed-size lists of float32, in the order of the labels that the schema's metadata
names. A column for each label would need names that cannot be those of the other columns, and readers open a file of 10,000 columns
slowly; lists are read as they are by pandas, polars and DuckDB. Labels are lists of names, so that a query needs no
index.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trainingtask_api.formatting import format_size
from trainingtask_api.reasons import Reason
from trainingtask_trainer.artifacts.error_file_names import PREDICTIONS_FILE
from trainingtask_trainer.artifacts.model_manifest import read_manifest
from trainingtask_trainer.datasets.base import LabelMatrix, Places
from trainingtask_trainer.errors import UserError
from trainingtask_trainer.evaluation.label_errors import PredictedRows
from trainingtask_trainer.evaluation.metrics import Probabilities

_METADATA = "trainingtask"
_TEST = "test"
# Of all probabilities together, and of a row group.
_MAX_BYTES = 1 << 30
_GROUP_BYTES = 32 << 20
_MAX_GROUP_ROWS = 100_000
# What another run's file may have: the probabilities do not shrink, and the rest is short.
_MAX_FILE_BYTES = 2 * _MAX_BYTES
_MAX_ROWS = 50_000_000


class Metadata(BaseModel):
    """What the schema says of the rows. It may come from an untrusted file: every value is bounded."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    labels: Annotated[tuple[Annotated[str, Field(max_length=200)], ...], Field(min_length=1, max_length=100_000)]
    """Names of the probabilities."""
    test_fingerprint: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    """SHA-256 over label names, texts and labels of the test rows."""


@dataclass(frozen=True)
class StoredPredictions:
    """The predictions of the test rows, in their order; matrices of shape [rows, labels]."""

    metadata: Metadata
    truth: LabelMatrix
    predicted: LabelMatrix
    probabilities: Probabilities


def list_size_warnings(parts: Sequence[PredictedRows]) -> list[str]:
    """Return a warning when the probabilities are too many to be written."""
    size = sum(4 * part.probabilities.size for part in parts)
    if size <= _MAX_BYTES:
        return []
    return [
        f"{PREDICTIONS_FILE} is not written: the probabilities of {sum(len(part.split) for part in parts)} rows take "
        f"{format_size(size)}, more than {format_size(_MAX_BYTES)}"
    ]


def write_predictions(path: Path, metadata: Metadata, parts: Sequence[PredictedRows], *, keep_texts: bool) -> None:
    """Write the predictions, unless `list_size_warnings` has a warning about them."""
    if list_size_warnings(parts):
        return
    names = pa.array(metadata.labels, pa.string())
    schema = _create_schema(metadata, keep_texts=keep_texts)
    plain = ["probabilities.list.element"]
    with pq.ParquetWriter(
        path,
        schema,
        compression="zstd",
        use_dictionary=["split", "source", "labels.list.element", "predicted.list.element"],
        use_byte_stream_split=plain,
    ) as writer:
        for part in parts:
            for start in range(0, len(part.split), _count_group_rows(len(names))):
                rows = slice(start, start + _count_group_rows(len(names)))
                writer.write_table(_build_table(part, rows, names, schema))


def _create_schema(metadata: Metadata, *, keep_texts: bool) -> pa.Schema:
    fields = {
        "split": pa.string(),
        "source": pa.string(),
        "row": pa.int64(),
        "labels": pa.list_(pa.string()),
        "predicted": pa.list_(pa.string()),
        "probabilities": pa.list_(pa.float32(), len(metadata.labels)),
    } | ({"text": pa.string()} if keep_texts else {})
    return pa.schema(fields.items(), {_METADATA: metadata.model_dump_json()})


def _count_group_rows(labels: int) -> int:
    return max(1, min(_MAX_GROUP_ROWS, _GROUP_BYTES // (4 * labels)))


def _build_table(part: PredictedRows, rows: slice, names: pa.Array, schema: pa.Schema) -> pa.Table:
    places = part.split.locate(part.name).places
    assert isinstance(places, Places)  # noqa: S101 - for the type checker: `locate` gives any split places
    probabilities = part.probabilities[rows].astype(np.float32)
    columns = {
        "split": pa.array([part.name] * len(probabilities)),
        "source": pa.array(places.sources, pa.string()).take(pa.array(places.source_indexes[rows])),
        "row": pa.array(places.numbers[rows]),
        "labels": _to_lists(part.split.labels[rows], names),
        "predicted": _to_lists(part.predicted[rows], names),
        "probabilities": pa.FixedSizeListArray.from_arrays(probabilities.ravel(), len(names)),
    }
    if "text" in schema.names:
        columns["text"] = pa.array(map(_to_unicode, part.split.texts[rows]), pa.string())
    return pa.table(columns, schema)


def _to_lists(matrix: LabelMatrix, names: pa.Array) -> pa.Array:
    offsets = np.append(0, matrix.sum(axis=1, dtype=np.int32).cumsum(dtype=np.int32))
    return pa.ListArray.from_arrays(pa.array(offsets), names.take(pa.array(matrix.nonzero()[1])))


def _to_unicode(text: str) -> str:
    """Return a text without halves of surrogate pairs, which no file of UTF-8 can hold."""
    return text.encode("utf-8", "replace").decode()


def read_test_predictions(folder: Path) -> StoredPredictions:
    """Return the predictions of the test rows beside a saved model, whose folder may be untrusted.

    Raises
    ------
    UserError
        When the folder holds no saved model or no predictions, or the file is not one that `write_predictions` writes.
    """
    read_manifest(folder)
    path = folder / PREDICTIONS_FILE
    if not path.is_file():
        raise UserError(
            Reason.MODEL_UNAVAILABLE,
            f"{folder} has no {PREDICTIONS_FILE}: train the model again with this version, whose runs write it",
        )
    try:
        return _read(path)
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        why = "its metadata are not those of predictions" if isinstance(error, ValidationError) else str(error)
        raise UserError(
            Reason.MODEL_UNAVAILABLE, f"{path} is not a file of predictions of this project, or was changed: {why}"
        ) from error


def _read(path: Path) -> StoredPredictions:
    if (size := path.stat().st_size) > _MAX_FILE_BYTES:
        raise ValueError(f"it has {size} bytes, at most {_MAX_FILE_BYTES} are read")
    with pq.ParquetFile(path, memory_map=False) as file:
        metadata = Metadata.model_validate_json((file.schema_arrow.metadata or {}).get(_METADATA.encode(), b""))
        _check_bounds(file, metadata)
        found = [_parse(table, metadata) for table in _iter_test_rows(file) if len(table)]
    if not found:
        raise ValueError("it has no test rows")
    truth, predicted, probabilities = map(np.concatenate, zip(*found, strict=True))
    return StoredPredictions(metadata, truth, predicted, probabilities)


def _check_bounds(file: pq.ParquetFile, metadata: Metadata) -> None:
    expected = _create_schema(metadata, keep_texts="text" in file.schema_arrow.names)
    if not file.schema_arrow.equals(expected):
        raise ValueError(f"its columns are {', '.join(file.schema_arrow.names)[:200]}, or have other types")
    rows = file.metadata.num_rows
    if rows > _MAX_ROWS or 4 * rows * len(metadata.labels) > _MAX_BYTES:
        raise ValueError(f"it has {rows} rows of {len(metadata.labels)} labels, which is too much to be read")
    if len(set(metadata.labels)) != len(metadata.labels):
        raise ValueError("a label is named twice")


def _iter_test_rows(file: pq.ParquetFile) -> Iterator[pa.Table]:
    columns = ["split", "labels", "predicted", "probabilities"]
    for group in range(file.num_row_groups):
        sizes = file.metadata.row_group(group)
        declared = sum(sizes.column(index).total_uncompressed_size for index in range(sizes.num_columns))
        if declared > _MAX_FILE_BYTES:
            raise ValueError(f"row group {group} has {declared} bytes, at most {_MAX_FILE_BYTES} are read")
        table = file.read_row_group(group, columns)
        yield table.filter(pc.equal(table["split"], _TEST))


def _parse(table: pa.Table, metadata: Metadata) -> tuple[LabelMatrix, LabelMatrix, Probabilities]:
    names = pa.array(metadata.labels, pa.string())
    column = table["probabilities"].combine_chunks()
    values = column.flatten()
    probabilities = values.to_numpy(zero_copy_only=False).astype(np.float64).reshape(-1, len(names))
    if column.null_count or len(probabilities) != len(table) or not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise ValueError("a probability is not within 0 to 1")
    return _to_matrix(table["labels"], names), _to_matrix(table["predicted"], names), probabilities


def _to_matrix(column: pa.ChunkedArray, names: pa.Array) -> LabelMatrix:
    lists = column.combine_chunks()
    rows = pc.list_parent_indices(lists)
    labels = pc.index_in(lists.flatten(), names)
    if lists.null_count or labels.null_count:
        raise ValueError("a row carries a label that the metadata do not name")
    matrix: NDArray[np.uint8] = np.zeros((len(lists), len(names)), dtype=np.uint8)
    matrix[rows.to_numpy(), labels.to_numpy()] = 1
    return matrix
