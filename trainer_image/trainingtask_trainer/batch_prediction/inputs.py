"""The texts of a file, piece by piece."""

import hashlib
from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from trainingtask_api.formatting import remove_query
from trainingtask_api.reasons import Reason
from trainingtask_trainer.errors import UserError
from trainingtask_trainer.sources.columns import describe_non_text, join_texts
from trainingtask_trainer.sources.data_files import DataFile
from trainingtask_trainer.sources.files import iter_columns
from trainingtask_trainer.storage.downloads import open_downloads

_FIELD = "--input"
_SCHEMES = ("https", "s3", "gs", "az")


@contextmanager
def fetch_input(address: str) -> Iterator[Path]:
    """Yield the input as a local file: itself, or a download that lasts while entered.

    Raises
    ------
    UserError
        When there is no such file, or access is refused.
    Fault
        When it cannot be reached.
    """
    scheme, separator, _ = address.partition("://")
    if separator and scheme not in _SCHEMES:
        raise UserError(
            Reason.DATASET_NOT_FOUND,
            f"{_FIELD} '{remove_query(address)}' is no place of a file: name a path, or {'://, '.join(_SCHEMES)}://",
        )
    with open_downloads() as downloads:
        file = downloads.fetch(address, _FIELD) if separator else Path(address)
        if not file.is_file():
            raise UserError(
                Reason.DATASET_NOT_FOUND, f"{_FIELD} '{remove_query(address)}' is not a file: name a single one"
            )
        yield file


def iter_texts(file: DataFile, columns: Sequence[str], rows: int) -> Generator[list[str]]:
    """Yield the texts of `rows` rows at a time, fewer at the end: several columns joined, "" of a row without text.

    Raises
    ------
    UserError
        When the file or a row cannot be read, a cell holds something else than text, or there is no such column.
    """
    waiting: list[str] = []
    with closing(iter_columns(file, [(column,) for column in columns], rows)) as blocks:
        for block in blocks:
            for where, cells in block.rows():
                for column, cell in zip(block.cells, cells, strict=True):
                    if (what := describe_non_text(cell)) is not None:
                        raise UserError(Reason.INVALID_DATA, f"{where}, column '{column}' is {what}: give text")
                waiting.append(join_texts(cells))
            while len(waiting) >= rows:
                yield waiting[:rows]
                del waiting[:rows]
    if waiting:
        yield waiting


def count_rows(file: DataFile, columns: Sequence[str], rows: int) -> int:
    """Return the number of rows; all of them are read, `rows` at a time, so that a bad one is found before hours of work.

    Raises
    ------
    UserError
        As `iter_texts` does; when there is no row.
    """
    count = sum(map(len, iter_texts(file, columns, rows)))
    if not count:
        raise UserError(Reason.INVALID_DATA, f"{file.name} has no rows: nothing can be predicted")
    return count


def compute_digest(path: Path, without: Collection[Path] = ()) -> str:
    """Return the SHA-256 of a file, or of the names and contents of all files in a folder but some."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    return _compute_folder_digest(path, (file for file in path.rglob("*") if file not in without))


def compute_code_digest(folder: Path) -> str:
    """Return the SHA-256 of the names and contents of a folder's Python files.

    A ConfigMap's are also in a hidden folder, whose name differs between pods.
    """
    files = folder.rglob("*.py")
    return _compute_folder_digest(
        folder, (file for file in files if not any(part.startswith(".") for part in file.relative_to(folder).parts))
    )


def _compute_folder_digest(path: Path, found: Iterable[Path]) -> str:
    files = sorted(file for file in found if file.is_file())
    lines = (f"{file.relative_to(path)} {compute_digest(file)}\n" for file in files)
    return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()
