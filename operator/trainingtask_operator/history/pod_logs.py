"""The last lines of a trainer's log, for its history row."""

import logging
from collections.abc import Awaitable, Callable

from trainingtask_operator.client.errors import ClusterError
from trainingtask_operator.client.kubernetes import KubernetesClient

log = logging.getLogger(__name__)


def build_log_reader(client: KubernetesClient) -> Callable[[str, str], Awaitable[str | None]]:
    """Return a function of namespace and pod: the tail of its log, "" when there is none, None when it cannot be read."""

    async def read(namespace: str, pod: str) -> str | None:
        try:
            return await client.read_log_tail(namespace, pod)
        except ClusterError as error:
            log.info("%s/%s: no log to keep: %s", namespace, pod, error)
            # 400: the container never started. Other errors do not show whether there is a log.
            return "" if error.is_not_found or error.status == 400 else None

    return read
