"""Following the Jobs and pods of tasks: one list, then whatever changes, for ever.

kopf could watch them as well, but it gives every object a worker of its own: in a burst, the events of a pod that
changes six times in its life wait behind a thousand of them (benchmarks/operator). The tasks themselves are kopf's.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

from trainingtask_operator.cache.store import uid_of, version_of
from trainingtask_operator.client.kubernetes import Cluster, ClusterError

AFTER_TROUBLE_SECONDS = 1.0
AFTER_END_SECONDS = 0.1

Object = dict[str, Any]

log = logging.getLogger(__name__)


class Informer:
    """Follows one kind of object and tells what it sees, in order: what is listed with type None."""

    def __init__(
        self,
        cluster: Cluster,
        kind: str,
        seen: Callable[[str | None, Object], None],
        listed: Callable[[set[str]], None],
    ) -> None:
        """Follow the `kind` ("jobs" or "pods").

        Parameters
        ----------
        cluster
            What is listed and watched.
        kind
            "jobs" or "pods".
        seen
            Takes each object; it may not raise.
        listed
            Takes the uids of all there are, after each list.
        """
        self.synced = asyncio.Event()  # the first list is over
        self._cluster = cluster
        self._kind = kind
        self._seen = seen
        self._listed = listed
        self._version = ""  # to go on from; "" when a list is needed

    async def run(self) -> None:
        """Follow until cancelled; what is missed while the API server is away is caught up with."""
        while True:
            try:
                if not self._version:
                    await self._list()
                await self._watch()
            except ClusterError as error:
                # No answer, or a busy server: the version is still good. After 410 Gone, or worse, it is not.
                if error.status not in (0, 429):
                    self._version = ""
                log.warning("the watch of %s begins again: %s", self._kind, error)
                await asyncio.sleep(AFTER_TROUBLE_SECONDS)
            else:
                await asyncio.sleep(AFTER_END_SECONDS)

    async def _list(self) -> None:
        uids = set()
        async for items, of_list in self._cluster.children(self._kind):
            version = of_list
            for item in items:
                uids.add(uid_of(item))
                self._seen(None, item)
        self._listed(uids)
        self._version = version
        self.synced.set()

    async def _watch(self) -> None:
        async with aclosing(self._cluster.watch_children(self._kind, self._version)) as events:
            async for event in events:
                if event["type"] != "BOOKMARK":
                    self._seen(event["type"], event["object"])
                self._version = version_of(event["object"]) or self._version
