"""Spreadsheets (xlsx): the first sheet, or the one that the task names; its first row is the header."""

from typing import Any

from trainingtask_api.reasons import Reason
from trainingtask_trainer.errors import UserError
from trainingtask_trainer.sources.columns import Columns, Wanted, find_columns, quote_names
from trainingtask_trainer.sources.data_files import DataFile


def read_spreadsheet(file: DataFile, wanted: Wanted, sheet: str | None) -> Columns:
    """Return the wanted columns of a sheet; rows are numbered as the spreadsheet shows them. An empty cell is null.

    Raises
    ------
    UserError
        When it is no spreadsheet, or the sheet or a column is not there.
    """
    from python_calamine import CalamineError, CalamineWorkbook  # noqa: PLC0415 - other files need none of it

    try:
        with file.open_seekable() as opened:
            book = CalamineWorkbook.from_filelike(opened)
        if sheet is not None and sheet not in book.sheet_names:
            raise UserError(
                Reason.INVALID_DATA, f"{file.name} has no sheet {sheet!r}, only {quote_names(book.sheet_names)}"
            )
        name = book.sheet_names[0] if sheet is None else sheet
        rows = book.get_sheet_by_name(name).to_python(skip_empty_area=False)
    except CalamineError as error:
        raise UserError(Reason.INVALID_DATA, f"{file.name} is not a spreadsheet that can be read: {error}") from error
    if not rows:
        raise UserError(Reason.INVALID_DATA, f"{file.name}, sheet {name!r} is empty")
    positions = find_columns(wanted, [str(cell) for cell in rows[0]], file.name)
    columns = Columns(file.name, {names[0]: [] for names in wanted})
    for number, row in enumerate(rows[1:], start=2):
        if any(cell != "" for cell in row):
            columns.numbers.append(number)
            for column, position in positions.items():
                columns.cells[column].append(_value(row[position]))
    if sheet is None and len(book.sheet_names) > 1:
        columns.notes.append(f"{file.name}: sheet {name!r} was read, and not {quote_names(book.sheet_names[1:])}")
    return columns


def _value(cell: Any) -> Any:
    """Return a cell as other files would hold it: nothing for an empty one, a whole number as an int."""
    if cell == "":
        return None
    return int(cell) if isinstance(cell, float) and cell.is_integer() else cell
