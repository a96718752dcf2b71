"""Folders in a store, each of which exists once its manifest is there: files first, the manifest last.

No store is asked to rename, to append or to overwrite, so that mounted buckets work as well as object stores and disks.
"""

import uuid
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from trainingtask_api.names import MODEL_MANIFEST_FILE
from trainingtask_api.reasons import Reason
from trainingtask_trainer.errors import Fault, UserError, join_names
from trainingtask_trainer.storage.object_store import StoredObject
from trainingtask_trainer.storage.store_errors import StoreReasons
from trainingtask_trainer.volumes import STATE_DIR

MODEL_MANIFEST: Final = MODEL_MANIFEST_FILE
OUTPUT_REASONS: Final = StoreReasons(
    not_found=Reason.OUTPUT_DENIED, denied=Reason.OUTPUT_DENIED, unavailable=Reason.OUTPUT_UNAVAILABLE
)
_INCOMPLETE = f"{STATE_DIR}/incomplete"
"""There while a model is being replaced, so that a retry knows the files without a manifest for its own."""
_MAX_PROBE_BYTES = 64


class FileStore(Protocol):
    """Files by name; see `ObjectStore` for what each method does and raises."""

    def list(self, prefix: str = "") -> list[StoredObject]:
        """Return the files under a folder of the store, in the order of their names."""
        ...

    def read(self, name: str, max_bytes: int) -> bytes:
        """Return the content of a file, which may have at most `max_bytes`."""
        ...

    def download(self, objects: Sequence[StoredObject], folder: Path) -> Any:
        """Write files of the store to files of their names in a folder."""
        ...

    def upload(self, file: Path, name: str) -> None:
        """Write a file; one of the same name is replaced."""
        ...

    def write(self, name: str, content: bytes) -> None:
        """Write a small file."""
        ...

    def delete(self, names: Sequence[str]) -> None:
        """Delete files; one that does not exist is no error."""
        ...


class FolderStore(Protocol):
    """Folders that are either complete or not there."""

    def check(self) -> None:
        """Prove that all other methods will work.

        Raises
        ------
        UserError
            When the store refuses it, or the task does not fit what is there.
        Fault
            When the store cannot be reached or fails.
        """
        ...

    def list(self) -> list[StoredObject]:
        """Return all files."""
        ...

    def read(self, name: str, max_bytes: int) -> bytes:
        """Return the content of a small file."""
        ...

    def download(self, objects: Sequence[StoredObject], folder: Path) -> Any:
        """Write files of the store to files of their names in a folder."""
        ...

    def replace(self, source: Path, manifest: str, name: str = "") -> None:
        """Replace the folder `name` (default: the store itself) by the files of `source`, of which `manifest` is the last."""
        ...

    def delete(self, manifest: str, name: str = "") -> None:
        """Delete the folder `name` (default: all), its `manifest` first."""
        ...


class ManifestLastStore:
    """Folders in a store that knows files alone."""

    def __init__(self, files: FileStore, where: str) -> None:
        """Use `files`; `where` names the store in messages."""
        self._files = files
        self._where = where
        self.list, self.read, self.download = files.list, files.read, files.download

    def check(self) -> None:
        """Write, read, list and delete a file; see `FolderStore`."""
        probe, content = f"{STATE_DIR}/probe-{uuid.uuid4().hex}", uuid.uuid4().bytes
        self._files.write(probe, content)
        try:
            is_read = self._files.read(probe, _MAX_PROBE_BYTES) == content
            is_listed = probe in {entry.name for entry in self._files.list(STATE_DIR)}
        finally:
            self._files.delete([probe])
        is_deleted = probe not in {entry.name for entry in self._files.list(STATE_DIR)}
        if not (is_read and is_listed and is_deleted):
            failed = "reads otherwise" if not is_read else "is not listed" if not is_listed else "cannot be deleted"
            raise Fault(
                Reason.OUTPUT_UNAVAILABLE,
                f"{self._where} stores nothing reliably: a file that was just written {failed}",
            )

    def replace(self, source: Path, manifest: str, name: str = "") -> None:
        """Replace a folder; see `FolderStore`."""
        prefix = f"{name}/" if name else ""
        if not name:
            self._files.write(_INCOMPLETE, b"")
        self.delete(manifest, name)
        for file in sorted(path for path in source.rglob("*") if path.is_file()):
            if file != source / manifest:
                self._files.upload(file, prefix + file.relative_to(source).as_posix())
        self._files.upload(source / manifest, prefix + manifest)
        if not name:
            self._files.delete([_INCOMPLETE])

    def delete(self, manifest: str, name: str = "") -> None:
        """Delete a folder; see `FolderStore`."""
        names = [entry.name for entry in self._files.list(name) if name or not _is_state(entry.name)]
        first = f"{name}/{manifest}" if name else manifest
        if first in names:
            self._files.delete([first])
        self._files.delete([other for other in names if other != first])


def check_is_replaceable(
    objects: Sequence[StoredObject], manifest: str, where: str, ignored: Collection[str] = ()
) -> None:
    """Refuse a store that holds something else than a folder with `manifest`, which `replace` would delete.

    Parameters
    ----------
    objects
        All files of the store.
    manifest
        The file that an earlier model has.
    where
        The store, for the message.
    ignored
        Files that a new store has.

    Raises
    ------
    UserError
        When there are files and neither the manifest nor the mark of an unfinished `replace`, or another model's folder.
    """
    names = {entry.name for entry in objects}
    if nested := sorted(name.removesuffix(manifest) for name in names if name.endswith(f"/{manifest}")):
        raise UserError(
            Reason.OUTPUT_OCCUPIED,
            f"{where} holds the folders of other models, {join_names(nested, limit=10)}: the model would replace them, "
            "name another folder",
        )
    foreign = {name for name in names if not _is_state(name)} - set(ignored)
    if foreign and not {manifest, _INCOMPLETE} & names:
        parts = {name.partition("/")[0] + ("/" if "/" in name else "") for name in foreign}
        raise UserError(
            Reason.OUTPUT_OCCUPIED,
            f"{where} is no trained model, but holds {join_names(sorted(parts), limit=10)}: the model would replace it, "
            "name another folder",
        )


def _is_state(name: str) -> bool:
    return name.partition("/")[0] == STATE_DIR
