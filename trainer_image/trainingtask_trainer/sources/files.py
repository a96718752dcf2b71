"""The wanted columns of a file, whatever its format."""

from trainingtask_api.dataset import FileFormat
from trainingtask_trainer.sources.columnar import read_columnar
from trainingtask_trainer.sources.columns import Columns, Wanted
from trainingtask_trainer.sources.data_files import DataFile, translate_archive_errors
from trainingtask_trainer.sources.delimited import read_delimited
from trainingtask_trainer.sources.records import read_json, read_json_lines
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
