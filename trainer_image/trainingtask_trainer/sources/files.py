"""Rows of files: delimited text, JSON lines and parquet, each with its number for messages.

A row's number is the line it ends on in a text file, whose header is line 1; in parquet rows are counted from 1.
"""

import csv
import itertools
import json
import sys
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from typing import Any

from trainingtask_api.reasons import Reason
from trainingtask_trainer.errors import UserError

Row = tuple[int, dict[str, Any]]
# Keys match numbers of any type: 1, 1.0 and True are equal.
_INDICATOR_VALUES = {1: True, 0: False, "1": True, "0": False, "1.0": True, "0.0": False, "true": True, "false": False}


def read_delimited(path: Path, delimiter: str = ",", encoding: str = "utf-8-sig") -> Iterator[Row]:
    """Yield the rows of a delimited text file with a header line.

    Raises
    ------
    UserError
        When a row has more or fewer cells than the header, or the text is not in this encoding.
    """
    csv.field_size_limit(sys.maxsize)  # long texts are allowed
    with path.open(encoding=encoding, newline="") as file:
        reader = csv.DictReader(file, delimiter=delimiter)
        try:
            for row in reader:
                if None in row or None in row.values():
                    raise UserError(
                        Reason.INVALID_DATA,
                        f"{path}, row {reader.line_num}: the number of columns is not the header's "
                        f"{len(reader.fieldnames or ())}",
                    )
                yield reader.line_num, row
        except csv.Error as error:
            raise UserError(Reason.INVALID_DATA, f"{path}, row {reader.line_num}: {error}") from error
        except UnicodeDecodeError as error:
            raise _create_encoding_error(path, error) from error


def read_json_lines(path: Path) -> Iterator[Row]:
    """Yield the objects of a file with one JSON object per line; raises UserError where a line is none."""
    with path.open(encoding="utf-8-sig") as file:
        try:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, _parse_json_object(line, f"{path}, row {number}")
        except UnicodeDecodeError as error:
            raise _create_encoding_error(path, error) from error


def _parse_json_object(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(Reason.INVALID_DATA, f"{where}: not JSON: {error}") from error
    if not isinstance(row, dict):
        raise UserError(Reason.INVALID_DATA, f"{where}: not a JSON object")
    try:
        if "\\u" in line:  # JSON can hold half of a surrogate pair, which is no character
            json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise UserError(Reason.INVALID_DATA, f"{where}: not Unicode text: {error}") from error
    return row


def _create_encoding_error(path: Path, error: UnicodeDecodeError) -> UserError:
    return UserError(Reason.INVALID_DATA, f"{path} is not UTF-8 text: {error}")


def read_parquet(path: Path) -> Iterator[Row]:
    """Yield the rows of a parquet file; raises UserError when it is none."""
    import pyarrow  # noqa: PLC0415 - unused for text files
    import pyarrow.parquet  # noqa: PLC0415

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            batches = (batch.to_pylist() for batch in file.iter_batches())
            yield from enumerate(itertools.chain.from_iterable(batches), start=1)
    except pyarrow.ArrowInvalid as error:
        raise UserError(Reason.INVALID_DATA, f"{path} is not a parquet file: {error}") from error


READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".csv": read_delimited,
    ".tsv": lambda path: read_delimited(path, "\t"),
    ".jsonl": read_json_lines,
    ".parquet": read_parquet,
}
"""Readers by file ending."""


def get_cell(row: dict[str, Any], column: str, where: str) -> Any:
    """Return the value in a column; `where` names the row in the UserError that is raised when there is no such column."""
    if column not in row:
        raise UserError(Reason.INVALID_DATA, f"{where}: no column '{column}', only {', '.join(row)}")
    return row[column]


def is_set(row: dict[str, Any], column: str, where: str) -> bool:
    """Return whether an indicator column holds 1; raises UserError when it is not there or holds neither 0 nor 1."""
    value = get_cell(row, column, where)
    key = value.strip().lower() if isinstance(value, str) else value
    on = _INDICATOR_VALUES.get(key) if isinstance(key, Hashable) else None
    if on is None:
        raise UserError(Reason.INVALID_DATA, f"{where}, column '{column}': {value!r} is neither 0 nor 1")
    return on


def get_text(row: dict[str, Any], column: str, where: str) -> str:
    """Return the text in a column; raises UserError when it is not there, is no string or blank."""
    value = get_cell(row, column, where)
    if not isinstance(value, str) or not value.strip():
        raise UserError(Reason.INVALID_DATA, f"{where}, column '{column}': {value!r} is not a text")
    return value
