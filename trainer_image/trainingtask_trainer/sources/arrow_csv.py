"""Csv files in which nothing is doubtful, read by pyarrow: some five times as fast as Python's csv module.

pyarrow neither refuses text after a closing quote nor knows the lines of rows, so that all else is left to `delimited`.
"""

from array import array

import numpy as np

from trainingtask_trainer.sources.columns import Columns, Wanted, find_columns
from trainingtask_trainer.sources.data_files import DataFile

_BLOCK_BYTES = 8 << 20


def read_plain_csv(file: DataFile, wanted: Wanted | None, separator: str, *, is_quoted: bool) -> Columns | None:
    """Return the wanted columns of a csv file, None when it has to be read with more care.

    A plain file is UTF-8, each row is a line with as many cells as the header, and quotes, if they have a meaning
    (`is_quoted`), stand around whole cells.

    Raises
    ------
    UserError
        When a column is not there.
    """
    if not _is_plain(file, separator.encode(), is_quoted=is_quoted):
        return None
    import pyarrow.csv  # noqa: PLC0415 - other files need none of it

    parsing = pyarrow.csv.ParseOptions(delimiter=separator, quote_char='"' if is_quoted else False)
    with file.open() as opened:
        header = opened.readline()
    try:
        names = pyarrow.csv.read_csv(pyarrow.BufferReader(header), parse_options=parsing).column_names
        positions = find_columns(wanted, names, file.name)
        # By position, because a name may stand twice in the header.
        keys = [str(position) for position in range(len(names))]
        reading = pyarrow.csv.ReadOptions(column_names=keys, skip_rows=1)
        text = pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(keys, pyarrow.string()),
            include_columns=[str(position) for position in dict.fromkeys(positions.values())],
            strings_can_be_null=False,
        )
        with file.open() as opened:
            table = pyarrow.csv.read_csv(opened, read_options=reading, parse_options=parsing, convert_options=text)
    except (pyarrow.ArrowException, UnicodeDecodeError):
        return None
    cells = {name: table.column(str(position)).to_pylist() for name, position in positions.items()}
    # Blank rows, a header that is repeated.
    if any("" in column or names[positions[name]] in column for name, column in cells.items()):
        return None
    return Columns(file.name, cells, array("q", range(2, table.num_rows + 2)))


def _is_plain(file: DataFile, separator: bytes, *, is_quoted: bool) -> bool:
    with file.open() as opened:
        while block := opened.read(_BLOCK_BYTES):
            block += opened.readline()
            if b"\0" in block or b"\n\n" in block or (b"\r" in block and not _has_windows_lines(block)):
                return False
            if block[:1] in b"\r\n" or (is_quoted and not _is_well_quoted(block, separator)):
                return False
    return True


def _has_windows_lines(block: bytes) -> bool:
    """Return whether each carriage return ends a line that is not blank."""
    return b"\n\r" not in block and block.count(b"\r") == block.count(b"\r\n")


def _is_well_quoted(block: bytes, separator: bytes) -> bool:
    """Return whether quotes in whole lines stand around cells of one line, or twice within them."""
    characters = np.frombuffer(b"\n" + block + b"\n", dtype=np.uint8)
    quotes = np.flatnonzero(characters == ord('"'))
    if len(quotes) % 2:
        return False
    opening, closing = quotes[::2], quotes[1::2]
    # A quote that is written twice closes and opens again.
    ends = np.zeros(256, dtype=bool)
    ends[list(b'"\r\n' + separator)] = True
    if not ends[characters[opening - 1]].all() or not ends[characters[closing + 1]].all():
        return False
    lines = np.flatnonzero(characters == ord("\n"))
    return bool((np.searchsorted(lines, opening) == np.searchsorted(lines, closing)).all())
