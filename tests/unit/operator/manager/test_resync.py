"""The periodic comparison of the cache with live lists."""

import asyncio
from collections.abc import AsyncIterator
from typing import cast
from unittest.mock import Mock

from support.virtual_time import in_virtual_time
from trainingtask_operator.cache.assume_cache import AssumeCache
from trainingtask_operator.cache.workqueue import WorkQueue
from trainingtask_operator.client.errors import ClusterError
from trainingtask_operator.client.kubernetes import KubernetesClient
from trainingtask_operator.kube_objects import Object
from trainingtask_operator.manager.resync import RESYNC_SECONDS, Resync


class Client:
    """An API server with no object, which serves JobSets or does not."""

    serves_jobsets = False

    async def list_objects(self, kind: str, namespace: str | None) -> AsyncIterator[tuple[list[Object], str]]:
        if kind == "jobsets" and not self.serves_jobsets:
            raise ClusterError(404, "the server could not find the requested resource")
        yield [], "1"


@in_virtual_time
async def test_jobsets_that_are_not_served_for_a_moment_stay_in_the_cache() -> None:
    cache, client = AssumeCache(), Client()
    cache.jobsets.put("task", "jobset", {"kind": "JobSet", "metadata": {"uid": "jobset"}, "status": {}})
    resync = Resync(cache, WorkQueue(), Mock())
    compared = resync.last_run
    loop = asyncio.create_task(resync.run(cast("KubernetesClient", client)))
    await asyncio.sleep(RESYNC_SECONDS * 1.5)
    assert (cache.jobsets.uids(), resync.last_run) == ({"jobset"}, compared)
    client.serves_jobsets = True
    await asyncio.sleep(RESYNC_SECONDS)
    assert cache.jobsets.uids() == set()
    assert resync.last_run > compared
    loop.cancel()


@in_virtual_time
async def test_a_cluster_without_jobset_is_compared() -> None:
    resync = Resync(AssumeCache(), WorkQueue(), Mock())
    compared = resync.last_run
    loop = asyncio.create_task(resync.run(cast("KubernetesClient", Client())))
    await asyncio.sleep(RESYNC_SECONDS * 1.5)
    assert resync.last_run > compared
    loop.cancel()
