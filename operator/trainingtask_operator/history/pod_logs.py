"""The last lines of a trainer's log, for its history row."""

import logging
from collections.abc import Awaitable, Callable

from trainingtask_operator.client.kubernetes import Cluster, ClusterError

log = logging.getLogger(__name__)


def log_reader(cluster: Cluster) -> Callable[[str, str], Awaitable[str | None]]:
    """Return a function of namespace and pod: the tail of its log, "" when there is none, None when that is unknown."""

    async def read(namespace: str, pod: str) -> str | None:
        try:
            return await cluster.log_tail(namespace, pod)
        except ClusterError as error:
            log.info("%s/%s: no log to keep: %s", namespace, pod, error)
            # 400: the container never started. Whatever else is no answer to whether there is a log.
            return "" if error.not_found or error.status == 400 else None

    return read
