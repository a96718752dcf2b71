"""The volume claims of a run: mounts in a pod, folders on a laptop; and helpers for files on them."""

import os
from dataclasses import dataclass
from pathlib import Path

from trainingtask_api import names
from trainingtask_api.reasons import Reason
from trainingtask_trainer.errors import CustomReason, UserError, join_names
from trainingtask_trainer.runtime.shared_folder import get_shared_folder

# On the output claim, beside the models: checkpoints and the cache.
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
        """The folder of token ids and embeddings, which tasks share; it may not exist yet.

        Without an output claim the processes of a pod share one on the node.
        """
        shared = get_shared_folder()
        if shared is not None and not os.access(self.output, os.W_OK):
            return shared / "cache"
        return self.output / STATE_DIR / "cache"

    @classmethod
    def from_environment(cls) -> "Volumes":
        """Return the mounts in a pod, else the working directory and ``out/``."""
        if names.ENV_POD_NAME in os.environ:
            return cls(
                Path(names.DATASET_DIR), Path(names.MODEL_DIR), Path(names.OUTPUT_DIR), Path(names.PREPROCESSOR_DIR)
            )
        return cls(Path(), Path(), Path("out"))


def resolve_path(root: Path, path: str, field: str, claim: str | None, reason: Reason | CustomReason) -> Path:
    """Return `path` under `root`, which must exist and be readable.

    Parameters
    ----------
    root
        The folder that stands for the volume claim.
    path
        The path in the spec, relative to `root`.
    field
        The spec's field, for the message.
    claim
        Name of the volume claim, for the message.
    reason
        Reason of the error.

    Raises
    ------
    UserError
        When it may not be read; when it does not exist, with the contents of the nearest folder that may be read.
    """
    full = root / path
    try:
        is_there = full.exists()
    except PermissionError:  # of a folder above it
        is_there = True
    if is_there:
        _check_readable(full, f"{field} '{path}' in volume claim '{claim}'", reason)
        return full
    # The contents of the nearest folder show a typing mistake.
    nearest = next((folder for folder in full.parents if folder.is_dir() and os.access(folder, os.R_OK)), None)
    there = f"{nearest} holds {describe_contents(nearest)}" if nearest else f"{root} does not exist either"
    raise UserError(reason, f"{field} '{path}' does not exist in volume claim '{claim}' ({full}): {there}")


def _check_readable(full: Path, what: str, reason: Reason | CustomReason) -> None:
    """Refuse files that may not be read, also for a folder above: libraries report them as missing, or crash."""
    above = reversed(Path(os.path.realpath(full)).parents)
    closed = next((folder for folder in above if not os.access(folder, os.X_OK)), None)
    if closed is None:
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
    return join_names(entries, limit) or "nothing"
