"""Checkpoints that a retry resumes from: folders that are either complete or not there."""

import json
import logging
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainingtask_trainer.volumes import fsync_path

_STATE_FILE = "training.json"
_PREFIX = "step-"
_REPLACED = "-replaced"
_NAME = re.compile(rf"{_PREFIX}[0-9]{{1,18}}(?:{_REPLACED})?")
# Errors of reading a folder that no training wrote; those of a broken volume are not among them.
_UNREADABLE_ERRORS = (
    FileNotFoundError,
    NotADirectoryError,
    ValueError,
    TypeError,
    AttributeError,
    KeyError,
    RecursionError,
)
_MAX_STATE_BYTES = 32 << 20

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on the volume."""

    folder: Path
    """Holds what the loop wrote, and `training.json`."""
    state: dict[str, Any]


class CheckpointFolder:
    """The checkpoints of one task, of which the last one is kept."""

    def __init__(self, folder: Path, key: str) -> None:
        """Use `folder`, which may not exist yet; only checkpoints of the same `key` are resumed from."""
        self._folder = folder
        self._key = key

    def make_scratch_folder(self) -> Path:
        """Return an empty folder from which files can be moved into a checkpoint."""
        scratch = self._folder / ".scratch"
        shutil.rmtree(scratch, ignore_errors=True)  # of an attempt that was killed
        scratch.mkdir(parents=True)
        return scratch

    def find_last(self) -> Checkpoint | None:
        """Return the last checkpoint of this training, None when there is none."""
        for folder in self._list_complete():
            try:
                state = _read_state(folder / _STATE_FILE)
                if state.pop("key") == self._key:
                    return Checkpoint(folder, state)
            except _UNREADABLE_ERRORS as error:  # other tasks write to the claim as well
                logger.warning("The checkpoint %s is not used: %s: %s", folder, type(error).__name__, error)
        return None

    @contextmanager
    def write(self, step: int, state: dict[str, Any]) -> Iterator[Path]:
        """Yield an empty folder for the checkpoint of a step, which afterwards is the last one.

        All is on the disk before the folder gets its name, so that a half-written one is never loaded.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        partial = self._folder / ".partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        earlier = list(self._list_complete())
        yield partial
        (partial / _STATE_FILE).write_text(json.dumps({"key": self._key, **state}), encoding="utf-8")
        for path in partial.rglob("*"):
            fsync_path(path)
        fsync_path(partial)
        final = self._folder / f"{_PREFIX}{step}"
        if final.exists():  # of another training, or this step, written again while validating
            final.rename(self._folder / f"{_PREFIX}{step}{_REPLACED}")
        partial.rename(final)
        fsync_path(self._folder)
        for folder in [*earlier, *self._folder.glob(f"*{_REPLACED}")]:
            if folder != final:
                shutil.rmtree(folder, ignore_errors=True)

    def _list_complete(self) -> list[Path]:
        """Return the folders of complete checkpoints, the last step first."""

        def step(folder: Path) -> int:
            return int(folder.name.removeprefix(_PREFIX).removesuffix(_REPLACED))

        folders = (path for path in self._folder.glob(f"{_PREFIX}*") if _NAME.fullmatch(path.name))
        return sorted(folders, key=step, reverse=True)


def _read_state(path: Path) -> Any:
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_STATE_BYTES:  # reading a pipe would block
        raise ValueError(f"{path.name} is no file of at most {_MAX_STATE_BYTES} bytes")
    return json.loads(path.read_text(encoding="utf-8"))


def remove_checkpoints(folder: Path) -> None:
    """Remove a task's checkpoints, where there are any."""
    shutil.rmtree(folder, ignore_errors=True)
