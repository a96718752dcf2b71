"""A file of the user's own: csv, tsv, jsonl or parquet, with a text column and label columns.

A file is one split, from which validation and test rows are drawn; a folder holds ``train``, and if there are any
``validation`` (or ``dev``) and ``test``, all with the same ending or each with its own.
The labels of a row stand in one column, as a delimited string or as a list (in csv and tsv a JSON list), or in one
column per label. A label needs two rows, one to learn from and one to score on; with `dataset.topLabels` only the
labels that are kept do.
"""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from trainingtask_api.dataset import Dataset as DatasetSpec
from trainingtask_api.dataset import TableColumns
from trainingtask_api.reasons import Reason
from trainingtask_trainer.datasets.base import RawData, Split, encode_multi_hot
from trainingtask_trainer.errors import UserError, join_names
from trainingtask_trainer.sources.files import READERS, get_cell, get_text, is_set
from trainingtask_trainer.volumes import describe_contents, resolve_path

_SPLIT_FILES = {"train": ("train",), "validation": ("validation", "dev"), "test": ("test",)}


class _Row(NamedTuple):
    where: str
    text: str
    labels: list[str]


class Table:
    """Rows of your own csv, tsv, jsonl or parquet file, or of a folder with one file per split."""

    packages: ClassVar[tuple[str, ...]] = ("iterative-stratification", "pyarrow")

    def load(self, spec: DatasetSpec, root: Path) -> RawData:
        """Read the file, or the splits in the folder."""
        columns = spec.columns or TableColumns()
        assert spec.path is not None  # noqa: S101 - a rule of the CRD: a table has a path
        path = resolve_path(root, spec.path, "dataset.path", spec.volume_claim, Reason.DATASET_NOT_FOUND)
        files = _find_split_files(path) if path.is_dir() else {"train": path}
        rows = {name: _read_rows(file, columns) for name, file in files.items()}
        train_counts = Counter(label for row in rows["train"] for label in row.labels)
        names = tuple(columns.indicators or sorted(train_counts))
        if len(names) < 2:
            raise UserError(
                Reason.INVALID_DATA,
                f"{files['train']}, column '{_get_label_column(columns)}': {len(names)} labels ({', '.join(names)}), "
                "at least 2 are needed",
            )
        kept = sorted(names, key=lambda name: -train_counts[name])[: spec.top_labels]
        _check_labels(rows, kept, train_counts, columns)
        splits = {name: _build_split(part, names, columns) for name, part in rows.items()}
        return RawData(names, splits["train"], splits.get("validation"), splits.get("test"))


def _find_split_files(folder: Path) -> dict[str, Path]:
    found = {}
    for split, stems in _SPLIT_FILES.items():
        files = [folder / f"{stem}{ending}" for stem in stems for ending in READERS]
        there = [file for file in files if file.is_file()]
        if len(there) > 1:
            raise UserError(
                Reason.INVALID_DATA, f"{folder} holds several {split} files: {', '.join(f.name for f in there)}"
            )
        if there:
            found[split] = there[0]
    if "train" not in found:
        raise UserError(
            Reason.DATASET_NOT_FOUND,
            f"{folder} holds no train file (train{', train'.join(READERS)}); it holds {describe_contents(folder)}",
        )
    return found


def _read_rows(path: Path, columns: TableColumns) -> list[_Row]:
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise UserError(Reason.INVALID_DATA, f"{path} ends in '{path.suffix}', which is none of {', '.join(READERS)}")
    rows = []
    for number, row in reader(path):
        where = f"{path}, row {number}"
        rows.append(_Row(where, get_text(row, columns.text, where), _parse_labels(row, columns, where)))
    if not rows:
        raise UserError(Reason.INVALID_DATA, f"{path} has no rows")
    return rows


def _check_labels(
    rows: dict[str, list[_Row]], names: Sequence[str], train_counts: Counter[str], columns: TableColumns
) -> None:
    """Refuse labels that cannot be both learned and scored."""
    absent = [name for name in names if not train_counts[name]]
    if absent:
        shown = join_names([f"'{name}'" for name in absent])
        raise UserError(
            Reason.INVALID_DATA,
            f"dataset.columns.indicators: no training row has label {shown}: add rows, or remove the name",
        )
    counts = Counter(label for part in rows.values() for row in part for label in row.labels)
    single = {name for name in names if counts[name] == 1}
    if single:
        row, label = next((row, label) for row in rows["train"] for label in row.labels if label in single)
        others = f" (so it is with {len(single) - 1} more)" if len(single) > 1 else ""
        raise UserError(
            Reason.INVALID_DATA,
            f"{row.where}, column '{label if columns.indicators else _get_label_column(columns)}': only this row has label "
            f"'{label}'{others}; a row to learn from and a row to score on are needed: add rows, remove the label, "
            "or let dataset.topLabels keep fewer labels",
        )


def _build_split(rows: list[_Row], names: Sequence[str], columns: TableColumns) -> Split:
    index = {name: position for position, name in enumerate(names)}
    for row in rows:
        for label in row.labels:
            if label not in index:
                raise UserError(
                    Reason.INVALID_DATA,
                    f"{row.where}, column '{_get_label_column(columns)}': "
                    f"label '{label}' does not occur in the training rows: remove it, or add a training row that carries it",
                )
    return Split(
        [row.text for row in rows],
        encode_multi_hot(([index[label] for label in row.labels] for row in rows), len(names)),
    )


def _get_label_column(columns: TableColumns) -> str:
    return columns.labels or "labels"


def _parse_labels(row: dict[str, Any], columns: TableColumns, where: str) -> list[str]:
    if columns.indicators:
        return [name for name in columns.indicators if is_set(row, name, where)]
    column = _get_label_column(columns)
    value = get_cell(row, column, where)
    if isinstance(value, str):
        # Splitting a JSON list would put its brackets and quotes into the labels.
        values = (
            _parse_json_list(value) if value.startswith("[") and value.endswith("]") else value.split(columns.delimiter)
        )
    else:
        values = value
    if not isinstance(values, list) or not all(isinstance(label, str | int) for label in values):
        raise UserError(
            Reason.INVALID_DATA,
            f"{where}, column '{column}': {value!r} is neither a list of labels nor a delimited string; "
            'in csv and tsv a list is written as ["a", "b"]',
        )
    labels = (str(label).strip() for label in values)
    return list(dict.fromkeys(label for label in labels if label))


def _parse_json_list(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return None
