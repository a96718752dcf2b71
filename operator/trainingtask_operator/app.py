"""The running operator: the queue, its workers, the resync and the history writer, started and stopped together."""

import asyncio
import contextlib
import logging
import os
from datetime import UTC, datetime
from typing import Any

from trainingtask_api import names
from trainingtask_operator.cluster import Cluster, ClusterError, connect
from trainingtask_operator.history import HistoryWriter, NoHistory, cancelled_row
from trainingtask_operator.reconciler import Reconciler, parse
from trainingtask_operator.settings import Settings
from trainingtask_operator.view import WatchedObjects
from trainingtask_operator.workqueue import WorkQueue

WORKERS = 8
RESYNC_SECONDS = 300.0

log = logging.getLogger(__name__)


class App:
    """Everything between the watches and the API server. Handlers call `saw`; the rest runs by itself."""

    def __init__(self, settings: Settings) -> None:
        self.queue: WorkQueue[tuple[str, str]] = WorkQueue()
        self._settings = settings
        self._resources = contextlib.AsyncExitStack()
        self._view: WatchedObjects | None = None
        self._history: HistoryWriter | NoHistory | None = None

    async def start(self, tasks: Any, jobs: Any, pods: Any) -> None:
        """Connect to the cluster and start working over the three indexes."""
        cluster = await self._resources.enter_async_context(connect())
        view = self._view = WatchedObjects(tasks, jobs, pods)
        url = os.environ.get(names.ENV_HISTORY_URL)
        history = self._history = HistoryWriter(url) if url else NoHistory()
        reconciler = Reconciler(cluster, view, self._settings, history)
        loops = [self._work(reconciler) for _ in range(WORKERS)]
        loops.append(self._resync(cluster, view))
        if isinstance(history, HistoryWriter):
            loops.append(history.run())
        running = [asyncio.create_task(loop) for loop in loops]
        self._resources.push_async_callback(_cancel, running)
        for task in running:
            task.add_done_callback(_die_loudly)

    async def stop(self) -> None:
        """Stop the loops and close the connection; what was not done is done after the next start."""
        await self._resources.aclose()

    def saw(self, body: Any, key: tuple[str, str]) -> None:
        """Take a watch event."""
        if self._view is not None:
            self._view.saw(body)
        self.queue.add(key)

    def deleted(self, body: Any) -> None:
        """Take the last state of a task that was deleted: an unfinished one was cancelled."""
        task = parse(body)
        if self._history is not None and task is not None and not (task.status and task.status.finished_at):
            self._history.submit([cancelled_row(task, datetime.now(UTC))])

    async def _work(self, reconciler: Reconciler) -> None:
        while True:
            key = await self.queue.get()
            try:
                await reconciler.reconcile(*key)
            except ClusterError as error:
                delay = self.queue.retry(key)
                log.warning("%s/%s: %s; next try in %.1f s", *key, error, delay)
            except Exception:
                # A defect must not take the other tasks down with it: log it in full, keep trying this one.
                log.exception("%s/%s: the reconcile failed", *key)
                self.queue.retry(key)
            else:
                self.queue.forget(key)
            finally:
                self.queue.done(key)

    async def _resync(self, cluster: Cluster, view: WatchedObjects) -> None:
        """Hold the indexes against a live list now and then, and look at every task again."""
        while True:
            await asyncio.sleep(RESYNC_SECONDS)
            believed = view.uids()  # before the list: what is created meanwhile is not taken for a ghost
            try:
                live = await cluster.list_uids()
            except ClusterError as error:
                log.warning("resync: %s", error)
                continue
            ghosts = believed - live
            if ghosts:
                log.info("resync: %d objects were deleted while no watch was looking", len(ghosts))
                view.bury(ghosts)
            for key in view.tasks():
                self.queue.add(key)


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _die_loudly(task: asyncio.Task[None]) -> None:
    """End the process when a loop ends by itself: a restart is better than an operator that only looks alive."""
    if not task.cancelled():
        log.critical("a background loop ended", exc_info=task.exception())
        os._exit(1)
