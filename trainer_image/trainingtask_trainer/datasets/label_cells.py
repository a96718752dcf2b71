"""Cells of a label column -> labels: delimited strings, lists (native, JSON, Python's repr), 0/1 vectors, Label Studio's choices.

The format is found from all cells together, and no cell is split that looks like another one.
"""

import ast
import io
import json
import re
import tokenize
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainingtask_api.dataset import LabelFormat
from trainingtask_api.reasons import Reason
from trainingtask_trainer.datasets.base import LabelMatrix, encode_multi_hot
from trainingtask_trainer.errors import UserError
from trainingtask_trainer.sources.columns import BadRow, Columns, format_cell

_MOST_CHARACTERS = 100_000  # of a cell that is parsed as a list
_VECTOR = re.compile(r"\[\s*[01](?:\.0*)?(?:[\s,]+[01](?:\.0*)?)*\s*\]")  # as numpy prints one, too
_NUMBERS = re.compile(r"[^\s,;|]+")
_DELIMITERS = (",", ";", "|")
_EMPTY = ("", "set()", "frozenset()")
_WRAPPED = re.compile(r"(?:frozenset|array|Index)\(([\[({].*?[\])}])(?:, dtype=.*)?\)", re.DOTALL)
_SCALAR = re.compile(r"np\.\w+\(([^()]*)\)")  # as numpy 2 prints the items of a list


class _CellKind(StrEnum):
    """x, as a message says it."""

    TEXT = "a delimited string"
    LIST = "a list"
    CHOICES = "Label Studio's choices"


@dataclass(frozen=True)
class _Cell:
    kind: _CellKind | None = None
    """None: no labels."""
    values: tuple[str, ...] = ()
    why: str = ""
    """What is wrong with it."""


@dataclass
class LabelColumn:
    """Labels of the rows of a file.

    Attributes
    ----------
    codes
        Position of each row's labels in `sets`, of shape [rows]; -1 for a row that is in `bad`.
    sets
        The different sets of labels that rows carry.
    bad
        Rows whose cell cannot be read.
    """

    codes: NDArray[np.int32]
    sets: list[tuple[str, ...]]
    bad: list[BadRow]

    def matrix(self, names: Sequence[str], rows: NDArray[np.intp] | slice) -> LabelMatrix:
        """Return the labels of these rows as a 0/1 matrix of shape [rows, names]; other labels are left out."""
        index = {name: position for position, name in enumerate(names)}
        sets = encode_multi_hot(
            ([index[label] for label in labels if label in index] for labels in self.sets), len(names)
        )
        return sets[self.codes[rows]]

    def names(self, rows: NDArray[np.intp] | slice) -> set[str]:
        """Return the labels that these rows carry."""
        return {label for code in np.unique(self.codes[rows]) for label in self.sets[code]}

    def count_with(self, labels: set[str], rows: NDArray[np.intp] | slice) -> int:
        """Return how many of these rows carry one of the labels."""
        return int(np.isin(self.codes[rows], [c for c, carried in enumerate(self.sets) if labels & set(carried)]).sum())


def parse_labels(
    columns: Columns, column: str, *, delimiter: str, form: LabelFormat | None, names: Sequence[str] | None
) -> LabelColumn:
    """Return the labels in the cells of a column.

    Parameters
    ----------
    columns, column
        The file, and which of its columns.
    delimiter
        Separates the labels of a delimited string.
    form
        Format of the cells; None: found from them.
    names
        Labels of the positions of a 0/1 vector.

    Raises
    ------
    UserError
        When the cells look like several formats, or like 0/1 vectors whose names are not given.
    """
    codes, values = _factorize(columns.cells[column])
    # A single label is taken as it is; everything else may be a list that is written as text.
    cells = [_classify(value, is_literal=form is not LabelFormat.SINGLE) for value in values]
    found = form or _detect_format(cells, values, codes, columns, column, delimiter=delimiter, named=names is not None)
    sets, bad_codes = [], {}
    for code, cell in enumerate(cells):
        labels, why = _extract_labels(cell, found, delimiter, names, is_named=form is not None)
        sets.append(labels)
        if why:
            bad_codes[code] = f"{format_cell(values[code])} {why}"
    bad = []
    if bad_codes:
        for row in np.flatnonzero(np.isin(codes, list(bad_codes))).tolist():
            bad.append(BadRow(columns.where(row), bad_codes[int(codes[row])], column, row))
            codes[row] = -1
        sets.append(())  # what -1 stands for
    return LabelColumn(codes, sets, bad)


