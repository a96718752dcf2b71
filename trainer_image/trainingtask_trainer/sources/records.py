"""JSON: a file with one object per line (jsonl), and a file that holds one array of objects (json)."""

import json
from collections.abc import Iterator
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
    seen: dict[str, None] = {}
    missing = {names[0]: names for names in wanted}
    several = [names for names in wanted if len(names) > 1]
    shapes: set[tuple[str, ...]] = set()
    for number, row in rows:
        if several and (keys := tuple(row)) not in shapes:
            shapes.add(keys)
            for names in several:
                if len(there := [key for key in keys if normalize_name(key) in names]) > 1:
                    find_columns([names], there, columns.file)  # refuses them, as in other formats
        if "_task_hash" in row and row.get("answer") not in (None, "accept"):
            why = (
                f"Prodigy's answer is {format_cell(row['answer'])}: remove such rows, or let dataset.onBadRow skip them"
            )
            columns.bad.append(BadRow(f"{columns.file}, row {number}", why))
            continue
        columns.numbers.append(number)
        for names in wanted:
            key = names[0]
            value = row[key] if key in row else _find_by_normalized_name(row, names)
            if value is _ABSENT:
                columns.cells[key].append(None)
            else:
                columns.cells[key].append(value)
                missing.pop(key, None)
        if missing:
            seen.update(dict.fromkeys(row))
    if missing and {"annotations", "data"} <= set(seen):
        raise UserError(
            Reason.INVALID_DATA,
            f"{columns.file} is Label Studio's full export, which is nested: export JSON-MIN or CSV",
        )
    if missing and "accept" in seen and any("labels" in names for names in missing.values()):
        raise UserError(
            Reason.INVALID_DATA,
            f"{columns.file} is Prodigy's export, whose labels are in 'accept': set dataset.columns.labels to 'accept'",
        )
    if missing and len(columns):
        find_columns(list(missing.values()), list(seen), columns.file)
    return columns


def _find_by_normalized_name(row: dict[str, Any], names: tuple[str, ...]) -> Any:
    """Return the value of a key that differs from one of the names in case and blanks alone."""
    for name in map(normalize_name, names):
        found = [key for key in row if normalize_name(key) == name]
        if len(found) == 1:
            return row[found[0]]
    return _ABSENT
