"""Which files of a folder are the rows of which split: by the names that people and other tools give them."""

import gzip
import io
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from trainingtask_api.reasons import Reason
from trainingtask_trainer.errors import UserError, join_names

KINDS = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".arrow", ".xlsx")
_OTHER_NAMES = {".tab": ".tsv", ".ndjson": ".jsonl", ".pq": ".parquet", ".feather": ".arrow"}
_COMPRESSIONS = (".gz", ".zst")
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "eval": "test",
    "evaluation": "test",
}
# As the hub and Spark number the parts of a split: train-00000-of-00002, part-00000-<uuid>-c000.
_OF = re.compile(r"(?P<name>.*?)[-_.]?(?P<part>\d{1,6})-of-(?P<parts>\d{1,6})(?:-[0-9a-f]{8,40})?")
_NUMBERED = re.compile(r"(?P<name>[a-z]+)[-_.]?\d{1,8}", re.ASCII)
_PART = re.compile(r"(?:part|shard|chunk|data)[-_.]?\d.*|\d{1,8}", re.ASCII)


@dataclass(frozen=True)
class DataFile:
    """A file of rows, or one in a zip archive.

    Attributes
    ----------
    path
        The file, or the archive.
    member
        Name of the file in the archive.
    """

    path: Path
    member: str | None = None

    @property
    def name(self) -> str:
        """Name for messages."""
        return f"{self.path}/{self.member}" if self.member else str(self.path)

    @property
    def stem(self) -> str:
        """Name without folders and endings, in lower case."""
        name = Path(self.member or self.path.name).name.lower()
        return name.removesuffix(self.compression).removesuffix(self.ending)

    @property
    def compression(self) -> str:
        """``.gz``, ``.zst`` or nothing."""
        return next((end for end in _COMPRESSIONS if (self.member or self.path.name).lower().endswith(end)), "")

    @property
    def ending(self) -> str:
        """Ending of the file as it would be without compression, in lower case."""
        return Path(Path(self.member or self.path.name).name.lower().removesuffix(self.compression)).suffix

    @property
    def kind(self) -> str:
        """Format of the file: one of `KINDS`, or another ending."""
        return _OTHER_NAMES.get(self.ending, self.ending)

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Open the file at its start, without its compression."""
        with ExitStack() as stack:
            file: BinaryIO = stack.enter_context(self.path.open("rb"))
            if self.member:
                file = cast(
                    "BinaryIO", stack.enter_context(stack.enter_context(zipfile.ZipFile(file)).open(self.member))
                )
            if self.compression == ".gz":
                file = cast("BinaryIO", stack.enter_context(gzip.GzipFile(fileobj=file)))
            elif self.compression == ".zst":
                import pyarrow  # noqa: PLC0415 - the library with zstd that is there anyway

                # Buffered, because pyarrow's stream has no readline().
                file = io.BufferedReader(stack.enter_context(pyarrow.CompressedInputStream(file, "zstd")))
            yield file

    @contextmanager
    def open_seekable(self) -> Iterator[BinaryIO]:
        """Open a file whose format is read from its end, such as parquet's: one that is compressed goes into memory."""
        with self.open() as file:
            yield io.BytesIO(file.read()) if self.member or self.compression else file


@contextmanager
def translate_archive_errors(file: DataFile) -> Iterator[None]:
    """Raise UserError for a damaged compressed file, and for an archive that cannot be unpacked."""
    try:
        yield
    except RuntimeError as error:  # a password; NotImplementedError: another compression than deflate
        if file.member is None or isinstance(error, RecursionError):
            raise
        raise UserError(
            Reason.INVALID_DATA,
            f"{file.name} cannot be unpacked: {error}: write the archive with deflate and no password",
        ) from error
    except (EOFError, gzip.BadGzipFile, zlib.error, zipfile.BadZipFile) as error:
        raise UserError(Reason.INVALID_DATA, f"{file.name} is damaged: {error}") from error
    except OSError as error:
        if file.compression and error.errno is None:  # pyarrow's, of its decompressor
            raise UserError(Reason.INVALID_DATA, f"{file.name} is damaged: {error}") from error
        raise


