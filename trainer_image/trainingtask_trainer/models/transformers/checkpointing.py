"""Checkpoints that a retry resumes from: folders in a store that are either complete or not there."""

import json
import logging
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from trainingtask_trainer.errors import TrainerError, UserError
from trainingtask_trainer.storage.folder_store import FolderStore
from trainingtask_trainer.storage.object_store import StoredObject

CHECKPOINT_MANIFEST: Final = "training.json"
"""Of a checkpoint: its key, the sizes of its other files, and the training's state."""
_NAME = re.compile(r"step-(?P<step>[0-9]{1,18})(?:\.(?P<copy>[0-9]{1,9}))?")  # a step may be stored again
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_MAX_FILES = 100
_MAX_STATE_BYTES = 32 << 20
# Errors of reading a checkpoint that no training wrote; those of a broken store are not among them.
_UNREADABLE_ERRORS = (UserError, ValueError, TypeError, AttributeError, KeyError, RecursionError)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint, fetched from its store."""

    folder: Path
    """Holds what the loop wrote, and the manifest."""
    state: dict[str, Any]


class CheckpointStore:
    """The checkpoints of one task, of which the last one is kept.

    Parameters
    ----------
    store
        Holds a folder per checkpoint.
    key
        Only checkpoints of the same key are resumed from.
    scratch
        An existing folder on the node's disk.
    """

    def __init__(self, store: FolderStore, key: str, scratch: Path) -> None:
        self._store = store
        self._key = key
        self._fetched = scratch / "fetched"
        self._partial = scratch / "partial"
        self._failures: list[str] = []

    def find_last(self) -> Checkpoint | None:
        """Return the last checkpoint of this training, None when there is none."""
        for name, files in self._list_complete().items():
            try:
                state = self._read_state(name)
                if state.pop("key") == self._key:
                    _check_whole(name, files, state.pop("sizes"))
                    return Checkpoint(self._fetch(name, files), state)
            except _UNREADABLE_ERRORS as error:  # other tasks write to the store as well
                logger.warning("The checkpoint %s is not used: %s: %s", name, type(error).__name__, error)
        return None

    @contextmanager
    def write(self, step: int, state: dict[str, Any]) -> Iterator[Path]:
        """Yield an empty folder for the checkpoint of a step, which afterwards is the last one in the store.

        A store that fails costs the checkpoint, not the training: see `list_warnings`.
        """
        shutil.rmtree(self._fetched, ignore_errors=True)  # the training has what it resumed from
        shutil.rmtree(self._partial, ignore_errors=True)
        self._partial.mkdir()
        yield self._partial
        sizes = {file.name: file.stat().st_size for file in self._partial.iterdir()}
        manifest = {"key": self._key, "sizes": sizes, **state}
        (self._partial / CHECKPOINT_MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
        try:
            self._put(step)
        except TrainerError as error:
            logger.warning("The checkpoint of step %d is not stored: %s", step, error.message)
            self._failures.append(error.message)
        finally:
            shutil.rmtree(self._partial, ignore_errors=True)

    def list_warnings(self) -> list[str]:
        """Return the warnings for the results."""
        if not self._failures:
            return []
        return [
            f"{len(self._failures)} of the checkpoints could not be stored, the last one because {self._failures[-1]}"
        ]

    def _put(self, step: int) -> None:
        """Store the written folder under a name that is not taken, by half a checkpoint neither, then remove all others."""
        self._delete_incomplete()
        objects = self._store.list()
        taken = {entry.name.partition("/")[0] for entry in objects}
        candidates = [f"step-{step}", *(f"step-{step}.{copy}" for copy in range(1, len(taken) + 1))]
        self._store.replace(self._partial, CHECKPOINT_MANIFEST, next(name for name in candidates if name not in taken))
        try:
            for name in sorted({entry.name.partition("/")[0] for entry in objects if "/" in entry.name}):
                self._store.delete(CHECKPOINT_MANIFEST, name)
        except TrainerError as error:
            logger.warning("An earlier checkpoint stays until the next one is stored: %s", error.message)

    def _delete_incomplete(self) -> None:
        """Delete the checkpoints that an attempt did not finish; they would fill the store."""
        names = {entry.name for entry in self._store.list()}
        folders = {name.partition("/")[0] for name in names if "/" in name}
        for folder in sorted(folders):
            if _NAME.fullmatch(folder) and f"{folder}/{CHECKPOINT_MANIFEST}" not in names:
                self._store.delete(CHECKPOINT_MANIFEST, folder)

    def _list_complete(self) -> dict[str, list[StoredObject]]:
        """Return the files of each complete checkpoint, the last step first."""
        folders: dict[str, list[StoredObject]] = {}
        for entry in self._store.list():
            folders.setdefault(entry.name.partition("/")[0], []).append(entry)
        complete = [
            (int(match["step"]), int(match["copy"] or 0), name)
            for name, files in folders.items()
            if (match := _NAME.fullmatch(name)) and f"{name}/{CHECKPOINT_MANIFEST}" in {file.name for file in files}
        ]
        return {name: folders[name] for _, _, name in sorted(complete, reverse=True)}

    def _read_state(self, name: str) -> Any:
        return json.loads(self._store.read(f"{name}/{CHECKPOINT_MANIFEST}", _MAX_STATE_BYTES))

    def _fetch(self, name: str, files: list[StoredObject]) -> Path:
        """Return a local folder with the files of a checkpoint.

        Raises
        ------
        ValueError
            When it holds what no training writes.
        """
        unexpected = [file.name for file in files if not _FILE_NAME.fullmatch(file.name.removeprefix(f"{name}/"))]
        if unexpected or len(files) > _MAX_FILES:
            raise ValueError(f"it holds {unexpected[0]!r}" if unexpected else f"it holds {len(files)} files")
        shutil.rmtree(self._fetched, ignore_errors=True)
        self._fetched.mkdir()
        if (size := sum(file.size for file in files)) > (free := shutil.disk_usage(self._fetched).free):
            raise ValueError(f"it has {size} bytes, and {free} are free in {self._fetched}")
        self._store.download(files, self._fetched)
        return self._fetched / name


def _check_whole(name: str, files: list[StoredObject], sizes: dict[str, int]) -> None:
    """Refuse a checkpoint of which another process, such as an attempt on a lost node, has deleted or replaced files.

    Raises
    ------
    ValueError
        When a file is missing or has another size than the manifest says.
    """
    there = {file.name.removeprefix(f"{name}/"): file.size for file in files}
    broken = [file for file, size in sizes.items() if there.get(file) != size]
    if broken:
        raise ValueError(f"{broken[0]!r} is missing or has another size than it was written with")
