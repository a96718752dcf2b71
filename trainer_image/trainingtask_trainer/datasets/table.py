"""A table of the user's own: files of any of the usual formats, or a data set of the hub, with text and label columns.

A file is one split, from which validation and test rows are drawn; a folder or a zip archive holds ``train`` and, if
there are any, ``validation`` and ``test``, each as one file, as numbered parts or as a folder.
The labels of a row stand in one column, see `label_cells`, or in one column per label. A label needs two rows, one to
learn from and one to score on; with `dataset.topLabels` only the labels that are kept do.
"""

import contextlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from trainingtask_api.dataset import Dataset as DatasetSpec
from trainingtask_api.dataset import FileFormat, HubSource, OnBadRow, TableColumns
from trainingtask_api.reasons import Reason
from trainingtask_trainer.datasets.base import LabelMatrix, Places, RawData, Split
from trainingtask_trainer.datasets.hub_table import open_hub_table
from trainingtask_trainer.datasets.label_cells import LabelColumn, parse_labels
from trainingtask_trainer.errors import UserError, join_names
from trainingtask_trainer.sources.columns import (
    BadRow,
    Columns,
    Wanted,
    format_cell,
    is_text,
    join_texts,
    parse_indicator,
    quote_names,
)
from trainingtask_trainer.sources.data_files import find_split_files
from trainingtask_trainer.sources.files import read_columns
from trainingtask_trainer.volumes import resolve_path

_LABEL_COLUMNS = ("labels", "label")
_SHOWN_ROWS = 10
Reader = Callable[[Wanted], Columns]
"""Reads the wanted columns of a file or of a split."""
_NULLS = ("nan", "none", "null", "na", "n/a", "<na>", "\\n")


@dataclass
class _File:
    """The usable rows of a file: their texts, and their labels in one of two forms."""

    columns: Columns
    texts: list[str]
    rows: NDArray[np.intp] | slice
    """Positions of the usable rows in `columns`."""
    labels: LabelColumn | None
    indicators: LabelMatrix | None

    def matrix(self, names: Sequence[str]) -> LabelMatrix:
        """Return the labels of the usable rows as a 0/1 matrix of shape [rows, names]."""
        if self.indicators is not None:
            return self.indicators[self.rows]
        assert self.labels is not None  # noqa: S101 - a file has one of the two
        return self.labels.matrix(names, self.rows)

    def label_set(self) -> set[str]:
        """Return the labels that its usable rows carry, by their names in a label column."""
        return self.labels.names(self.rows) if self.labels is not None else set()

    def count_with(self, labels: set[str]) -> int:
        """Return how many of its usable rows carry one of these labels."""
        return self.labels.count_with(labels, self.rows) if self.labels is not None else 0


class Table:
    """Rows of your own file, or of a folder with a file per split."""

    packages: ClassVar[tuple[str, ...]] = ("iterative-stratification", "pyarrow", "python-calamine")

    def load(self, spec: DatasetSpec, root: Path) -> RawData:
        """Read the file, the splits in the folder, or those on the hub."""
        columns = spec.columns or TableColumns()
        readers, notes = _open_files(spec, root) if spec.hub is None else _open_hub(spec.hub)
        bad: dict[str, BadRow] = {}
        read = {split: [_read_file(reader, columns, bad) for reader in parts] for split, parts in readers.items()}
        found = [note for parts in read.values() for part in parts for note in part.columns.notes]
        if found:
            notes.append("; ".join(found[:3]) + (f"; and {len(found) - 3} more files" if len(found) > 3 else ""))
        notes += _check_bad_rows(
            bad.values(), sum(len(part.texts) for parts in read.values() for part in parts), spec.on_bad_row
        )
        for parts in read.values():
            if not any(part.texts for part in parts):
                raise UserError(Reason.INVALID_DATA, f"{parts[0].columns.file} has no rows")
        names = _list_label_names(read["train"], columns)
        splits = {split: _build_split(parts, names) for split, parts in read.items()}
        _check_labels(read, splits, names, spec.top_labels, columns)
        notes += _describe_unseen_labels(read, names)
        if odd := [name for name in names if name.casefold() in _NULLS]:
            notes.append(f"labels {quote_names(odd)} look like missing values: leave the cells empty if they are")
        return RawData(names, splits["train"], splits.get("validation"), splits.get("test"), warnings=tuple(notes))


