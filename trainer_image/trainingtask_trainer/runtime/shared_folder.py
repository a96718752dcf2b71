"""The folder on the node that the processes of one pod share: what its first process prepares, the others find there."""

import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from trainingtask_trainer.runtime.processes import Processes

ENV_SHARED_FOLDER: Final = "TRAININGTASK_SHARED_FOLDER"
"""The launcher sets it for its workers."""
_POLL_SECONDS = 0.1


def get_shared_folder() -> Path | None:
    """Return the folder, None where this process is the only one of its pod."""
    folder = os.environ.get(ENV_SHARED_FOLDER)
    return Path(folder) if folder else None


@contextmanager
def enter_first_in_pod(name: str) -> Iterator[bool]:
    """Let the pod's first process enter at once and the others after it has left; yield whether this is the first.

    A first process that fails ends the others too, which the launcher interrupts.

    Parameters
    ----------
    name
        What is prepared: unique in the run, and the same in all processes.
    """
    folder = get_shared_folder()
    if folder is None:
        yield True
        return
    is_first = Processes.from_environment().local_rank == 0
    marker = folder / f"{hashlib.sha256(name.encode()).hexdigest()}.done"
    if not is_first:
        while not marker.exists():
            time.sleep(_POLL_SECONDS)
    yield is_first
    if is_first:
        marker.touch()