def _factorize(cells: Sequence[Any]) -> tuple[NDArray[np.int32], list[Any]]:
    """Return the position of each cell's value among the different values, of shape [rows], and these."""
    # Equal values of several types, such as 1 and True, are different cells; lists have no hash.
    keys = cells if all(type(cell) is str for cell in cells) else [(type(cell), repr(cell)) for cell in cells]
    index = {key: code for code, key in enumerate(dict.fromkeys(keys))}
    codes = np.fromiter(map(index.__getitem__, keys), dtype=np.int32, count=len(cells))
    first = np.unique(codes, return_index=True)[1]
    return codes, [cells[row] for row in first]


def _classify(value: Any, *, is_literal: bool = True) -> _Cell:
    if value is None or value != value or (isinstance(value, str) and value.strip() in _EMPTY):  # noqa: PLR0124 - NaN
        return _Cell()
    if isinstance(value, str):
        text = value.strip()
        wrapped = _WRAPPED.fullmatch(text) if text[-1] == ")" else None
        literal = wrapped[1] if wrapped else text
        if is_literal and literal[0] in "[({" and literal[-1] in "])}":
            return _classify_literal(literal)
        return _Cell(_CellKind.TEXT, (text,))
    if isinstance(value, dict):
        choices = value.get("choices")
        choices = [choices] if isinstance(choices, str) else choices
        if isinstance(choices, list) and all(isinstance(choice, str) for choice in choices):
            return _Cell(_CellKind.CHOICES, _normalize_labels(choices))
        return _Cell(why="is no list of labels")
    if isinstance(value, list | tuple | set | frozenset):
        return _classify_list(list(value))
    if isinstance(value, int):
        return _Cell(_CellKind.TEXT, (str(value),))
    if isinstance(value, float) and value.is_integer():
        return _Cell(_CellKind.TEXT, (str(int(value)),))
    return _Cell(why="is neither a list of labels nor a delimited string")


def _classify_list(items: list[Any]) -> _Cell:
    if items and all(isinstance(item, dict) for item in items):  # choices of several annotators, or of several fields
        parts = [_classify(item) for item in items]
        if all(part.kind is _CellKind.CHOICES for part in parts):
            return _Cell(_CellKind.CHOICES, _normalize_labels(label for part in parts for label in part.values))
    if items and all(map(_is_span, items)):
        return _Cell(why="holds spans within the text: export labels of whole texts (text classification)")
    values = []
    for item in items:
        if isinstance(item, bool) or (isinstance(item, float) and item.is_integer()):
            values.append(str(int(item)))
        elif isinstance(item, str | int):
            values.append(str(item))
        else:
            return _Cell(why="is no list of labels")
    if any("\ud800" <= character <= "\udfff" for value in values for character in value):
        return _Cell(why="is not Unicode text")  # JSON can write half of a surrogate pair
    return _Cell(_CellKind.LIST, tuple(values)) if values else _Cell()


def _is_span(item: Any) -> bool:
    """Return whether an item labels a part of a text, as doccano, Prodigy and Label Studio write it."""
    if isinstance(item, dict):
        return {"start", "end"} <= item.keys() or {"start_offset", "end_offset"} <= item.keys()
    return isinstance(item, list | tuple) and [type(part) for part in item] == [int, int, str]


