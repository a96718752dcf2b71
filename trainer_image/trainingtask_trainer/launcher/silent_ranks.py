"""The ranks that do not answer: a collective that times out names none."""

import os
import time
from datetime import timedelta

from torch.distributed import DistError, TCPStore  # type: ignore[attr-defined] # in no `__all__`

from trainingtask_trainer.runtime.processes import Processes

_WAIT_SECONDS = 5.0
_POLL_SECONDS = 0.1


def find_silent_ranks(processes: Processes) -> list[int]:
    """Return the ranks that have not found out within seconds of this one that a collective timed out.

    Empty where the store of the process group cannot be asked.
    """
    try:
        store = TCPStore(
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=False,
            timeout=timedelta(seconds=_WAIT_SECONDS),
            wait_for_workers=False,
        )
        store.set(_name_key(processes.rank), "")
        deadline = time.monotonic() + _WAIT_SECONDS
        silent = list(range(processes.world_size))
        while silent and time.monotonic() < deadline:
            silent = [rank for rank in silent if not store.check([_name_key(rank)])]
            time.sleep(_POLL_SECONDS)
    except DistError:
        return []
    return silent


def _name_key(rank: int) -> str:
    return f"timed-out/{rank}"
