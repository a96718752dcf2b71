"""The periodic resync: compare the cache with a live list, and enqueue every unfinished task."""

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from trainingtask_operator.cache.assume_cache import AssumeCache
from trainingtask_operator.cache.workqueue import Priority, WorkQueue
from trainingtask_operator.client.errors import ClusterError
from trainingtask_operator.client.kubernetes import KubernetesClient
from trainingtask_operator.kube_objects import Key, get_uid
from trainingtask_operator.manager.gauges import TaskGauges

RESYNC_SECONDS = 300.0

log = logging.getLogger(__name__)


@dataclass
class Resync:
    """The loop, and its results that health checks read."""

    cache: AssumeCache
    queue: WorkQueue[Key]
    gauges: TaskGauges
    namespaces: Sequence[str | None] = (None,)  # to list; None stands for all
    last_run: float = field(default_factory=time.monotonic)  # of the last complete comparison
    missing: set[str] = field(default_factory=set)  # uids that two live lists in a row showed and no watch did

    async def run(self, client: KubernetesClient) -> None:
        """Resync periodically until cancelled."""
        missing_before: set[str] = set()
        while True:
            await asyncio.sleep(RESYNC_SECONDS)
            cached = self.cache.uids()  # before the list: what is created meanwhile is not stale
            try:
                live = await self._list_uids(client)
            except ClusterError as error:
                log.warning("resync: %s", error)
                continue
            self._evict_stale(cached - live)
            missing = live - self.cache.uids()
            self.missing, missing_before = missing & missing_before, missing
            self.last_run = time.monotonic()
            for key in self.cache.tasks.get_unfinished_keys():
                self.queue.add(key, priority=Priority.LOW)

    def _evict_stale(self, uids: set[str]) -> None:
        if uids:
            log.info("resync: %d objects were deleted while no watch was looking", len(uids))
            self.cache.evict_stale(uids)
            for uid in uids:
                self.gauges.forget(uid)

    async def _list_uids(self, client: KubernetesClient) -> set[str]:
        """Return the uids of all live tasks, Jobs, JobSets and pods.

        Raises
        ------
        ClusterError
            A list fails, or JobSets are cached and not served: an API server also answers so while it starts.
        """
        uids = set()
        for namespace in self.namespaces:
            for kind in ("tasks", "jobs", "jobsets", "pods"):
                try:
                    async for items, _ in client.list_objects(kind, namespace):
                        uids |= {get_uid(item) for item in items}
                except ClusterError as error:
                    is_gone = error.status == 403 and namespace is not None  # the rights in a namespace go with it
                    is_absent = kind == "jobsets" and error.is_not_served and not self.cache.jobsets.uids()
                    if not is_gone and not is_absent:
                        raise
        return uids
