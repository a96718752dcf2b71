"""Where a run finds its volume claims: mounts in a pod, folders on a laptop."""

import os
from dataclasses import dataclass
from pathlib import Path

from trainingtask_api import names
from trainingtask_trainer.errors import UserError


@dataclass(frozen=True)
class Places:
    """The folders that stand for the three volume claims of a task."""

    dataset: Path
    model: Path
    output: Path

    @classmethod
    def default(cls) -> "Places":
        """Return the mounts in a pod, else the working directory and ``out/``."""
        if names.ENV_POD_NAME in os.environ:
            return cls(Path(names.DATASET_DIR), Path(names.MODEL_DIR), Path(names.OUTPUT_DIR))
        return cls(Path(), Path(), Path("out"))


def find(root: Path, path: str, field: str, claim: str | None, reason: str) -> Path:
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
    there = f"{nearest} holds {contents(nearest)}" if nearest else f"{root} does not exist either"
    raise UserError(reason, f"{field} '{path}' does not exist in volume claim '{claim}' ({full}): {there}")


def _check_readable(full: Path, what: str, reason: str) -> None:
    """Refuse files that another user closed to us: libraries report them as missing, or crash."""
    candidates = [full, *full.iterdir()] if full.is_dir() and os.access(full, os.R_OK) else [full]
    closed = next((entry for entry in candidates if not os.access(entry, os.R_OK)), None)
    if closed is not None:
        raise UserError(
            reason, f"{what}: {closed.name} may not be read by user {os.getuid()}: make it readable (chmod -R a+rX)"
        )


def contents(folder: Path, limit: int = 10) -> str:
    """Return the names in a folder as part of a sentence, at most `limit` of them."""
    entries = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in folder.iterdir())
    shown = ", ".join(entries[:limit])
    more = f" and {len(entries) - limit} more" if len(entries) > limit else ""
    return shown + more if entries else "nothing"
