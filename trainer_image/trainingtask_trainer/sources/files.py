"""The wanted columns of a file, whatever its format."""

from collections.abc import Generator

from trainingtask_api.dataset import FileFormat
from trainingtask_api.reasons import Reason
from trainingtask_trainer.errors import UserError
from trainingtask_trainer.sources.columnar import iter_parquet, read_columnar
from trainingtask_trainer.sources.columns import Columns, Wanted
from trainingtask_trainer.sources.data_files import DataFile, translate_archive_errors
from trainingtask_trainer.sources.delimited import iter_delimited, read_delimited
from trainingtask_trainer.sources.records import iter_json_lines, read_json, read_json_lines
from trainingtask_trainer.sources.spreadsheet import read_spreadsheet


def read_columns(file: DataFile, wanted: Wanted, form: FileFormat) -> Columns:
    """Return the wanted columns of a file of one of `data_files.KINDS`.

    Raises
    ------
    UserError
        When the file cannot be read as what its ending says, or has no such column.
    """
    with translate_archive_errors(file):
        match file.kind:
            case ".csv" | ".tsv":
                return read_delimited(file, wanted, form.separator, form.encoding)
            case ".jsonl":
                return read_json_lines(file, wanted, form.encoding)
            case ".json":
                return read_json(file, wanted, form.encoding)
            case ".xlsx":
                return read_spreadsheet(file, wanted, form.sheet)
            case _:
                return read_columnar(file, wanted)


def iter_columns(file: DataFile, wanted: Wanted, rows: int) -> Generator[Columns]:
    """Yield the wanted columns of a csv, tsv, jsonl or parquet file, at most `rows` rows at a time, in bounded memory.

    Raises
    ------
    UserError
        When the file cannot be read as what its ending says, has no such column, or is of another format.
    """
    readers = {
        ".csv": iter_delimited,
        ".tsv": iter_delimited,
        ".jsonl": iter_json_lines,
        ".parquet": iter_parquet,
    }
    if file.kind not in readers:
        raise UserError(
            Reason.INVALID_DATA,
            f"{file.name} ends in '{file.ending}', which cannot be read piece by piece: convert it to one of"
            f" {', '.join(readers)}",
        )
    with translate_archive_errors(file):
        yield from readers[file.kind](file, wanted, rows)