def _classify_literal(text: str) -> _Cell:
    """Return what a string is that looks like a list, a tuple, a set or an object."""
    if len(text) > _MOST_CHARACTERS:
        return _Cell(why=f"has {len(text)} characters, at most {_MOST_CHARACTERS} are read as a list")
    if _VECTOR.fullmatch(text):
        return _Cell(_CellKind.LIST, tuple(re.findall(r"(?<![\d.])[01]", text)))
    for read, literal in (
        (json.loads, text),
        (_parse_python_list, text),
        (_parse_python_list, _SCALAR.sub(r"\1", text)),  # last, because a label may be np.mean(x)
    ):
        try:
            return _classify(read(literal))
        except (ValueError, SyntaxError, MemoryError, RecursionError, tokenize.TokenError):
            continue
    why = (
        "looks like a list, and is none that JSON or Python reads: quote its items, or set dataset.columns.labelFormat"
    )
    return _Cell(_CellKind.TEXT, (text,), why=why)


def _parse_python_list(text: str) -> list[Any]:
    """Return the items of a list, a tuple or a set as Python prints it, or of an array as numpy does, without commas.

    Raises
    ------
    ValueError, SyntaxError, tokenize.TokenError
        When there is anything in it but text and numbers.
    """
    items = []
    end = (0, 0)
    for token in tokenize.generate_tokens(io.StringIO(" ".join(text[1:-1].split())).readline):
        if token.type in (tokenize.STRING, tokenize.NUMBER):
            if token.start == end:
                raise ValueError(f"nothing between items before {token.string!r}")  # such as 01
            items.append(ast.literal_eval(token.string))
            end = token.end
        elif token.type not in (tokenize.NEWLINE, tokenize.NL, tokenize.ENDMARKER) and token.string != ",":
            raise ValueError(f"{token.string!r} in a list")
    return items


def _detect_format(
    cells: Sequence[_Cell],
    values: Sequence[Any],
    codes: NDArray[np.int32],
    columns: Columns,
    column: str,
    *,
    delimiter: str,
    named: bool,
) -> LabelFormat:
    kinds: dict[_CellKind, list[int]] = {}
    for code, cell in enumerate(cells):
        if cell.kind is not None and not cell.why:
            kinds.setdefault(cell.kind, []).append(code)
    if named:
        return LabelFormat.MULTI_HOT
    split = [code for code in kinds.get(_CellKind.TEXT, []) if delimiter in cells[code].values[0]]
    if _CellKind.LIST in kinds and (split or _CellKind.CHOICES in kinds):
        others = split or kinds[_CellKind.CHOICES]
        first = np.unique(codes, return_index=True)[1]  # the first row of each
        examples = [
            f"{format_cell(values[code])} (row {columns.numbers[first[code]]}) is {cells[code].kind}"
            for code in (kinds[_CellKind.LIST][0], *others[:1], *kinds[_CellKind.LIST][1:], *others[1:])[:3]
        ]
        raise UserError(
            Reason.INVALID_DATA,
            f"{columns.file}, column {column!r} holds labels in several formats: {', '.join(examples)}: write all in one, or"
            " name it in dataset.columns.labelFormat and let dataset.onBadRow skip the others",
        )
    if _CellKind.CHOICES in kinds:
        return LabelFormat.CHOICES
    found = LabelFormat.LIST if _CellKind.LIST in kinds else LabelFormat.DELIMITED
    filled = [code for kind in kinds.values() for code in kind]
    vectors = [vector for code in filled if (vector := _parse_vector(cells[code]))]
    widths = {len(vector) for vector in vectors}
    # A label set has no label twice.
    if any(len(vector) > len(set(vector)) for vector in vectors) or (len(vectors) == len(filled) and len(widths) == 1):
        width = max(widths)
        raise UserError(
            Reason.INVALID_DATA,
            f"{columns.file}, column {column!r}: {format_cell(values[next(code for code in filled if _parse_vector(cells[code]))])} looks like a 0/1 vector over"
            f" {width} labels: give their names in dataset.columns.labelNames; if there is a column for each"
            " label, name these in dataset.columns.indicators; if 0 and 1 are labels, set dataset.columns.labelFormat",
        )
    if found is LabelFormat.DELIMITED and not split:
        _check_other_delimiters([cells[code].values[0] for code in filled], columns, column, delimiter)
    return found


