"""Orphaned rows: those of tasks that were deleted while no operator ran. They are found by name, and closed."""

import asyncio
import logging
import re
from collections.abc import Callable, Collection
from typing import Any

from trainingtask_api.names import TASK_NAME_PATTERN
from trainingtask_history.errors import HistoryError
from trainingtask_history.maintenance import OpenRun
from trainingtask_operator.client.errors import ClusterError
from trainingtask_operator.client.protocol import Cluster
from trainingtask_operator.history.recorder import RunRecorder
from trainingtask_operator.kube_objects import get_uid
from trainingtask_operator.malformed_records import report_malformed

log = logging.getLogger(__name__)

RETRY_SECONDS = 5.0  # also the delay of the first search
INTERVAL_SECONDS = 300.0


class _Search:
    """One search of all open rows. A row is written by its trainer: its names are untrusted."""

    def __init__(
        self,
        cluster: Cluster,
        is_watched: Callable[[str], bool],
        reported: set[Any],
        namespaces: Collection[str] | None,
    ) -> None:
        self.is_complete = True  # the API server answered for every row
        self.skipped: set[Any] = set()  # ids of rows that no task can have, or whose task may not be read
        self._cluster = cluster
        self._is_watched = is_watched
        self._reported = reported
        self._namespaces = namespaces

    async def exists(self, run: OpenRun) -> bool:
        """Return whether the row's task exists, or may exist.

        Raises
        ------
        ClusterError
            When the API server does not answer: it would not for the other rows either.
        """
        if self._is_watched(run.task_uid):
            return True
        if self._namespaces is not None and run.namespace not in self._namespaces:
            return True
        if not (re.fullmatch(TASK_NAME_PATTERN, run.namespace) and re.fullmatch(TASK_NAME_PATTERN, run.name)):
            self._report(run, f"no task can be called {run.namespace!r:.70}/{run.name!r:.70}")
            return True
        try:
            task = await self._cluster.get_task(run.namespace, run.name)
        except ClusterError as error:
            # Closing is final. A 404 that does not name the task is about the resource: not served at the moment.
            if error.is_not_found and f'"{run.name}"' in str(error):
                return False
            if error.status == 0:
                raise
            if error.status == 403 and self._namespaces is not None:  # its rights are taken away, or went with it
                if run.id not in self._reported:
                    log.warning("a row of %s/%s stays open: %s", run.namespace, run.name, error)
                self.skipped.add(run.id)
                return True
            log.warning("a row of %s/%s stays open for now: %s", run.namespace, run.name, error)
            self.is_complete = False
            return True
        uid = get_uid(task)
        if not uid:
            self._report(run, f"what is called {run.namespace}/{run.name} has no uid")
            return True
        return uid == run.task_uid

    def _report(self, run: OpenRun, problem: str) -> None:
        self.skipped.add(run.id)
        if run.id not in self._reported:
            report_malformed("row", f"{run.id}", ValueError(problem))


async def close_orphans(
    recorder: RunRecorder,
    cluster: Cluster,
    is_watched: Callable[[str], bool],
    namespaces: Collection[str] | None = None,
) -> None:
    """Close orphaned rows after the start and periodically: a watch that was down for long misses deletions as well.

    Parameters
    ----------
    recorder
        The history.
    cluster
        Asked for the tasks that no watch shows.
    is_watched
        Returns whether a watch shows the task of a uid.
    namespaces
        Where tasks can be read, None for everywhere.
    """
    reported: set[Any] = set()
    delay = RETRY_SECONDS
    while True:
        await asyncio.sleep(delay)
        search = _Search(cluster, is_watched, reported, namespaces)
        try:
            await recorder.close_orphans(search.exists)
        except (HistoryError, ClusterError) as error:
            log.warning("rows of deleted tasks stay open for now: %s", error)
            delay = RETRY_SECONDS
        else:
            delay = INTERVAL_SECONDS if search.is_complete else RETRY_SECONDS
            reported = search.skipped
