"""The file that a batch prediction writes, and beside it the parts that it consists of until it is complete.

A part is complete or absent, so that a prediction that was killed goes on after the parts that are there.
"""

import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Final, Protocol

from trainingtask_api.reasons import Reason
from trainingtask_trainer.errors import UserError
from trainingtask_trainer.storage.object_store import ObjectStore
from trainingtask_trainer.storage.store_errors import StoreReasons

_FIELD = "--output"
_SCHEMES = ("s3", "gs", "az")
_MAX_RECORD_BYTES = 1 << 20
_REASONS: Final = StoreReasons(
    not_found=Reason.SOURCE_NOT_FOUND, denied=Reason.OUTPUT_DENIED, unavailable=Reason.OUTPUT_UNAVAILABLE
)


class Output(Protocol):
    """A file with its parts; it is handed to worker processes."""

    @property
    def name(self) -> str:
        """Return its name without folders."""
        ...

    def check_writable(self) -> None:
        """Raise UserError when it is known that nothing can be written."""
        ...

    def exists(self) -> bool:
        """Return whether the complete file is there."""
        ...

    def list_parts(self) -> set[str]:
        """Return the names of the parts that are there."""
        ...

    def read_part(self, name: str) -> bytes:
        """Return the content of a small part."""
        ...

    def fetch_parts(self, names: Sequence[str], folder: Path) -> list[Path]:
        """Return parts as local files, which may be in `folder`."""
        ...

    def add_part(self, file: Path) -> None:
        """Make a file a part of the same name."""
        ...

    def complete(self, file: Path) -> None:
        """Write the complete file."""
        ...

    def fetch(self, folder: Path) -> Path:
        """Return the complete file as a local one, which may be in `folder`."""
        ...

    def remove_parts(self, names: Sequence[str]) -> None:
        """Remove parts, the last one after all others, and the place of all parts."""
        ...


def open_output(address: str) -> Output:
    """Return the output at a path or an address."""
    scheme, separator, _ = address.partition("://")
    if not separator:
        return LocalOutput(Path(address).absolute())
    if scheme in _SCHEMES and PurePosixPath(address).name:
        return StoredOutput(address)
    raise UserError(
        Reason.OUTPUT_NOT_WRITABLE,
        f"{_FIELD} '{address.partition('?')[0]}' is no place for a file: name a path, or a file at s3://, gs:// or az://",
    )


def check_is_outside(address: str, model: str) -> None:
    """Refuse an output in the model's folder: its parts would make it another model, so that it could not go on.

    Raises
    ------
    UserError
        When it is there.
    """
    if "://" in address:
        is_inside = address.startswith(f"{model.rstrip('/')}/")
    else:
        is_inside = Path(address).resolve().is_relative_to(Path(model).resolve())
    if is_inside:
        raise UserError(
            Reason.OUTPUT_NOT_WRITABLE,
            f"--output '{address.partition('?')[0]}' is in the model's folder, whose files are to stay as they are: name a file"
            " elsewhere",
        )


@dataclass(frozen=True)
class LocalOutput:
    """A file in a folder."""

    path: Path

    @property
    def name(self) -> str:
        """Return its name without folders."""
        return self.path.name

    def check_writable(self) -> None:
        """Write a file without a name into the nearest folder that is there."""
        try:
            folder = next(folder for folder in (self._folder, *self._folder.parents) if folder.exists())
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise UserError(
                Reason.OUTPUT_NOT_WRITABLE,
                f"--output '{self.path}' cannot be written ({error.strerror}): name a file in a folder that user"
                f" {os.getuid()} may write to",
            ) from error

    def exists(self) -> bool:
        """Return whether the complete file is there."""
        return self.path.exists()

    def list_parts(self) -> set[str]:
        """Return the names of the parts that are there."""
        return {file.name for file in self._folder.glob("[!.]*")}

    def read_part(self, name: str) -> bytes:
        """Return the content of a small part."""
        return (self._folder / name).read_bytes()

    def fetch_parts(self, names: Sequence[str], folder: Path) -> list[Path]:
        """Return parts as local files."""
        return [self._folder / name for name in names]

    def add_part(self, file: Path) -> None:
        """Make a file a part of the same name."""
        self._folder.mkdir(parents=True, exist_ok=True)
        _replace(file, self._folder / file.name)

    def complete(self, file: Path) -> None:
        """Write the complete file."""
        _replace(file, self.path)

    def fetch(self, folder: Path) -> Path:
        """Return the complete file."""
        return self.path

    def remove_parts(self, names: Sequence[str]) -> None:
        """Remove parts, the last one after all others, and their folder."""
        for name in names:
            (self._folder / name).unlink(missing_ok=True)
        shutil.rmtree(self._folder)

    @property
    def _folder(self) -> Path:
        return self.path.with_name(f"{self.path.name}.parts")


@dataclass(frozen=True)
class StoredOutput:
    """An object in an object store."""

    uri: str

    @property
    def name(self) -> str:
        """Return its name without folders."""
        return PurePosixPath(self.uri).name

    def check_writable(self) -> None:
        """Do nothing: whether access is given shows with the first part."""

    def exists(self) -> bool:
        """Return whether the complete object is there."""
        try:
            return bool(ObjectStore(self.uri, _FIELD, _REASONS).find())
        except UserError as error:
            if error.reason == _REASONS.not_found:
                return False
            raise

    def list_parts(self) -> set[str]:
        """Return the names of the parts that are there."""
        return {entry.name for entry in self._parts.list()}

    def read_part(self, name: str) -> bytes:
        """Return the content of a small part."""
        return self._parts.read(name, _MAX_RECORD_BYTES)

    def fetch_parts(self, names: Sequence[str], folder: Path) -> list[Path]:
        """Return parts as local files in `folder`."""
        wanted = set(names)
        self._parts.download([entry for entry in self._parts.list() if entry.name in wanted], folder)
        return [folder / name for name in names]

    def add_part(self, file: Path) -> None:
        """Make a file a part of the same name."""
        self._parts.upload(file, file.name)

    def complete(self, file: Path) -> None:
        """Write the complete object."""
        ObjectStore(self.uri.rpartition("/")[0], _FIELD, _REASONS).upload(file, self.name)

    def fetch(self, folder: Path) -> Path:
        """Return the complete object as a file in `folder`."""
        store = ObjectStore(self.uri, _FIELD, _REASONS)
        store.download(store.find(), folder)
        return folder / self.name

    def remove_parts(self, names: Sequence[str]) -> None:
        """Remove parts, the last one after all others."""
        self._parts.delete(names[:-1])
        self._parts.delete(names[-1:])

    @cached_property
    def _parts(self) -> ObjectStore:
        return ObjectStore(f"{self.uri}.parts", _FIELD, _REASONS)

    def __reduce__(self) -> tuple[type["StoredOutput"], tuple[str]]:
        """Return what a worker process makes its own connections of."""
        return type(self), (self.uri,)


def _replace(file: Path, target: Path) -> None:
    """Put a copy of a file into the place of another in one step."""
    partial = target.with_name(f".{target.name}.partial")
    shutil.copyfile(file, partial)
    os.replace(partial, target)