def _check_other_delimiters(texts: Sequence[str], columns: Columns, column: str, delimiter: str) -> None:
    """Refuse cells whose labels are separated by another delimiter than the one that the task names.

    They are when the parts that it makes are found in several cells, as labels are: half of them, or all of one cell.
    """
    for other in _DELIMITERS:
        several = [text for text in texts if other in text] if other != delimiter else []
        counts = Counter(part for text in texts for part in _normalize_labels(text.split(other)))
        parts = {part for text in several for part in _normalize_labels(text.split(other))}
        shared = sum(counts[part] > 1 for part in parts)
        if (len(several) > 1 and 2 * shared >= len(parts)) or 1 < shared == len(parts):
            look = "look like several labels each" if len(several) > 1 else "looks like several labels"
            raise UserError(
                Reason.INVALID_DATA,
                f"{columns.file}, column {column!r}: {', '.join(map(format_cell, several[:3]))} {look}: set"
                f" dataset.columns.delimiter to '{other}' (it is '{delimiter}'), or"
                " dataset.columns.labelFormat to 'single' if each is one label",
            )


def _split_text(cell: _Cell, delimiter: str) -> tuple[str, ...]:
    return tuple(cell.values[0].split(delimiter)) if cell.kind is _CellKind.TEXT else cell.values


def _parse_vector(cell: _Cell) -> tuple[str, ...]:
    """Return the 0s and 1s of a cell that holds two or more and nothing else."""
    values = tuple(_NUMBERS.findall(cell.values[0])) if cell.kind is _CellKind.TEXT else cell.values
    return values if len(values) > 1 and {"0", "1"} >= set(values) else ()


def _extract_labels(
    cell: _Cell, form: LabelFormat, delimiter: str, names: Sequence[str] | None, *, is_named: bool
) -> tuple[tuple[str, ...], str]:
    """Return the labels of a cell in this format, and what is wrong with it."""
    values = cell.values
    if cell.kind is None:
        return (), cell.why
    if form is LabelFormat.MULTI_HOT:
        if cell.kind is _CellKind.TEXT:
            values = tuple(_NUMBERS.findall(cell.values[0]))
        names = names or ()
        if len(values) != len(names) or not {"0", "1"} >= set(values):
            return (), f"is no vector of {len(names)} times 0 or 1, as dataset.columns.labelNames has names"
        return tuple(name for name, value in zip(names, values, strict=True) if value == "1"), ""
    if cell.kind is _CellKind.TEXT:
        if form is LabelFormat.DELIMITED:
            values = _split_text(cell, delimiter)
        elif form is LabelFormat.LIST and delimiter in cell.values[0]:
            return (), "is no list"
        # Where the task says that cells are text, one that is no list after all is text.
        why = "" if is_named and form in (LabelFormat.SINGLE, LabelFormat.DELIMITED) else cell.why
    else:
        expected = (
            _CellKind.LIST
            if form is LabelFormat.LIST
            else _CellKind.CHOICES
            if form is LabelFormat.CHOICES
            else _CellKind.TEXT
        )
        why = "" if cell.kind is expected else f"is {cell.kind}, and dataset.columns.labelFormat is '{form}'"
    return _normalize_labels(values), why


def _normalize_labels(labels: Iterable[str]) -> tuple[str, ...]:
    """Return labels once each; the same letters in another encoding of accents are the same label."""
    return tuple(dict.fromkeys(unicodedata.normalize("NFC", label) for label in map(str.strip, labels) if label))