def find_split_files(path: Path) -> tuple[dict[str, list[DataFile]], list[str]]:
    """Return the files of each split in a file, an archive or a folder, and the names of the files that are left.

    A single file is the training split, and so are all files of a folder of which none has a split's name, if they are
    numbered parts of one. A split is one file, numbered parts, or a folder of its name.

    Raises
    ------
    UserError
        When there is no training split, a part is missing, or a split has several files that are no parts.
    """
    if path.is_file():
        if path.suffix.lower() != ".zip":
            file = DataFile(path)
            _check_kind(file)
            return {"train": [file]}, []
        found, folder = _list_members(path), str(path)
    else:
        found, folder = _list_folder(path), str(path)
    known = [file for file in found if file.kind in KINDS and not _is_marker(file)]
    splits: dict[str, list[DataFile]] = {}
    for file in known:
        split = _get_split(file, path)
        if split:
            splits.setdefault(split, []).append(file)
    if not splits and known and (len(known) == 1 or all(_is_part(file) for file in known)):
        splits["train"] = known
    if "train" not in splits:
        names = [_get_relative_name(file, path) for file in found]
        there = join_names(names, limit=10) or "no file"
        raise UserError(
            Reason.DATASET_NOT_FOUND,
            f"{folder} holds no train file (train{', train'.join(KINDS)}, also as .gz, .zst, numbered parts or a folder);"
            f" it holds {there}",
        )
    for split, files in splits.items():
        _check_parts(folder, split, files)
        splits[split] = [
            file for file in files if file.member or file.path.stat().st_size
        ] or files  # Spark's empty parts
    used = {file for files in splits.values() for file in files}
    return splits, [_get_relative_name(file, path) for file in found if file not in used and not _is_marker(file)]


def _check_kind(file: DataFile) -> None:
    if file.kind not in KINDS:
        raise UserError(
            Reason.INVALID_DATA,
            f"{file.name} ends in '{file.ending}', which is none of {', '.join(KINDS)} (also as .gz, .zst or in a .zip)",
        )


def _list_members(archive: Path) -> list[DataFile]:
    try:
        with zipfile.ZipFile(archive) as file:
            names = sorted(info.filename for info in file.infolist() if not info.is_dir())
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(Reason.INVALID_DATA, f"{archive} is not a zip archive: {error}") from error
    return [DataFile(archive, name) for name in names if not _is_hidden(Path(name))]


def _list_folder(folder: Path) -> list[DataFile]:
    """Return the files of a folder and of its folders, one level deep, in the order of their names."""
    paths = sorted(entry for entry in (*folder.glob("*"), *folder.glob("*/*")) if entry.is_file())
    return [DataFile(path) for path in paths if not _is_hidden(path.relative_to(folder))]


def _is_hidden(path: Path) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in path.parts)


def _is_marker(file: DataFile) -> bool:
    """Return whether a file is what other tools write beside rows: `_SUCCESS`, `_metadata`, a description."""
    name = Path(file.member or file.path.name).name
    return name.startswith("_") or name in (
        "README.md",
        "dataset_infos.json",
        "dataset_info.json",
        "dataset_dict.json",
        "state.json",
    )


def _get_split(file: DataFile, root: Path) -> str | None:
    inside = Path(file.member) if file.member else file.path.relative_to(root)
    numbered = _OF.fullmatch(file.stem) or _NUMBERED.fullmatch(file.stem)
    name = numbered["name"] if numbered else file.stem
    if name in SPLIT_NAMES:
        return SPLIT_NAMES[name]
    return SPLIT_NAMES.get(inside.parts[-2].lower()) if len(inside.parts) > 1 else None


def _is_part(file: DataFile) -> bool:
    return bool(_PART.fullmatch(file.stem) or _OF.fullmatch(file.stem) or _is_numbered(file))


def _is_numbered(file: DataFile) -> bool:
    numbered = _NUMBERED.fullmatch(file.stem)
    return numbered is not None and numbered["name"] in SPLIT_NAMES


def _check_parts(folder: str, split: str, files: Sequence[DataFile]) -> None:
    numbered = [match for file in files if (match := _OF.fullmatch(file.stem))]
    if numbered and len(numbered) == len(files):
        there = {int(match["part"]) for match in numbered}
        totals = {int(match["parts"]) for match in numbered}
        missing = sorted(set(range(max(totals))) - there)
        if len(totals) > 1 or len(there) != len(files) or missing:
            which = (
                f"part {missing[0]} of {max(totals)} is missing" if missing else "its parts are of several numberings"
            )
            raise UserError(Reason.INVALID_DATA, f"{folder}, {split} split: {which}; it has {_join_file_names(files)}")
        return
    if len(files) > 1 and not all(_is_part(file) for file in files):
        raise UserError(Reason.INVALID_DATA, f"{folder} holds several {split} files: {_join_file_names(files)}")
    if len({file.kind for file in files}) > 1:
        raise UserError(
            Reason.INVALID_DATA, f"{folder} holds {split} files of several formats: {_join_file_names(files)}"
        )


def _join_file_names(files: Sequence[DataFile]) -> str:
    return join_names([Path(file.member or file.path.name).name for file in files])


def _get_relative_name(file: DataFile, root: Path) -> str:
    return file.member or str(file.path.relative_to(root))
