"""Columnar data: parquet and arrow files (also feather), and tables of pyarrow. Only the wanted columns are read."""

import json
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from trainingtask_api.reasons import Reason
from trainingtask_trainer.errors import UserError
from trainingtask_trainer.sources.columns import BadRow, Columns, Wanted, find_columns
from trainingtask_trainer.sources.data_files import DataFile


def read_columnar(file: DataFile, wanted: Wanted | None) -> Columns:
    """Return the wanted columns of a parquet or an arrow file; rows are counted from 1.

    Raises
    ------
    UserError
        When it is none, or a column is not there.
    """
    with _translate_errors(file), file.open_seekable() as opened:
        return (_read_parquet if file.kind == ".parquet" else _read_arrow)(opened, wanted, file.name)


def iter_parquet(file: DataFile, wanted: Wanted, rows: int) -> Iterator[Columns]:
    """Yield the wanted columns of a parquet file, at most `rows` at a time.

    Raises
    ------
    UserError
        As `read_columnar` does.
    """
    import pyarrow.parquet  # noqa: PLC0415

    with _translate_errors(file), file.open_seekable() as opened, pyarrow.parquet.ParquetFile(opened) as parquet:
        header = parquet.schema_arrow.names
        names = list(dict.fromkeys(header[at] for at in find_columns(wanted, header, file.name).values()))
        start = 0
        for batch in parquet.iter_batches(rows, columns=names):
            yield to_columns(pyarrow.Table.from_batches([batch]), wanted, file.name, start)
            start += batch.num_rows


@contextmanager
def _translate_errors(file: DataFile) -> Iterator[None]:
    """Raise UserError for a file that is not what its ending says, or is damaged; an error of the system stays one."""
    import pyarrow  # noqa: PLC0415 - text files need none of it

    what = "a parquet" if file.kind == ".parquet" else "an arrow"
    try:
        yield
    except (pyarrow.ArrowException, OSError, OverflowError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None and not isinstance(error, pyarrow.ArrowException):
            raise
        raise UserError(Reason.INVALID_DATA, f"{file.name} is not {what} file that can be read: {error}") from error


def to_columns(table: Any, wanted: Wanted | None, name: str, start: int = 0) -> Columns:
    """Return the wanted columns of a pyarrow table, with the names of labels for their numbers.

    Parameters
    ----------
    table, wanted
        The table, and names of the columns.
    name
        What messages call the table.
    start
        How many rows come before it.

    Raises
    ------
    UserError
        When a column is not there.
    """
    header = table.schema.names
    columns = Columns(name, {}, array("q", range(start + 1, start + table.num_rows + 1)))
    for key, position in find_columns(wanted, header, name).items():
        cells = table.column(position).to_pylist()
        names = _find_label_names(table, header[position])
        columns.cells[key] = cells if names is None else _name_labels(cells, names, columns, header[position])
    return columns


def _find_label_names(table: Any, column: str) -> Sequence[str] | None:
    """Return the names of a column's labels, None where `datasets` has put none into the schema."""
    try:
        feature = json.loads((table.schema.metadata or {})[b"huggingface"])["info"]["features"][column]
        names: Sequence[str] = feature.get("names") or feature["feature"]["names"]
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    return names


def _name_labels(cells: list[Any], names: Sequence[str], columns: Columns, column: str) -> list[Any]:
    """Return cells with the names of labels for their numbers; a number that has none makes its row bad."""
    # For a label that is missing `datasets` writes -1 or null.
    index: dict[Any, str | None] = {-1: None, None: None} | dict(enumerate(names))
    for row, cell in enumerate(cells):
        odd = [item for item in (cell if isinstance(cell, list) else [cell]) if item not in index]
        if odd:
            why = f"label index {odd[0]} is not within 0 to {len(names) - 1}, nor -1 for no label"
            columns.bad.append(BadRow(columns.where(row), why, column, row))

    def name_of(cell: Any) -> Any:
        return [name for item in cell if (name := index.get(item))] if isinstance(cell, list) else index.get(cell)

    return [name_of(cell) for cell in cells]


def _read_parquet(opened: Any, wanted: Wanted | None, name: str) -> Columns:
    import pyarrow.parquet  # noqa: PLC0415

    with pyarrow.parquet.ParquetFile(opened) as parquet:
        header = parquet.schema_arrow.names
        columns = [header[at] for at in find_columns(wanted, header, name).values()]
        return to_columns(parquet.read(columns=list(dict.fromkeys(columns))), wanted, name)


def _read_arrow(opened: Any, wanted: Wanted | None, name: str) -> Columns:
    """Read an arrow file, or a stream, which `datasets` writes under the same ending."""
    import pyarrow.ipc  # noqa: PLC0415

    is_file = opened.read(6) == b"ARROW1"
    opened.seek(0)
    with (pyarrow.ipc.open_file if is_file else pyarrow.ipc.open_stream)(opened) as reader:
        return to_columns(reader.read_all(), wanted, name)
