"""Rows of tasks that were deleted while no operator was there to see it: found by their names, and closed."""

import asyncio
import logging
from collections.abc import Callable

from trainingtask_api.store import HistoryError, OpenRun
from trainingtask_operator.cluster import Cluster, ClusterError
from trainingtask_operator.history import HistoryWriter

log = logging.getLogger(__name__)

FIRST_LOOK_SECONDS = 5.0
LOOK_SECONDS = 300.0


async def close_orphans(history: HistoryWriter, cluster: Cluster, is_watched: Callable[[str], bool]) -> None:
    """Look for such rows after the start, and now and then: a watch that was down for long misses deletions too.

    Parameters
    ----------
    history
        Where the rows are.
    cluster
        Asked about the tasks that no watch shows.
    is_watched
        Tells whether a watch shows the task of a uid.
    """

    async def exists(run: OpenRun) -> bool:
        if is_watched(run.task_uid):
            return True
        try:
            task = await cluster.get_task(run.namespace, run.name)
        except ClusterError as error:
            # A row is closed for good. A 404 that does not name the task is about the resource: not served at the moment.
            if error.not_found and f'"{run.name}"' in str(error):
                return False
            raise
        return bool(task["metadata"]["uid"] == run.task_uid)

    delay = FIRST_LOOK_SECONDS
    while True:
        await asyncio.sleep(delay)
        try:
            await history.close_orphans(exists)
        except (HistoryError, ClusterError) as error:
            log.warning("rows of deleted tasks stay open for now: %s", error)
            delay = FIRST_LOOK_SECONDS
        else:
            delay = LOOK_SECONDS
