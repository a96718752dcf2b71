"""The files of a checkpoint in a .zip or .tar.gz archive: those beside its config.json, wherever that is."""

import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from trainingtask_api.reasons import Reason
from trainingtask_trainer.errors import UserError
from trainingtask_trainer.storage.scratch import check_free_space, is_file_name

# Weights as safetensors alone: some other formats run code when they are read.
CHECKPOINT_FILES = ("*.json", "*.txt", "*.model", "*.safetensors")
ENDINGS = (".zip", ".tar.gz", ".tgz")
_MARKER = "config.json"
_MAX_MEMBERS = 10_000


class _Member(NamedTuple):
    """A regular file in an archive."""

    path: PurePosixPath
    size: int
    open: Callable[[], IO[bytes] | None]


def unpack_checkpoint(archive: Path, folder: Path, what: str, is_wanted: Callable[[str], bool]) -> None:
    """Write the wanted files that an archive has beside its config.json into a folder.

    Parameters
    ----------
    archive
        The file; its name has one of `ENDINGS`.
    folder
        Receives the files, without the folders that they are in.
    what
        Name of the archive, for messages.
    is_wanted
        Whether a file of this name is wanted.

    Raises
    ------
    UserError
        When the archive is damaged, has no config.json, or several.
    Fault
        When there is not enough space.
    """
    with _translate_errors(what), _open_members(archive) as members:
        if len(members) > _MAX_MEMBERS:
            raise UserError(
                Reason.MODEL_UNAVAILABLE, f"{what} has more than {_MAX_MEMBERS} files: pack the checkpoint's alone"
            )
        configs = [member.path.parent for member in members if member.path.name == _MARKER]
        depth = min((len(parent.parts) for parent in configs), default=0)
        top = [parent for parent in configs if len(parent.parts) == depth]
        if len(top) != 1:
            raise UserError(Reason.MODEL_UNAVAILABLE, f"{what} has {len(top) or 'no'} {_MARKER}, one is needed")
        wanted = [member for member in members if member.path.parent == top[0] and is_wanted(member.path.name)]
        check_free_space(folder, sum(member.size for member in wanted), f"{what}, unpacked,")
        for member in wanted:
            source = member.open()
            if source is None or not is_file_name(member.path.name):
                continue
            with source, (folder / member.path.name).open("wb") as target:
                shutil.copyfileobj(source, target, 2**20)


@contextmanager
def _open_members(archive: Path) -> Iterator[list[_Member]]:
    """Yield the regular files of an archive: no folders, links or devices."""
    if archive.name.lower().endswith(".zip"):
        with zipfile.ZipFile(archive) as file:
            infos = [info for info in file.infolist() if not info.is_dir()]
            yield [_Member(PurePosixPath(info.filename), info.file_size, partial(file.open, info)) for info in infos]
        return
    with tarfile.open(archive, "r:gz") as tar:
        found = []
        for info in tar:
            if info.isreg():
                found.append(_Member(PurePosixPath(info.name), info.size, partial(tar.extractfile, info)))
            if len(found) > _MAX_MEMBERS:  # the headers of a small archive may unpack to any number
                break
        yield found


@contextmanager
def _translate_errors(what: str) -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError) as error:
        raise UserError(Reason.MODEL_UNAVAILABLE, f"{what} is damaged: {error}") from error
    except RuntimeError as error:  # a password, or another compression than deflate
        raise UserError(Reason.MODEL_UNAVAILABLE, f"{what} cannot be unpacked: {error}") from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise UserError(Reason.MODEL_UNAVAILABLE, f"{what} is damaged: {error}") from error
