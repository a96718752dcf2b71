"""Delimited text: csv (RFC 4180: a quote in a quoted cell is written twice) and tsv, which has no quoting.

A tab-separated file that was written by a csv writer has quotes around cells; it is read as such where every cell that
begins with a quote is one in whole.
"""

import csv
import io
import itertools
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

from trainingtask_api.reasons import Reason
from trainingtask_trainer.errors import UserError
from trainingtask_trainer.sources import encoding
from trainingtask_trainer.sources.arrow_csv import read_plain_csv
from trainingtask_trainer.sources.columns import BadRow, Columns, Wanted, find_columns, normalize_name, quote_names
from trainingtask_trainer.sources.data_files import DataFile
from trainingtask_trainer.sources.quoting import Quoting, detect_quoting

SEPARATORS = (",", ";", "\t", "|")
_BATCH = 50_000
_QUOTED = re.compile(r'"(?:[^"]|"")*"')
_DECLARATION = re.compile(r'"?sep=(.)"?[\r\n]*')


def read_delimited(file: DataFile, wanted: Wanted | None, separator: str | None, codec: str | None) -> Columns:
    """Return the wanted columns of a delimited text file with a header line.

    Parameters
    ----------
    file
        The file.
    wanted
        Names of the columns.
    separator, codec
        As the task names them; None: found.

    Raises
    ------
    UserError
        When the encoding cannot be told, a column is not there, or no separator makes columns of the header.
    """
    layout = _detect_layout(file, wanted, separator, codec)
    is_plain = not layout.is_declared and layout.codec.startswith("utf-8")
    if is_plain and (plain := read_plain_csv(file, wanted, layout.separator, is_quoted=layout.is_quoted)):
        _note_single_quotes(plain)
        return plain
    columns = Columns(file.name, {})
    for block in _iter_blocks(file, wanted, layout, _BATCH):
        columns.append(block)
    if codec is None and not layout.codec.startswith("utf-8"):
        columns.notes.insert(0, f"{file.name} was read as {layout.codec}")
    _note_single_quotes(columns)
    return columns


def iter_delimited(file: DataFile, wanted: Wanted, rows: int) -> Iterator[Columns]:
    """Yield the wanted columns of a delimited text file with a header line, at most `rows` at a time; also of empty rows.

    Raises
    ------
    UserError
        As `read_delimited` does.
    """
    return _iter_blocks(file, wanted, _detect_layout(file, wanted, None, None), rows, keeps_empty=True)


class _Layout(NamedTuple):
    """What is found out about a file before it is read."""

    codec: str
    separator: str
    is_declared: bool
    """The first line names the separator."""
    is_quoted: bool


def _detect_layout(file: DataFile, wanted: Wanted | None, separator: str | None, codec: str | None) -> _Layout:
    csv.field_size_limit(sys.maxsize)  # a long text is no error
    found = encoding.check_codec(codec) if codec else encoding.detect_encoding(file.open, file.name)
    declared = _find_declared_separator(file, found)
    separator = separator or declared or ("\t" if file.kind == ".tsv" else _find_separator(file, found, wanted))
    is_quoted = file.kind != ".tsv" or _is_quoted_tsv(file, found, separator)
    return _Layout(found, separator, declared is not None, is_quoted)


def _iter_blocks(
    file: DataFile, wanted: Wanted | None, layout: _Layout, rows: int, *, keeps_empty: bool = False
) -> Iterator[Columns]:
    """Yield the wanted columns, at least once; the first of them has the notes."""
    codec, separator = layout.codec, layout.separator
    quoting = _detect_quoting(file, codec, separator, int(layout.is_declared)) if layout.is_quoted else None
    notes = [f"{file.name} was read with {quoting.describe()}"] if quoting and quoting != Quoting() else []
    try:
        with open_text(file, codec) as text:
            if quoting is None:
                reader = csv.reader(text, delimiter=separator, quoting=csv.QUOTE_NONE, strict=True)
            else:
                reader = quoting.read(text, separator)
            if layout.is_declared:
                next(reader)
            for block in _read_blocks(wanted, file.name, reader, rows, keeps_empty=keeps_empty):
                block.notes, notes = notes, []
                yield block
    except csv.Error as error:  # in the header; of later rows each is counted
        raise UserError(Reason.INVALID_DATA, f"{file.name}, header: {error}") from error


def _detect_quoting(file: DataFile, codec: str, separator: str, skipped: int) -> Quoting:
    return detect_quoting(lambda: itertools.islice(_iter_lines(file, codec), skipped, None), separator, file.name)


def _note_single_quotes(columns: Columns) -> None:
    """Add a note on columns whose cells all stand in single quotes, which are text in csv."""
    for name, cells in columns.cells.items():
        if cells and all(len(cell) > 1 and cell[0] == cell[-1] == "'" for cell in cells):
            columns.notes.append(
                f"{columns.file}, column '{name}': each cell is in single quotes, which are taken as text"
            )


@contextmanager
def open_text(file: DataFile, codec: str) -> Iterator[io.TextIOWrapper]:
    """Open a file as text, with its line ends as they are; raise UserError where it is none in this encoding."""
    try:
        with file.open() as binary, io.TextIOWrapper(binary, encoding=codec, newline="") as text:
            yield text
    except UnicodeError as error:  # UTF-16's for a mark that is not there is no UnicodeDecodeError
        raise UserError(Reason.INVALID_DATA, f"{file.name} is not {codec} text: {error}") from error


