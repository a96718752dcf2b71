"""The commits of hub repositories that rank 0 has read, for the other ranks: a branch may move in between."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from trainingtask_api.status import TrainingReport
from trainingtask_trainer.reporting.reporter import Reporter, Sink
from trainingtask_trainer.runtime.processes import Processes
from trainingtask_trainer.runtime.signals import InterruptHandler

if TYPE_CHECKING:
    from trainingtask_trainer.runtime.rank_store import RankStore

_COMMIT = re.compile(r"[0-9a-f]{40}")


class CommitSink:
    """Tells the other ranks each commit that rank 0 reports."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._store: RankStore | None = None
        self._told: set[str] = set()

    def send(self, report: TrainingReport) -> None:
        """Tell commits that are new in this report."""
        for source in report.sources or ():
            key = _name_key(source.field, source.address)
            if source.commit and key not in self._told:
                self._store = self._store or _connect(self._processes)
                self._store.set(key, source.commit)
                self._told.add(key)

    def finish(self, report: TrainingReport, timeout: float | None) -> None:
        """Do nothing: all is read by then."""

    def wait(self) -> None:
        """Return at once."""


class FollowingReporter(Reporter):
    """The reporter of a rank that is not 0, which takes the commits that rank 0 tells."""

    def __init__(
        self, processes: Processes, sinks: Sequence[Sink], attempt: int, interrupts: InterruptHandler | None = None
    ) -> None:
        super().__init__(sinks, attempt, interrupts)
        self._processes = processes

    def find_commit(self, field: str, address: str) -> str | None:
        """Return the commit of a hub repository once rank 0 has read it."""
        commit = _connect(self._processes).wait_for(_name_key(field, address))
        return commit if _COMMIT.fullmatch(commit) else None


def _connect(processes: Processes) -> "RankStore":
    from trainingtask_trainer.runtime.rank_store import RankStore  # noqa: PLC0415 - imports torch

    return RankStore(processes)


def _name_key(field: str, address: str) -> str:
    return f"commit/{field}/{address}"
