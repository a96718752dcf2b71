"""A folder of a volume claim as a store of files, which are written once, from their beginning to their end.

Others write to the claim as well: what is listed and read is data, and no symbolic link is followed out of the claim.
"""

import errno
import io
import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from trainingtask_api.reasons import Reason
from trainingtask_trainer.errors import Fault, UserError
from trainingtask_trainer.storage.object_store import StoredObject

# What file systems answer that cannot do it, such as mounted buckets.
_UNSUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EPERM, errno.EACCES, errno.EBADF)


class ClaimFolder:
    """The files below a folder of a claim, which may not exist yet.

    Parameters
    ----------
    root
        The folder that stands for the volume claim.
    path
        The folder in it.
    field
        The field of the spec that names the folder, for messages.

    Raises
    ------
    UserError
        From each method: a symbolic link leads out of the claim, or something else than a file is in the way.
    Fault
        From each method that writes: the file system does not allow it.
    """

    def __init__(self, root: Path, path: str, field: str) -> None:
        self._root = root
        self._folder = root / path
        self._field = field

    def list(self, prefix: str = "") -> list[StoredObject]:
        """Return all but folders with something in them; those without have a name that ends with '/'."""
        start = self._locate(prefix) if prefix else self.check_inside()
        found = []
        for folder, folders, files in os.walk(start, onerror=_raise_unless_missing):
            here = Path(folder)
            if here != start and not folders and not files:
                found.append(self._describe(here, "/"))
            found += [self._describe(here / name) for name in files]
            found += [self._describe(here / name) for name in folders if (here / name).is_symlink()]
        return sorted(found, key=lambda entry: entry.name)

    def read(self, name: str, max_bytes: int) -> bytes:
        """Return the content of a file, which may have at most `max_bytes`."""
        with self._open(name) as file:
            content = file.read(max_bytes + 1)
        if len(content) > max_bytes:
            raise UserError(
                Reason.OUTPUT_OCCUPIED, f"{self._folder / name} has more than the {max_bytes} bytes expected"
            )
        return content

    def download(self, objects: Sequence[StoredObject], folder: Path) -> None:
        """Copy files into a folder under their names."""
        for entry in objects:
            target = folder / entry.name
            target.parent.mkdir(parents=True, exist_ok=True)
            with self._open(entry.name) as source, target.open("wb") as copy:
                shutil.copyfileobj(source, copy)

    def upload(self, file: Path, name: str) -> None:
        """Copy a file; an earlier one of that name is removed first."""
        with file.open("rb") as source:
            self._create(name, source)

    def write(self, name: str, content: bytes) -> None:
        """Write a small file; an earlier one of that name is removed first."""
        self._create(name, io.BytesIO(content))

    def delete(self, names: Sequence[str]) -> None:
        """Delete files, links and empty folders, and the folders that are empty then."""
        for name in names:
            path = self._locate(name)
            with self._explain("deleted", path):
                if name.endswith("/"):
                    path.rmdir()
                else:
                    path.unlink(missing_ok=True)
            self._prune(path.parent)

    def _create(self, name: str, source: BinaryIO) -> None:
        path = self._locate(name)
        with self._explain("written", path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            with path.open("xb") as target:  # a new file: neither a link nor the file of another is written through
                shutil.copyfileobj(source, target)
                target.flush()
                _fsync(target.fileno())
        _fsync_folder(path.parent)

    @contextmanager
    def _open(self, name: str) -> Iterator[BinaryIO]:
        """Open a regular file; a pipe would block, and a link may lead anywhere."""
        path = self._locate(name)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.ENXIO, errno.EACCES):
                raise
            raise UserError(Reason.OUTPUT_OCCUPIED, f"{path} cannot be read: {error.strerror}") from error
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise UserError(Reason.OUTPUT_OCCUPIED, f"{path} is no file")
            yield file

    def check_inside(self) -> Path:
        """Return the folder, unless a symbolic link leads it out of the claim."""
        return self._check_inside(self._folder)

    def _locate(self, name: str) -> Path:
        """Return the path of a file whose folder is in the claim."""
        path = self._folder / name
        self._check_inside(path.parent)
        return path

    def _check_inside(self, folder: Path) -> Path:
        target = folder.resolve()
        if not target.is_relative_to(self._root.resolve()):
            raise UserError(
                Reason.OUTPUT_OCCUPIED,
                f"{self._field}: {folder} leads out of the volume claim, to {target}: remove the symbolic link",
            )
        return folder

    def _describe(self, path: Path, suffix: str = "") -> StoredObject:
        name = path.relative_to(self._folder).as_posix() + suffix
        return StoredObject(name, path.lstat().st_size, etag=None, version=None, path=name)

    def _prune(self, folder: Path) -> None:
        """Remove folders that are empty, up to this store's own; those above are shared with other tasks."""
        for path in (folder, *folder.parents):
            if not path.is_relative_to(self._folder):
                return
            with suppress(OSError):  # it is not empty, or the file system has no folders of its own
                path.rmdir()

    @contextmanager
    def _explain(self, verb: str, path: Path) -> Iterator[None]:
        """Turn the refusal of a file system into a Fault; a full one has a reason of its own."""
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            if error.errno in (errno.ENOTDIR, errno.EEXIST):
                raise UserError(
                    Reason.OUTPUT_OCCUPIED, f"{self._field}: a file stands in the way of {path}: name another folder"
                ) from error
            raise Fault(
                Reason.OUTPUT_NOT_WRITABLE,
                f"{self._field}: {path} cannot be {verb}: {error.strerror}; the file system has to let user {os.getuid()} "
                "create, read and delete files (a mounted bucket has options for it)",
            ) from error


def _raise_unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):  # not there yet, or removed by another run
        raise error


def _fsync(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise


def _fsync_folder(path: Path) -> None:
    with suppress(OSError):  # some file systems refuse to open a folder, or to sync it
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
