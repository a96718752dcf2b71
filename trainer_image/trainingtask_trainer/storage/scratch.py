"""What may be written on the node's disk: as much as there is space for, under names that stay in their folder."""

import os
import shutil
from pathlib import Path

from trainingtask_api.formatting import format_size
from trainingtask_api.names import ENV_STORAGE_LIMIT
from trainingtask_api.reasons import Reason
from trainingtask_trainer.errors import Fault, UserError


def check_free_space(folder: Path, needed: int, what: str) -> None:
    """Raise an error when there is no room for `needed` bytes in a folder on the node; `what` names the download.

    Raises
    ------
    UserError
        When it is more than the pod may write, for which the kubelet would evict it.
    Fault
        When the disk has less space; another node may have more.
    """
    limit = int(os.environ.get(ENV_STORAGE_LIMIT) or 0)  # 0 as well: of a node that does not measure its disk
    if 0 < limit < needed:
        raise UserError(
            Reason.STORAGE_EXCEEDED,
            f"{what} has {format_size(needed)}, and the pod may write {format_size(limit)}: raise resources.storage",
        )
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise Fault(
            Reason.NO_SPACE_LEFT,
            f"{what} has {format_size(needed)}, and the disk of {folder} has {format_size(free)} free",
        )


def is_file_name(name: str) -> bool:
    """Return whether a name from the server is one of a file below a folder."""
    parts = name.split("/")
    return all(part not in ("", ".", "..") and part.isprintable() and len(os.fsencode(part)) <= 255 for part in parts)