def _open_files(spec: DatasetSpec, root: Path) -> tuple[dict[str, list[Reader]], list[str]]:
    """Return what reads the files of each split, and a warning of the files that are left."""
    assert spec.path is not None  # noqa: S101 - a rule of the contract: a table has a path or a hub
    path = resolve_path(root, spec.path, "dataset.path", spec.volume_claim, Reason.DATASET_NOT_FOUND)
    files, unread = find_split_files(path)
    form = spec.format or FileFormat()
    readers: dict[str, list[Reader]] = {
        split: [partial(read_columns, file, form=form) for file in parts] for split, parts in files.items()
    }
    return readers, [f"files of {path} that were not read: {join_names(unread)}"] if unread else []


def _open_hub(hub: HubSource) -> tuple[dict[str, list[Reader]], list[str]]:
    """Return what reads each split, and a warning of the splits that are left."""
    splits, unread = open_hub_table(hub)
    notes = [f"splits of dataset.hub '{hub.id}' that were not read: {join_names(unread)}"] if unread else []
    return {split: [reader] for split, reader in splits.items()}, notes


def _read_file(reader: Reader, columns: TableColumns, bad: dict[str, BadRow]) -> _File:
    """Read a file's texts and labels; add the rows that cannot be used to `bad`, by their place."""
    texts = columns.texts or [columns.text]
    labels = columns.indicators or ([columns.labels] if columns.labels else [])
    wanted: list[tuple[str, ...]] = [(name,) for name in (*texts, *labels)]
    read = reader(wanted if labels else [*wanted, _LABEL_COLUMNS])
    found = list(read.bad)
    joined = _join_text_columns(read, texts, found)
    column = matrix = None
    if columns.indicators:
        matrix = _parse_indicators(read, columns.indicators, found)
    else:
        column = parse_labels(
            read,
            columns.labels or _LABEL_COLUMNS[0],
            delimiter=columns.delimiter,
            form=columns.label_format,
            names=columns.label_names,
        )
        found += column.bad
    for row in found:
        bad.setdefault(row.where, row)
    unusable = {row.row for row in found if row.row is not None}
    rows = np.asarray([row for row in range(len(read)) if row not in unusable], dtype=np.intp) if unusable else None
    if rows is None:
        return _File(read, joined, slice(None), column, matrix)
    return _File(read, [joined[row] for row in rows], rows, column, matrix)


def _join_text_columns(read: Columns, names: Sequence[str], bad: list[BadRow]) -> list[str]:
    """Return the text of each row, several columns joined by line breaks; a row without any is bad."""
    if len(names) == 1:
        cells = read.cells[names[0]]
        with contextlib.suppress(TypeError):  # one that is no string
            if all(map(str.strip, cells)):
                return cells
        for row, cell in enumerate(cells):
            if not is_text(cell):
                bad.append(BadRow(read.where(row), f"{format_cell(cell)} is not a text", names[0], row))
        return cells
    texts = []
    for row, parts in enumerate(zip(*(read.cells[name] for name in names), strict=True)):
        for name, part in zip(names, parts, strict=True):
            if part is not None and not isinstance(part, str):
                bad.append(BadRow(read.where(row), f"{format_cell(part)} is not a text", name, row))
        text = join_texts(parts)
        if not text:
            bad.append(
                BadRow(read.where(row), f"none of the columns {', '.join(map(repr, names))} holds a text", None, row)
            )
        texts.append(text)
    return texts


def _parse_indicators(read: Columns, names: Sequence[str], bad: list[BadRow]) -> LabelMatrix:
    """Return the 0/1 matrix of the indicator columns, of shape [rows, names]; a cell that is neither makes its row bad."""
    matrix = np.zeros((len(read), len(names)), dtype=np.uint8)
    for position, name in enumerate(names):
        for row, cell in enumerate(read.cells[name]):
            value = parse_indicator(cell)
            if value is None:
                bad.append(BadRow(read.where(row), f"{format_cell(cell)} is neither 0 nor 1", name, row))
            else:
                matrix[row, position] = value
    return matrix


