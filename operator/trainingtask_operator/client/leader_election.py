"""Leader election by a Lease, after client-go's.

A renewal is judged by this process's own clock from when it was first observed, never by another machine's timestamps,
and the leader stops well before another replica may acquire the Lease.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from trainingtask_operator import metrics
from trainingtask_operator.client.errors import ClusterError
from trainingtask_operator.client.kubernetes import KubernetesClient
from trainingtask_operator.kube_objects import Object

log = logging.getLogger(__name__)

LEASE_DURATION_SECONDS = 15
RENEW_DEADLINE_SECONDS = 10.0  # a leader that could not renew for so long stops; the others wait for the lease duration
RETRY_PERIOD_SECONDS = 2.0


class LeadershipLostError(Exception):
    """Another replica may lead from now on: this one must stop at once."""


class LeaderElector:
    """One replica's part in the election.

    Attributes
    ----------
    elected
        Set while this replica is the leader.
    """

    def __init__(
        self,
        client: KubernetesClient,
        namespace: str,
        name: str,
        identity: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._client = client
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._lease: Object | None = None
        self._observed: tuple[str | None, float] = (None, 0.0)  # resource version of the Lease, and since when
        self.elected = asyncio.Event()

    async def run(self) -> None:
        """Acquire the Lease, then renew it.

        Raises
        ------
        LeadershipLostError
            When the Lease was not renewed in time, or another replica holds it.
        """
        while not await self._try_acquire_or_renew():  # noqa: ASYNC110 - the event is in the cluster
            await asyncio.sleep(RETRY_PERIOD_SECONDS)
        log.info("this replica (%s) is the leader", self._identity)
        metrics.LEADER.set(1)
        self.elected.set()
        renewed = self._clock()
        while True:
            await asyncio.sleep(RETRY_PERIOD_SECONDS)
            before = self._clock()
            # A request that hangs must not outlast the remaining time, or two replicas lead at once.
            if await self._try_acquire_or_renew(renewed + RENEW_DEADLINE_SECONDS - before):
                renewed = before
            elif self._get_holder() != self._identity or self._clock() - renewed > RENEW_DEADLINE_SECONDS:
                raise LeadershipLostError(
                    f"the Lease {self._namespace}/{self._name} was not renewed: {self._get_holder()} holds it"
                )

    async def release(self) -> None:
        """Give the Lease up, so that another replica need not wait until it expires."""
        try:
            lease = await self._client.get_lease(self._namespace, self._name)
            if (lease.get("spec") or {}).get("holderIdentity") == self._identity:
                await self._client.replace_lease(self._build_lease(lease, holder=""))
        except ClusterError as error:
            log.info("the Lease stays until it runs out in %d s: %s", LEASE_DURATION_SECONDS, error)

    async def _try_acquire_or_renew(self, seconds: float = RENEW_DEADLINE_SECONDS) -> bool:
        """Try once, for at most so many seconds; return whether this replica holds the Lease."""
        try:
            async with asyncio.timeout(min(seconds, RENEW_DEADLINE_SECONDS / 2)):
                return await self._acquire_or_renew()
        except TimeoutError:
            log.warning("the Lease: the API server does not answer in time")
        except ClusterError as error:
            if not error.is_conflict:  # 409: another replica was faster
                log.warning("the Lease: %s", error)
        return False

    async def _acquire_or_renew(self) -> bool:
        try:
            lease = self._lease = await self._client.get_lease(self._namespace, self._name)
        except ClusterError as error:
            if not error.is_not_found:
                raise
            self._lease = await self._client.create_lease(self._build_lease({}, self._identity))
            return True
        version = lease["metadata"]["resourceVersion"]
        if version != self._observed[0]:
            self._observed = (version, self._clock())
        if (
            self._get_holder() not in ("", self._identity)
            and self._clock() < self._observed[1] + LEASE_DURATION_SECONDS
        ):
            return False
        self._lease = await self._client.replace_lease(self._build_lease(lease, self._identity))
        return True

    def _get_holder(self) -> str:
        return ((self._lease or {}).get("spec") or {}).get("holderIdentity") or ""

    def _build_lease(self, lease: Object, holder: str) -> Object:
        """Return the Lease with this holder, renewed now."""
        now = datetime.now(UTC).isoformat(timespec="microseconds")
        spec: dict[str, Any] = dict(lease.get("spec") or {})
        if holder and spec.get("holderIdentity") != holder:
            spec |= {"acquireTime": now, "leaseTransitions": spec.get("leaseTransitions", -1) + 1}
        spec |= {"holderIdentity": holder, "leaseDurationSeconds": LEASE_DURATION_SECONDS, "renewTime": now}
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": lease.get("metadata") or {"namespace": self._namespace, "name": self._name},
            "spec": spec,
        }
