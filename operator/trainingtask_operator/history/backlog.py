"""The rows that wait to be written: bounded, one version per row, and none that is written already."""

import asyncio
import itertools
import time
import uuid
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import NamedTuple

from trainingtask_api import TrainingTask
from trainingtask_history.tables import RunEvent, RunStatus, TrainingRun, run_id
from trainingtask_operator.kube_objects import Key

MAX_FORGOTTEN_ATTEMPTS = 1000  # of a deleted task: more than any has whose status was not edited
MAX_LOG_TRIES = 3  # to read a log, over 15 s by default
MAX_TRIES = 5  # to write a row that no task submits again, over 75 s by default

EventId = tuple[str, str, datetime]  # type, reason, time


class PendingRow(NamedTuple):
    """A row to be written, its events, and a digest that differs from that of an earlier version."""

    row: TrainingRun
    events: dict[EventId, RunEvent]
    digest: int


class Retry(NamedTuple):
    """How often a row could not be written, or not with its log, and when it is due again, on the monotonic clock."""

    tries: int = 0
    due: float = 0.0


class Backlog:
    """The queue in memory. A row without room is dropped: its task is asked for it again, and after a restart every task."""

    MAX_ROWS = 500  # with the scores of 28 labels a row takes 40 KB

    def __init__(self, retry_seconds: float) -> None:
        self._retry_seconds = retry_seconds
        self._rows: dict[uuid.UUID, PendingRow] = {}  # in order
        self._log_pods: dict[uuid.UUID, str] = {}  # id -> the pod whose log belongs into the row
        self._written_digests: dict[uuid.UUID, int] = {}  # of unfinished rows
        self._final: set[uuid.UUID] = set()  # finished rows that are written
        self._retries: dict[uuid.UUID, Retry] = {}  # of rows that could not be written, or not with their log
        self._deleted: set[uuid.UUID] = set()  # waiting rows of deleted tasks, which submit no more rows
        self._dropped: dict[Key, float] = {}  # tasks whose rows had no room -> when they are due
        self._added = asyncio.Event()
        self._emptied = asyncio.Event()

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, row_id: uuid.UUID) -> bool:
        return row_id in self._rows

    def add(self, row: TrainingRun, events: Sequence[RunEvent], log_pod: str | None) -> None:
        """Enqueue a row in the place of an earlier version, unless it is written already or there is no room."""
        row_events = {(event.type, event.reason, event.time): event for event in events if event.run_id == row.id}
        digest = _compute_digest(row, row_events)
        if row.id in self._final or self._written_digests.get(row.id) == digest:
            return
        earlier = self._rows.get(row.id)
        retry = self._retries.get(row.id, Retry())
        if earlier is None and (len(self._rows) >= self.MAX_ROWS or retry.due > time.monotonic()):
            self._dropped[row.namespace, row.name] = retry.due
            return
        if earlier is not None and retry.due and earlier.digest != digest:
            self._retries[row.id] = retry._replace(due=0.0)
        if earlier is not None and earlier.row.finish_time is not None and row.finish_time is None:
            row = earlier.row  # the task was deleted during a reconcile, which then submits an open version
        self._rows[row.id] = PendingRow(row, earlier.events | row_events if earlier else row_events, digest)
        # JobSet deletes a failed pod before the next attempt makes the row final.
        if log_pod is not None and (row.finish_time is not None or row.status == RunStatus.INTERRUPTED):
            self._log_pods[row.id] = log_pod
        if row.status == RunStatus.CANCELLED:
            self._deleted.add(row.id)
        self._added.set()
        self._emptied.clear()

    async def wait_until_added(self) -> None:
        """Wait until there is a row, or a task to be asked for one."""
        while not self._rows:
            self._emptied.set()
            if self._dropped:
                return
            self._added.clear()
            await self._added.wait()

    async def wait_until_empty(self) -> None:
        """Wait until all rows are written."""
        if self._rows:
            await self._emptied.wait()

    def peek(self, number: int) -> list[PendingRow]:
        """Return the first rows that are due."""
        now = time.monotonic()
        due = (pending for row_id, pending in self._rows.items() if self._retries.get(row_id, Retry()).due <= now)
        return list(itertools.islice(due, number))

    def get_tries(self, row_id: uuid.UUID) -> int:
        """Return how often the row could not be written, or not with its log."""
        return self._retries.get(row_id, Retry()).tries

    def get_log_pod(self, row_id: uuid.UUID) -> str | None:
        """Return the pod whose log belongs into the row."""
        return self._log_pods.get(row_id)

    def mark_written(self, pending: PendingRow) -> None:
        """Remove a written row, unless a newer version was added meanwhile."""
        row = pending.row
        if row.finish_time is None:
            self._written_digests[row.id] = pending.digest
        else:
            self._written_digests.pop(row.id, None)
            if row.id not in self._deleted:
                self._final.add(row.id)
        self._retries.pop(row.id, None)
        if self._rows[row.id] is pending:
            self.discard(row.id)

    def discard(self, row_id: uuid.UUID) -> None:
        """Remove a row for good."""
        self._rows.pop(row_id, None)
        self._log_pods.pop(row_id, None)
        self._retries.pop(row_id, None)
        self._deleted.discard(row_id)

    def is_of_deleted_task(self, row_id: uuid.UUID) -> bool:
        """Return whether no task will submit the row again."""
        return row_id in self._deleted

    def back_off(self, row_id: uuid.UUID, *, is_locked: bool = False) -> None:
        """Postpone a row for a time, which doubles with each try unless another session held the row."""
        tries = self.get_tries(row_id)
        tries = max(tries, 1) if is_locked else tries + 1
        pause = self._retry_seconds * 2 ** (0 if is_locked else min(tries, MAX_TRIES) - 1)
        self._retries[row_id] = Retry(tries, time.monotonic() + pause)
        self.postpone(row_id)

    def postpone(self, row_id: uuid.UUID) -> None:
        """Move a row that cannot be written to the end; drop it for now when there are many."""
        pending = self._rows.pop(row_id)
        if len(self._rows) < self.MAX_ROWS // 4:  # so that there is room for others
            self._rows[row_id] = pending
        elif row_id in self._deleted:
            self.discard(row_id)
        else:
            self._dropped[pending.row.namespace, pending.row.name] = self._retries.get(row_id, Retry()).due

    def pop_dropped(self) -> list[Key]:
        """Return tasks whose rows were dropped and are due, as far as there is room now; the namespaces take turns."""
        if len(self._rows) >= self.MAX_ROWS // 2:
            return []
        by_namespace: dict[str, list[Key]] = {}
        now = time.monotonic()
        for key in sorted(key for key, due in self._dropped.items() if due <= now):
            by_namespace.setdefault(key[0], []).append(key)
        turns = (key for turn in itertools.zip_longest(*by_namespace.values()) for key in turn if key is not None)
        keys = list(itertools.islice(turns, self.MAX_ROWS // 2))
        for key in keys:
            del self._dropped[key]
        return keys

    def is_final(self, row_id: uuid.UUID) -> bool:
        """Return whether the finished row is written."""
        return row_id in self._final

    def mark_final(self, row_ids: set[uuid.UUID]) -> None:
        """Take these rows as written; they are not written again."""
        self._final |= row_ids

    def forget(self, task: TrainingTask) -> None:
        """Free the memory of a finished and deleted task."""
        last = (task.status and task.status.attempt) or 1
        for number in range(max(1, last - MAX_FORGOTTEN_ATTEMPTS), last + 1):
            row_id = run_id(task.metadata.uid or "", number)
            self._final.discard(row_id)
            self._written_digests.pop(row_id, None)
            if row_id in self._rows:
                self._deleted.add(row_id)
            else:
                self._retries.pop(row_id, None)


def _compute_digest(row: TrainingRun, event_ids: Collection[EventId]) -> int:
    return hash(
        (
            row.status,
            row.finish_time,
            row.start_time,
            row.error_reason,
            row.node,
            row.namespace_uid,
            bool(row.training_result),
            frozenset(event_ids),
        )
    )
