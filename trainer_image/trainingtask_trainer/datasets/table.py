"""A file of the user's own: csv, tsv, jsonl or parquet, with a text column and label columns.

A file is one split, from which validation and test rows are drawn; a folder holds ``train``, and if there are any
``validation`` (or ``dev``) and ``test``, all with the same ending.
In messages a row is a line of a text file, its header line being 1, and in parquet a row counted from 1.
"""

import csv
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

from trainingtask_api.dataset import Dataset as DatasetSpec
from trainingtask_api.dataset import TableColumns
from trainingtask_trainer.datasets.base import RawData, Split, multi_hot
from trainingtask_trainer.errors import UserError
from trainingtask_trainer.places import contents, find

Row = tuple[int, dict[str, Any]]
_SPLIT_FILES = {"train": ("train",), "validation": ("validation", "dev"), "test": ("test",)}
_ON = {"1", "1.0", "true"}
_OFF = {"0", "0.0", "false"}


class Table:
    """Rows of a file or of a folder with one file per split."""

    packages: ClassVar[tuple[str, ...]] = ("pyarrow",)

    def load(self, spec: DatasetSpec, root: Path) -> RawData:
        """Read the file, or the splits in the folder."""
        columns = spec.columns or TableColumns()
        assert spec.path is not None  # noqa: S101 - a rule of the contract: a table has a path
        path = find(root, spec.path, "dataset.path", spec.volume_claim, "DatasetNotFound")
        files = _split_files(path) if path.is_dir() else {"train": path}
        rows = {name: _labelled_rows(file, columns) for name, file in files.items()}
        names = tuple(columns.indicators or sorted({label for _, _, labels in rows["train"] for label in labels}))
        if len(names) < 2:
            raise UserError(
                "InvalidData",
                f"{files['train']}, column '{_label_column(columns)}': {len(names)} labels ({', '.join(names)}), "
                "at least 2 are needed",
            )
        splits = {name: _split(part, names, files[name], columns) for name, part in rows.items()}
        return RawData(names, splits["train"], splits.get("validation"), splits.get("test"))


def _split_files(folder: Path) -> dict[str, Path]:
    found = {}
    for split, stems in _SPLIT_FILES.items():
        files = [folder / f"{stem}{ending}" for stem in stems for ending in _READERS]
        there = [file for file in files if file.is_file()]
        if len(there) > 1:
            raise UserError("InvalidData", f"{folder} holds several {split} files: {', '.join(f.name for f in there)}")
        if there:
            found[split] = there[0]
    if "train" not in found:
        raise UserError(
            "DatasetNotFound",
            f"{folder} holds no train file (train{', train'.join(_READERS)}); it holds {contents(folder)}",
        )
    return found


def _labelled_rows(path: Path, columns: TableColumns) -> list[tuple[int, str, list[str]]]:
    """Return row number, text and labels of each row."""
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise UserError("InvalidData", f"{path} ends in '{path.suffix}', which is none of {', '.join(_READERS)}")
    try:
        rows = list(reader(path))
    except UnicodeDecodeError as error:
        raise UserError("InvalidData", f"{path} is not UTF-8 text: {error}") from error
    if not rows:
        raise UserError("InvalidData", f"{path} has no rows")
    return [
        (number, _text(row, columns.text, f"{path}, row {number}"), _labels(row, columns, f"{path}, row {number}"))
        for number, row in rows
    ]


def _split(rows: list[tuple[int, str, list[str]]], names: tuple[str, ...], path: Path, columns: TableColumns) -> Split:
    index = {name: position for position, name in enumerate(names)}
    for number, _, labels in rows:
        for label in labels:
            if label not in index:
                raise UserError(
                    "InvalidData",
                    f"{path}, row {number}, column '{_label_column(columns)}': "
                    f"label '{label}' does not occur in the training rows",
                )
    return Split(
        [text for _, text, _ in rows],
        multi_hot(([index[label] for label in labels] for *_, labels in rows), len(names)),
    )


def _label_column(columns: TableColumns) -> str:
    return columns.labels or "labels"


def _cell(row: dict[str, Any], column: str, where: str) -> Any:
    if column not in row:
        there = ", ".join(str(name) for name in row if name is not None)
        raise UserError("InvalidData", f"{where}: no column '{column}', only {there}")
    return row[column]


def _text(row: dict[str, Any], column: str, where: str) -> str:
    value = _cell(row, column, where)
    if not isinstance(value, str) or not value.strip():
        raise UserError("InvalidData", f"{where}, column '{column}': {value!r} is not a text")
    return value


def _labels(row: dict[str, Any], columns: TableColumns, where: str) -> list[str]:
    if columns.indicators:
        return [name for name in columns.indicators if _is_on(_cell(row, name, where), name, where)]
    column = _label_column(columns)
    value = _cell(row, column, where)
    if isinstance(value, list):
        values = [str(label).strip() for label in value]
    elif isinstance(value, str):
        values = [label.strip() for label in value.split(columns.delimiter)]
    else:
        raise UserError(
            "InvalidData", f"{where}, column '{column}': {value!r} is neither a list of labels nor a delimited string"
        )
    return [label for label in values if label]


def _is_on(value: Any, column: str, where: str) -> bool:
    word = str(value).strip().lower()
    if word not in _ON | _OFF:
        raise UserError("InvalidData", f"{where}, column '{column}': {value!r} is neither 0 nor 1")
    return word in _ON


def _delimited(delimiter: str) -> Callable[[Path], Iterator[Row]]:
    def read(path: Path) -> Iterator[Row]:
        csv.field_size_limit(sys.maxsize)  # a long text is no error
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, delimiter=delimiter)
            try:
                for row in reader:
                    if None in row or None in row.values():
                        raise UserError(
                            "InvalidData",
                            f"{path}, row {reader.line_num}: the number of columns is not the header's "
                            f"{len(reader.fieldnames or ())}",
                        )
                    yield reader.line_num, row
            except csv.Error as error:
                raise UserError("InvalidData", f"{path}, row {reader.line_num}: {error}") from error

    return read


def _json_lines(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError("InvalidData", f"{path}, row {number}: not JSON: {error}") from error
            if not isinstance(row, dict):
                raise UserError("InvalidData", f"{path}, row {number}: not a JSON object")
            yield number, row


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow  # noqa: PLC0415 - text files need none of it
    import pyarrow.parquet  # noqa: PLC0415

    try:
        table = pyarrow.parquet.read_table(path)
    except pyarrow.ArrowInvalid as error:
        raise UserError("InvalidData", f"{path} is not a parquet file: {error}") from error
    yield from enumerate(table.to_pylist(), start=1)


_READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".csv": _delimited(","),
    ".tsv": _delimited("\t"),
    ".jsonl": _json_lines,
    ".parquet": _parquet,
}
