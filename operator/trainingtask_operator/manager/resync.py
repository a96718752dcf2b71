"""The periodic resync: compare the cache with a live list, and enqueue every unfinished task."""

import asyncio
import logging
import time

from trainingtask_operator.cache.assume_cache import AssumeCache
from trainingtask_operator.cache.workqueue import Priority, WorkQueue
from trainingtask_operator.client.errors import ClusterError
from trainingtask_operator.client.kubernetes import KubernetesClient
from trainingtask_operator.kube_objects import Key, get_uid
from trainingtask_operator.manager.gauges import TaskGauges

RESYNC_SECONDS = 300.0

log = logging.getLogger(__name__)


class Resync:
    """The loop, and what health checks read of it.

    Attributes
    ----------
    last_run
        When the last comparison was complete, on the monotonic clock.
    missing
        Uids of objects that two live lists in a row showed and no watch did.
    """

    def __init__(self, cache: AssumeCache, queue: WorkQueue[Key], gauges: TaskGauges) -> None:
        self.last_run = time.monotonic()
        self.missing: set[str] = set()
        self._cache = cache
        self._queue = queue
        self._gauges = gauges

    async def run(self, client: KubernetesClient) -> None:
        """Resync periodically until cancelled."""
        missing_before: set[str] = set()
        while True:
            await asyncio.sleep(RESYNC_SECONDS)
            cached = self._cache.uids()  # before the list: what is created meanwhile is not stale
            try:
                live = await _list_uids(client)
            except ClusterError as error:
                log.warning("resync: %s", error)
                continue
            self._evict_stale(cached - live)
            missing = live - self._cache.uids()
            self.missing, missing_before = missing & missing_before, missing
            self.last_run = time.monotonic()
            for key in self._cache.tasks.get_unfinished_keys():
                self._queue.add(key, priority=Priority.LOW)

    def _evict_stale(self, uids: set[str]) -> None:
        if uids:
            log.info("resync: %d objects were deleted while no watch was looking", len(uids))
            self._cache.evict_stale(uids)
            for uid in uids:
                self._gauges.forget(uid)


async def _list_uids(client: KubernetesClient) -> set[str]:
    """Return the uids of all live tasks, Jobs and pods."""
    uids = {get_uid(item) async for item in client.list_tasks()}
    for kind in ("jobs", "pods"):
        async for items, _ in client.list_children(kind):
            uids |= {get_uid(item) for item in items}
    return uids
