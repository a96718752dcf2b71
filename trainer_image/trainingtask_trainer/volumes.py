"""Where a run finds its volume claims: mounts in a pod, folders on a laptop."""

import os
from dataclasses import dataclass
from pathlib import Path

from trainingtask_api import names
from trainingtask_api.reasons import Reason
from trainingtask_trainer.errors import CustomReason, UserError

# On the output claim, beside the models: what a retry or a later task can use again.
STATE_DIR = ".trainingtask"


@dataclass(frozen=True)
class Volumes:
    """The folders that stand for the volume claims of a task."""

    dataset: Path
    model: Path
    output: Path
    preprocessor: Path = Path()

    @property
    def cache_folder(self) -> Path:
        """Folder for what is computed from data alone (token ids, embeddings), shared by tasks; it may not exist yet."""
        return self.output / STATE_DIR / "cache"

    def get_checkpoint_folder(self, task_uid: str) -> Path:
        """Return the folder for a task's checkpoints, from which a retry goes on; it may not exist yet."""
        return self.output / STATE_DIR / "checkpoints" / task_uid

    @classmethod
    def from_environment(cls) -> "Volumes":
        """Return the mounts in a pod, else the working directory and ``out/``."""
        if names.ENV_POD_NAME in os.environ:
            return cls(
                Path(names.DATASET_DIR), Path(names.MODEL_DIR), Path(names.OUTPUT_DIR), Path(names.PREPROCESSOR_DIR)
            )
        return cls(Path(), Path(), Path("out"))


def resolve_path(root: Path, path: str, field: str, claim: str | None, reason: Reason | CustomReason) -> Path:
    """Return `path` under `root`.

    Parameters
    ----------
    root
        The folder that stands for the volume claim.
    path
        What the task names, relative to `root`.
    field
        The spec field that names it, for the message.
    claim
        Name of the volume claim, for the message.
    reason
        Reason of the error.

    Raises
    ------
    UserError
        When nothing is there, and the message says what is; or when it may not be read.
    """
    full = root / path
    if full.exists():
        _check_readable(full, f"{field} '{path}' in volume claim '{claim}'", reason)
        return full
    # The nearest folder that exists shows a typing mistake best.
    nearest = next((folder for folder in full.parents if folder.is_dir()), None)
    there = f"{nearest} holds {describe_contents(nearest)}" if nearest else f"{root} does not exist either"
    raise UserError(reason, f"{field} '{path}' does not exist in volume claim '{claim}' ({full}): {there}")


def _check_readable(full: Path, what: str, reason: Reason | CustomReason) -> None:
    """Refuse files that another user closed to us: libraries report them as missing, or crash."""
    candidates = [full, *full.iterdir()] if full.is_dir() and os.access(full, os.R_OK) else [full]
    closed = next((entry for entry in candidates if not os.access(entry, os.R_OK)), None)
    if closed is not None:
        raise UserError(
            reason, f"{what}: {closed.name} may not be read by user {os.getuid()}: make it readable (chmod -R a+rX)"
        )


def describe_contents(folder: Path, limit: int = 10) -> str:
    """Return the names in a folder as part of a sentence, at most `limit` of them, without hidden ones."""
    visible = (entry for entry in folder.iterdir() if not entry.name.startswith("."))
    entries = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in visible)
    shown = ", ".join(entries[:limit])
    more = f" and {len(entries) - limit} more" if len(entries) > limit else ""
    return shown + more if entries else "nothing"


def fsync_path(path: Path) -> None:
    """Wait until a file or a folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
