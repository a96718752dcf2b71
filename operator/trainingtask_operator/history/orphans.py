"""Rows of tasks that were deleted while no operator was there to see it: found by their names, and closed."""

import asyncio
import logging
import re
from collections.abc import Callable
from typing import Any

from trainingtask_api.names import TASK_NAME_PATTERN
from trainingtask_history.errors import HistoryError
from trainingtask_history.maintenance import OpenRun
from trainingtask_operator.cache.store import uid_of
from trainingtask_operator.client.kubernetes import Cluster, ClusterError
from trainingtask_operator.history.recorder import HistoryWriter
from trainingtask_operator.malformed import skip

log = logging.getLogger(__name__)

FIRST_LOOK_SECONDS = 5.0
LOOK_SECONDS = 300.0


class _Look:
    """One look at all open rows. What a row holds is its trainer's: it is asked for by its name and proves nothing."""

    def __init__(self, cluster: Cluster, is_watched: Callable[[str], bool], logged: set[Any]) -> None:
        self.is_complete = True  # every row got an answer
        self.bad: set[Any] = set()  # ids of rows that no task can have
        self._cluster = cluster
        self._is_watched = is_watched
        self._logged = logged

    async def exists(self, run: OpenRun) -> bool:
        """Tell whether the row's task is there, or may be.

        Raises
        ------
        ClusterError
            When the API server does not answer: the other rows would wait for it as well.
        """
        if self._is_watched(run.task_uid):
            return True
        if not (re.fullmatch(TASK_NAME_PATTERN, run.namespace) and re.fullmatch(TASK_NAME_PATTERN, run.name)):
            self._skip(run, f"no task can be called {run.namespace!r:.70}/{run.name!r:.70}")
            return True
        try:
            task = await self._cluster.get_task(run.namespace, run.name)
        except ClusterError as error:
            # A row is closed for good. A 404 that does not name the task is about the resource: not served at the moment.
            if error.not_found and f'"{run.name}"' in str(error):
                return False
            if error.status == 0:
                raise
            log.warning("a row of %s/%s stays open for now: %s", run.namespace, run.name, error)
            self.is_complete = False
            return True
        uid = uid_of(task)
        if not uid:
            self._skip(run, f"what is called {run.namespace}/{run.name} has no uid")
            return True
        return uid == run.task_uid

    def _skip(self, run: OpenRun, why: str) -> None:
        self.bad.add(run.id)
        if run.id not in self._logged:
            skip("row", f"{run.id}", ValueError(why))


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
    logged: set[Any] = set()
    delay = FIRST_LOOK_SECONDS
    while True:
        await asyncio.sleep(delay)
        look = _Look(cluster, is_watched, logged)
        try:
            await history.close_orphans(look.exists)
        except (HistoryError, ClusterError) as error:
            log.warning("rows of deleted tasks stay open for now: %s", error)
            delay = FIRST_LOOK_SECONDS
        else:
            delay = LOOK_SECONDS if look.is_complete else FIRST_LOOK_SECONDS
            logged = look.bad