def _read_blocks(wanted: Wanted | None, file: str, reader: Any, most: int, *, keeps_empty: bool) -> Iterator[Columns]:
    header = next(reader, None)
    if header is None:
        raise UserError(Reason.INVALID_DATA, f"{file} is empty")
    header[0] = header[0].removeprefix("\ufeff")
    positions = find_columns(wanted, header, file)
    yield Columns(file, {name: [] for name in positions})
    for rows, numbers, error in _iter_batches(reader, file, most):
        block = Columns(file, {})
        if error:
            block.bad.append(BadRow(f"{file}, row {reader.line_num}", error))
        if set(map(len, rows)) - {len(header)}:
            rows, numbers = _drop_ragged_rows(rows, numbers, header, block)  # noqa: PLW2901
        # What `cat` leaves of other files; what Excel leaves at the end.
        if header in rows or not (keeps_empty or all(map(any, rows))):
            repeated = [number for row, number in zip(rows, numbers, strict=True) if row == header]
            block.bad.extend(BadRow(f"{file}, row {number}", "repeats the header") for number in repeated)
            kept = [index for index, row in enumerate(rows) if (keeps_empty or any(row)) and row != header]
            rows, numbers = [rows[index] for index in kept], [numbers[index] for index in kept]  # noqa: PLW2901
        block.numbers.extend(numbers)
        block.cells = {name: [row[position] for row in rows] for name, position in positions.items()}
        yield block


def _iter_batches(reader: Any, file: str, most: int) -> Iterator[tuple[list[list[str]], Sequence[int], str]]:
    """Yield rows, their line numbers, and what is wrong with the row that comes after them."""
    while True:
        first = reader.line_num + 1
        rows: list[list[str]] = []
        error = ""
        try:
            rows.extend(itertools.islice(reader, most))  # those before an error stay
        except csv.Error as problem:
            error = str(problem)
            start = first + sum(1 + sum(map(_count_line_breaks, row)) for row in rows)
            if reader.line_num > start:  # fails under onBadRow: skip as well: the rows within are lost
                raise UserError(
                    Reason.INVALID_DATA,
                    f"{file}, row {start}: a quote that opens here closes nowhere, or within a cell in row"
                    f" {reader.line_num}: write each quote in a quoted cell twice",
                ) from problem
            if "expected after" in error:
                error = "a quote closes before the cell ends: write each quote in a cell twice"
        if not rows and not error:
            return
        numbers: Sequence[int] = range(first, first + len(rows))
        if error or reader.line_num != first + len(rows) - 1 or not all(rows):  # cells of several lines, blank lines
            ends = itertools.accumulate(1 + sum(_count_line_breaks(cell) for cell in row) for row in rows)
            numbers = [first - 1 + end for end in ends]
            kept = [index for index, row in enumerate(rows) if row]
            rows, numbers = [rows[index] for index in kept], [numbers[index] for index in kept]
        yield rows, numbers, error


def _count_line_breaks(cell: str) -> int:
    return cell.count("\n") + cell.count("\r") - cell.count("\r\n")


def _drop_ragged_rows(
    rows: list[list[str]], numbers: Sequence[int], header: Sequence[str], columns: Columns
) -> tuple[list[list[str]], Sequence[int]]:
    full, kept = [], []
    for row, number in zip(rows, numbers, strict=True):
        if len(row) == len(header):
            full.append(row)
            kept.append(number)
        else:
            why = f"{len(row)} cells, and the header has {len(header)} columns ({quote_names(header)})"
            columns.bad.append(BadRow(f"{columns.file}, row {number}", why))
    return full, kept


def _find_declared_separator(file: DataFile, codec: str) -> str | None:
    """Return the separator that a first line such as ``sep=;`` names, which Excel reads and others write for it."""
    declared = _DECLARATION.fullmatch(_read_first_line(file, codec))
    return declared[1] if declared else None


def _read_first_line(file: DataFile, codec: str) -> str:
    return next(_iter_lines(file, codec), "").removeprefix("\ufeff")


def _find_separator(file: DataFile, codec: str, wanted: Wanted | None) -> str:
    """Return the separator that makes the wanted columns out of the header."""
    line = _read_first_line(file, codec)
    if not line.strip():
        raise UserError(
            Reason.INVALID_DATA, f"{file.name} is empty, or begins with a blank line where its header should be"
        )

    def columns_by(separator: str) -> list[str]:
        return [normalize_name(name) for name in next(csv.reader([line.strip("\r\n")], delimiter=separator))]

    fitting = [
        separator
        for separator in SEPARATORS
        if all(set(map(normalize_name, names)) & set(columns_by(separator)) for names in wanted or ())
    ]
    if fitting:
        return fitting[0]
    return max(SEPARATORS, key=lambda separator: len(columns_by(separator)))  # its columns are named in the message


def _is_quoted_tsv(file: DataFile, codec: str, separator: str) -> bool:
    """Return whether a tab-separated file was written with quotes.

    It was when each cell that begins with a quote is quoted in whole; else when its rows have as many cells as the header
    with quotes, and have not without.
    """
    cells = [
        cell
        for line in _iter_lines(file, codec)
        if '"' in line
        for cell in line.rstrip("\r\n").split(separator)
        if cell.startswith('"')
    ]
    if not cells or all(map(_QUOTED.fullmatch, cells)):
        return bool(cells)
    return not _is_uniform(file, codec, separator, csv.QUOTE_NONE) and _is_uniform(
        file, codec, separator, csv.QUOTE_MINIMAL
    )


def _is_uniform(file: DataFile, codec: str, separator: str, quoting: Literal[0, 3]) -> bool:
    rows = csv.reader(_iter_lines(file, codec), delimiter=separator, quoting=quoting, strict=True)
    try:
        return len({len(row) for row in rows if row}) == 1
    except csv.Error:
        return False


def _iter_lines(file: DataFile, codec: str) -> Iterator[str]:
    with open_text(file, codec) as text:
        yield from text