def _check_bad_rows(bad: Collection[BadRow], good: int, policy: OnBadRow | None) -> list[str]:
    """Return a warning of skipped rows; raise UserError when there are any and none may be."""
    if not bad:
        return []
    several = f"{len(bad)} of {len(bad) + good} rows cannot be read" if len(bad) > 1 else "1 row cannot be read"
    first = "; ".join(str(row) for row in list(bad)[:_SHOWN_ROWS])
    more = f"; and {len(bad) - _SHOWN_ROWS} more" if len(bad) > _SHOWN_ROWS else ""
    if policy is OnBadRow.SKIP and good:
        return [f"{several} and {'were' if len(bad) > 1 else 'was'} skipped: {first}{more}"]
    if len(bad) == 1:
        raise UserError(Reason.INVALID_DATA, first)
    raise UserError(Reason.INVALID_DATA, f"{several}: {first}{more}. Mend them, or let dataset.onBadRow skip them")


def _list_label_names(train: Sequence[_File], columns: TableColumns) -> tuple[str, ...]:
    """Return the label names: those that the task gives, else those of the training rows in alphabetical order."""
    given = columns.indicators or columns.label_names
    names = tuple(given) if given else tuple(sorted(set().union(*(file.label_set() for file in train))))
    if len(names) < 2:
        raise UserError(
            Reason.INVALID_DATA,
            f"{train[0].columns.file}, column {_get_label_column(columns)!r}: {len(names)} labels ({', '.join(names)}), "
            "at least 2 are needed",
        )
    return names


def _check_labels(
    files: dict[str, list[_File]],
    splits: dict[str, Split],
    names: Sequence[str],
    top_labels: int | None,
    columns: TableColumns,
) -> None:
    """Refuse labels that cannot be both learned and scored."""
    train = splits["train"].labels.sum(axis=0, dtype=np.int64)
    kept = np.argsort(-train, kind="stable")[:top_labels]
    given = "indicators" if columns.indicators else "labelNames"
    absent = [names[index] for index in np.sort(kept) if not train[index]]
    if absent:
        raise UserError(
            Reason.INVALID_DATA,
            f"dataset.columns.{given}: no training row has label {quote_names(absent)}: add rows, or remove the name",
        )
    counts = np.sum([split.labels.sum(axis=0, dtype=np.int64) for split in splits.values()], axis=0)
    single = [index for index in kept if counts[index] == 1]
    if not single:
        return
    rows = {index: int(np.flatnonzero(splits["train"].labels[:, index])[0]) for index in single}
    index, row = min(rows.items(), key=lambda item: item[1])
    others = f" (so it is with {len(single) - 1} more)" if len(single) > 1 else ""
    raise UserError(
        Reason.INVALID_DATA,
        f"{_locate_row(files['train'], row)}, column {names[index] if columns.indicators else _get_label_column(columns)!r}: only"
        f" this row has label '{names[index]}'{others}; a row to learn from and a row to score on are needed: add rows,"
        " remove the label, or let dataset.topLabels keep fewer labels",
    )


def _locate_row(files: Sequence[_File], row: int) -> str:
    for file in files:
        if row < len(file.texts):
            return file.columns.where(row if isinstance(file.rows, slice) else int(file.rows[row]))
        row -= len(file.texts)
    raise IndexError(row)


def _build_split(files: Sequence[_File], names: Sequence[str]) -> Split:
    texts = files[0].texts if len(files) == 1 else [text for file in files for text in file.texts]
    matrices = [file.matrix(names) for file in files]
    places = Places.of((file.columns.file, np.asarray(file.columns.numbers)[file.rows]) for file in files)
    return Split(texts, matrices[0] if len(matrices) == 1 else np.concatenate(matrices), places)


def _describe_unseen_labels(files: dict[str, list[_File]], names: Sequence[str]) -> list[str]:
    """Return a warning for each split with labels that no training row carries: they cannot be learned, nor scored."""
    notes = []
    for split, parts in files.items():
        unseen = {label for part in parts for label in part.label_set()}.difference(names)
        if unseen:
            count = sum(part.count_with(unseen) for part in parts)
            notes.append(
                f"{count} rows of the {split} split carry {len(unseen)} labels that no training row has"
                f" ({quote_names(sorted(unseen))}): these labels are left out of it"
            )
    return notes


def _get_label_column(columns: TableColumns) -> str:
    return columns.labels or _LABEL_COLUMNS[0]
