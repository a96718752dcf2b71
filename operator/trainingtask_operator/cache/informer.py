"""Informers: one list, then a watch, for ever.

kopf's watch would give every object a worker of its own: in a burst, the events of a pod that changes six times in its life
wait behind a thousand of them (benchmarks/operator). And it ends the process where an object is nested too deep for its
parser, or where a namespace, or the rights in it, go (docs/adr/0024-informers-for-everything.md).
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import aclosing

from trainingtask_operator.client.errors import ClusterError
from trainingtask_operator.client.kubernetes import KubernetesClient
from trainingtask_operator.kube_objects import Object, get_resource_version, get_uid

ERROR_PAUSE_SECONDS = 1.0
RECONNECT_PAUSE_SECONDS = 0.1
NOT_SERVED_PAUSE_SECONDS = 10.0

log = logging.getLogger(__name__)


class Informer:
    """List and watch one kind of object, and call the event handlers in order.

    Attributes
    ----------
    synced
        Set once the first list is complete.
    """

    def __init__(
        self,
        client: KubernetesClient,
        kind: str,
        on_event: Callable[[str | None, Object], None],
        on_list: Callable[[set[str]], None],
        *,
        namespace: str | None = None,
        is_optional: bool = False,
    ) -> None:
        """Make an informer of one kind.

        Parameters
        ----------
        client
            The API server.
        kind
            A kind of `KubernetesClient.list_objects`.
        on_event
            Called with the event's type, None for a listed object, and the object; it must not raise.
        on_list
            Called with the uids of all objects after each complete list.
        namespace
            The namespace, None for all. One without rights keeps no other waiting.
        is_optional
            Whether the cluster may be without the kind; it is waited for, and its objects are those that were known.
        """
        self.synced = asyncio.Event()
        self._client = client
        self._kind = kind
        self._on_event = on_event
        self._on_list = on_list
        self._namespace = namespace
        self._is_optional = is_optional
        self._version = ""  # to watch from; "" when a list is needed

    async def run(self) -> None:
        """List and watch until cancelled; catch up after the API server was unreachable."""
        while True:
            try:
                if not self._version:
                    await self._list()
                await self._watch()
            except ClusterError as error:
                if self._is_absent(error):
                    self._version = ""
                    self.synced.set()
                    await asyncio.sleep(NOT_SERVED_PAUSE_SECONDS)
                    continue
                # Without an answer, or after 429, the version is still valid; after 410 Gone and other errors it is not.
                if error.status not in (0, 429):
                    self._version = ""
                log.warning("the watch of %s begins again: %s", self._kind, error)
                await asyncio.sleep(ERROR_PAUSE_SECONDS)
            else:
                await asyncio.sleep(RECONNECT_PAUSE_SECONDS)

    def _is_absent(self, error: ClusterError) -> bool:
        """Return whether there is nothing to watch, or not at the moment: no such kind, or a namespace that is gone."""
        if error.status == 403 and self._namespace is not None:
            if not self.synced.is_set() or self._version:
                log.warning("%s of namespace %s cannot be watched: %s", self._kind, self._namespace, error)
            return True
        return error.is_not_served and self._is_optional

    async def _list(self) -> None:
        uids = set()
        async for items, list_version in self._client.list_objects(self._kind, self._namespace):
            version = list_version
            for item in items:
                uids.add(get_uid(item))
                self._on_event(None, item)
        self._on_list(uids)
        self._version = version
        self.synced.set()

    async def _watch(self) -> None:
        async with aclosing(self._client.watch_objects(self._kind, self._version, self._namespace)) as events:
            async for event in events:
                if event["type"] != "BOOKMARK":
                    self._on_event(event["type"], event["object"])
                self._version = get_resource_version(event["object"]) or self._version
