"""What ranks tell each other outside of collectives, through the store in which their process group forms.

Waiting for another rank has no time limit: on one node the launcher ends all ranks when one fails; the launchers of other
nodes note here that they end.
"""

import os
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Final

from torch.distributed import DistError, TCPStore  # type: ignore[attr-defined] # in no `__all__`

from trainingtask_api.reasons import Reason
from trainingtask_trainer.errors import Fault
from trainingtask_trainer.runtime.processes import Processes

ENDED_KEY: Final = "ended"
"""Set once the launcher of a node ends after a failure."""
_REQUEST_TIMEOUT = timedelta(seconds=30)
_SILENCE_SECONDS = 5.0
_POLL_SECONDS = 0.1


class RankStore:
    """A connection to the store, which torch's agent serves."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._store = TCPStore(
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=False,
            timeout=_REQUEST_TIMEOUT,
            wait_for_workers=False,
        )

    def meet(self, place: str) -> None:
        """Return once all ranks have called this with the same `place`, however long their work before it takes."""
        self._store.add(place, 1)
        self._wait_until(lambda: self._store.add(place, 0) >= self._processes.world_size)

    def set(self, name: str, value: str) -> None:
        """Tell the other ranks a value."""
        self._store.set(name, value)

    def wait_for(self, name: str) -> str:
        """Return the value of a name once a rank has told it."""
        self._wait_until(lambda: self._store.check([name]))
        value: bytes = self._store.get(name)
        return value.decode("utf-8", "replace")

    def _wait_until(self, is_met: Callable[[], bool]) -> None:
        while not is_met():
            if self._store.check([ENDED_KEY]):
                raise Fault(Reason.PEER_LOST, "the processes of another node ended")
            time.sleep(_POLL_SECONDS)

    def find_silent_ranks(self) -> list[int]:
        """Return the ranks that do not call this within seconds, which is what a rank does whose collective timed out."""
        self._store.set(f"timed-out/{self._processes.rank}", "")
        deadline = time.monotonic() + _SILENCE_SECONDS
        silent = list(range(self._processes.world_size))
        try:
            while silent and time.monotonic() < deadline:
                silent = [rank for rank in silent if not self._store.check([f"timed-out/{rank}"])]
                time.sleep(_POLL_SECONDS)
        except DistError:
            return []  # the agent that serves the store has ended
        return silent
