"""JSON: a file with one object per line (jsonl), and a file that holds one array of objects (json)."""

import itertools
import json
from collections.abc import Iterable, Iterator
from typing import Any

from trainingtask_api.reasons import Reason
from trainingtask_trainer.errors import UserError
from trainingtask_trainer.sources import encoding
from trainingtask_trainer.sources.columns import BadRow, Columns, Wanted, find_columns, format_cell, normalize_name
from trainingtask_trainer.sources.data_files import DataFile
from trainingtask_trainer.sources.delimited import open_text

_ABSENT = object()


def read_json_lines(file: DataFile, wanted: Wanted, codec: str | None) -> Columns:
    """Return the wanted keys of a file with one JSON object per line; a key that a line lacks is null.

    Raises
    ------
    UserError
        When the encoding cannot be told, or no object has a wanted key.
    """
    found = encoding.check_codec(codec) if codec else encoding.detect_encoding(file.open, file.name)
    columns = Columns(file.name, {names[0]: [] for names in wanted})
    lines = _iter_objects(file, found, columns)
    return _collect(lines, wanted, columns)


def iter_json_lines(file: DataFile, wanted: Wanted, rows: int) -> Iterator[Columns]:
    """Yield the wanted keys of a file with one JSON object per line, at most `rows` at a time.

    Raises
    ------
    UserError
        When the encoding cannot be told; at the end, when no object has had a wanted key.
    """
    found = encoding.detect_encoding(file.open, file.name)
    read = Columns(file.name, {})
    objects = _iter_objects(file, found, read)
    fields = _Fields(wanted, file.name)
    while block := list(itertools.islice(objects, rows)):
        columns = Columns(file.name, {names[0]: [] for names in wanted})
        fields.append(block, columns)
        columns.bad += read.bad
        read.bad = []
        yield columns
    if read.bad:
        yield Columns(file.name, {names[0]: [] for names in wanted}, bad=read.bad)
    fields.check()


def _iter_objects(file: DataFile, codec: str, columns: Columns) -> Iterator[tuple[int, dict[str, Any]]]:
    with open_text(file, codec) as text:
        for number, line in enumerate(text, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.removeprefix("\ufeff") if number == 1 else line)
            except (ValueError, RecursionError) as error:
                columns.bad.append(BadRow(f"{columns.file}, row {number}", f"not JSON: {error}"))
                continue
            if not isinstance(row, dict):
                columns.bad.append(BadRow(f"{columns.file}, row {number}", "not a JSON object"))
                continue
            if "\\u" not in line or _is_unicode(row, number, columns):
                yield number, row


def _is_unicode(row: dict[str, Any], number: int, columns: Columns) -> bool:
    """Return whether a row can be encoded: JSON can write half of a surrogate pair, which is no character."""
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        columns.bad.append(BadRow(f"{columns.file}, row {number}", f"not Unicode text: {error}"))
        return False
    return True


def read_json(file: DataFile, wanted: Wanted, codec: str | None) -> Columns:
    """Return the wanted keys of the objects in a file that holds one JSON array; rows are counted from 1.

    Raises
    ------
    UserError
        When it does not, the encoding cannot be told, or no object has a wanted key.
    """
    found = encoding.check_codec(codec) if codec else encoding.detect_encoding(file.open, file.name)
    with open_text(file, found) as text:
        content = text.read().removeprefix("\ufeff")
    try:
        rows = json.loads(content)
    except (ValueError, RecursionError) as error:
        if isinstance(error, json.JSONDecodeError) and error.msg == "Extra data":  # an object in each line
            return read_json_lines(file, wanted, codec)
        raise UserError(Reason.INVALID_DATA, f"{file.name} is not JSON: {error}") from error
    if not isinstance(rows, list):
        raise UserError(
            Reason.INVALID_DATA,
            f"{file.name} holds no JSON array of objects, but {_describe_value(rows)}: write the array alone",
        )
    columns = Columns(file.name, {names[0]: [] for names in wanted})

    def objects() -> Iterator[tuple[int, dict[str, Any]]]:
        for number, row in enumerate(rows, start=1):
            if isinstance(row, dict):
                if "\\u" not in content or _is_unicode(row, number, columns):
                    yield number, row
            else:
                columns.bad.append(BadRow(f"{columns.file}, row {number}", "not a JSON object"))

    return _collect(objects(), wanted, columns)


def _describe_value(value: Any) -> str:
    if isinstance(value, dict):
        return f"an object with the keys {', '.join(map(repr, list(value)[:5]))}"
    return f"a {type(value).__name__}"


def _collect(rows: Iterator[tuple[int, dict[str, Any]]], wanted: Wanted, columns: Columns) -> Columns:
    fields = _Fields(wanted, columns.file)
    fields.append(rows, columns)
    fields.check()
    return columns


class _Fields:
    """The wanted keys of the objects in a file, and which of them none has had so far."""

    def __init__(self, wanted: Wanted, file: str) -> None:
        self._wanted = wanted
        self._file = file
        self._missing = {names[0]: names for names in wanted}
        self._several = [names for names in wanted if len(names) > 1]
        self._shapes: set[tuple[str, ...]] = set()
        self._seen: dict[str, None] = {}
        self._has_rows = False

    def append(self, rows: Iterable[tuple[int, dict[str, Any]]], columns: Columns) -> None:
        """Append the values of numbered objects to columns."""
        for number, row in rows:
            self._check_alternatives(row)
            if "_task_hash" in row and row.get("answer") not in (None, "accept"):
                why = f"Prodigy's answer is {format_cell(row['answer'])}: remove such rows, or let dataset.onBadRow skip them"
                columns.bad.append(BadRow(f"{columns.file}, row {number}", why))
                continue
            self._has_rows = True
            columns.numbers.append(number)
            for names in self._wanted:
                key = names[0]
                value = row[key] if key in row else _find_by_normalized_name(row, names)
                columns.cells[key].append(None if value is _ABSENT else value)
                if value is not _ABSENT:
                    self._missing.pop(key, None)
            if self._missing:
                self._seen.update(dict.fromkeys(row))

    def check(self) -> None:
        """Raise UserError when no object had a wanted key."""
        missing, seen = self._missing, self._seen
        if missing and {"annotations", "data"} <= set(seen):
            raise UserError(
                Reason.INVALID_DATA,
                f"{self._file} is Label Studio's full export, which is nested: export JSON-MIN or CSV",
            )
        if missing and "accept" in seen and any("labels" in names for names in missing.values()):
            raise UserError(
                Reason.INVALID_DATA,
                f"{self._file} is Prodigy's export, whose labels are in 'accept': set dataset.columns.labels to 'accept'",
            )
        if missing and self._has_rows:
            find_columns(list(missing.values()), list(seen), self._file)

    def _check_alternatives(self, row: dict[str, Any]) -> None:
        """Refuse an object with two keys of which only one can be meant, as in other formats."""
        if self._several and (keys := tuple(row)) not in self._shapes:
            self._shapes.add(keys)
            for names in self._several:
                if len(there := [key for key in keys if normalize_name(key) in names]) > 1:
                    find_columns([names], there, self._file)


def _find_by_normalized_name(row: dict[str, Any], names: tuple[str, ...]) -> Any:
    """Return the value of a key that differs from one of the names in case and blanks alone."""
    for name in map(normalize_name, names):
        found = [key for key in row if normalize_name(key) == name]
        if len(found) == 1:
            return row[found[0]]
    return _ABSENT
