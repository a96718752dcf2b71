"""What may be written on the node's disk: as much as there is space for, under names that stay in their folder."""

import os
import shutil
from pathlib import Path

from trainingtask_api.formatting import format_size
from trainingtask_api.reasons import Reason
from trainingtask_trainer.errors import Fault


def check_free_space(folder: Path, needed: int, what: str) -> None:
    """Raise Fault when the disk of a folder has no room for `needed` bytes; `what` names the download."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise Fault(
            Reason.NO_SPACE_LEFT,
            f"{what} has {format_size(needed)}, and {folder} has {format_size(free)} free: raise resources.storage",
        )


def is_file_name(name: str) -> bool:
    """Return whether a name from the server is one of a file below a folder."""
    parts = name.split("/")
    return all(part not in ("", ".", "..") and part.isprintable() and len(os.fsencode(part)) <= 255 for part in parts)
