"""Backfill: tasks that finished before this process started, and whose end is not recorded or whose Job is not deleted."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field

from trainingtask_operator.cache.assume_cache import AssumeCache
from trainingtask_operator.cache.workqueue import Priority, WorkQueue
from trainingtask_operator.history.recorder import BATCH_ROWS, Recorder
from trainingtask_operator.kube_objects import Key, Object, has_ttl, is_finished


@dataclass
class Backfill:
    """Enqueue the finished tasks that still need a reconcile; of ten thousand, most need none."""

    cache: AssumeCache
    queue: WorkQueue[Key]
    recorder: Recorder
    _pending: dict[Key, None] = field(default_factory=dict, init=False)  # in order
    _wake_up: asyncio.Event = field(default_factory=asyncio.Event, init=False)

    def add(self, keys: Iterable[Key]) -> None:
        """Enqueue finished tasks for the lookup."""
        self._pending |= dict.fromkeys(keys)
        self._wake_up.set()

    def discard(self, key: Key) -> None:
        """Drop a deleted task."""
        self._pending.pop(key, None)

    async def run(self) -> None:
        """Query the history for the tasks, in batches, until cancelled."""
        while True:
            self._wake_up.clear()
            while self._pending:
                keys = list(self._pending)[:BATCH_ROWS]
                batch = [(key, task) for key in keys for task in self.cache.tasks.get(key, [])]
                recorded = await self.recorder.find_recorded([task for _, task in batch])
                for key, task in batch:
                    if task["metadata"]["uid"] not in recorded or has_ttl(task) or self._has_unfinished_job(task):
                        self.queue.add(key, priority=Priority.LOW)
                for key in keys:
                    self.discard(key)
                await asyncio.sleep(0)
            await self._wake_up.wait()

    def _has_unfinished_job(self, task: Object) -> bool:
        """Return whether the former process ended before it had deleted the Job, which runs on after its task."""
        job = self.cache.observe_children(task).job
        return job is not None and not is_finished(job)
