"""Which replica acts: the holder of a Lease.

After client-go's leader election: a renewal is judged by this process's own clock from when it was first seen, never
by another machine's timestamps, and the holder gives up well before anybody else may take over.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from trainingtask_operator import metrics
from trainingtask_operator.client.kubernetes import Cluster, ClusterError, Manifest

log = logging.getLogger(__name__)

LEASE_SECONDS = 15
RENEW_WITHIN_SECONDS = 10.0  # a holder that could not renew for so long stops; the others wait for LEASE_SECONDS
PAUSE_SECONDS = 2.0


class LeadershipLostError(Exception):
    """Another replica may act from now on: whoever gets this must stop at once."""


class Leadership:
    """One replica's part in the election."""

    def __init__(
        self,
        cluster: Cluster,
        namespace: str,
        name: str,
        identity: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._cluster = cluster
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._lease: Manifest | None = None
        self._seen: tuple[str | None, float] = (None, 0.0)  # resource version of the Lease, and when it was first seen
        self.held = asyncio.Event()

    async def run(self) -> None:
        """Acquire the Lease, then keep it.

        Raises
        ------
        LeadershipLostError
            When it was not renewed in time, or somebody else has taken it.
        """
        while not await self._attempt():  # noqa: ASYNC110 - the event is in the cluster
            await asyncio.sleep(PAUSE_SECONDS)
        log.info("this replica (%s) is the leader", self._identity)
        metrics.LEADER.set(1)
        self.held.set()
        renewed = self._clock()
        while True:
            await asyncio.sleep(PAUSE_SECONDS)
            before = self._clock()
            # An attempt that hangs must not outlast the time that is left, or another one leads beside this one.
            if await self._attempt(renewed + RENEW_WITHIN_SECONDS - before):
                renewed = before
            elif self._holder() != self._identity or self._clock() - renewed > RENEW_WITHIN_SECONDS:
                raise LeadershipLostError(
                    f"the Lease {self._namespace}/{self._name} was not renewed: {self._holder()} holds it"
                )

    async def release(self) -> None:
        """Let another replica take over without waiting for the Lease to run out."""
        try:
            lease = await self._cluster.get_lease(self._namespace, self._name)
            if (lease.get("spec") or {}).get("holderIdentity") == self._identity:
                await self._cluster.replace_lease(self._next(lease, holder=""))
        except ClusterError as error:
            log.info("the Lease stays until it runs out in %d s: %s", LEASE_SECONDS, error)

    async def _attempt(self, seconds: float = RENEW_WITHIN_SECONDS) -> bool:
        """Try once to acquire or to renew, for so long at most; tell whether this replica holds the Lease now."""
        try:
            async with asyncio.timeout(min(seconds, RENEW_WITHIN_SECONDS / 2)):
                return await self._acquire_or_renew()
        except TimeoutError:
            log.warning("the Lease: the API server does not answer in time")
        except ClusterError as error:
            if not error.conflict:  # 409: another replica was faster
                log.warning("the Lease: %s", error)
        return False

    async def _acquire_or_renew(self) -> bool:
        try:
            lease = self._lease = await self._cluster.get_lease(self._namespace, self._name)
        except ClusterError as error:
            if not error.not_found:
                raise
            self._lease = await self._cluster.create_lease(self._next({}, self._identity))
            return True
        version = lease["metadata"]["resourceVersion"]
        if version != self._seen[0]:
            self._seen = (version, self._clock())
        if self._holder() not in ("", self._identity) and self._clock() < self._seen[1] + LEASE_SECONDS:
            return False
        self._lease = await self._cluster.replace_lease(self._next(lease, self._identity))
        return True

    def _holder(self) -> str:
        return ((self._lease or {}).get("spec") or {}).get("holderIdentity") or ""

    def _next(self, lease: Manifest, holder: str) -> Manifest:
        """Return the Lease as this replica writes it."""
        now = datetime.now(UTC).isoformat(timespec="microseconds")
        spec: dict[str, Any] = dict(lease.get("spec") or {})
        if holder and spec.get("holderIdentity") != holder:
            spec |= {"acquireTime": now, "leaseTransitions": spec.get("leaseTransitions", -1) + 1}
        spec |= {"holderIdentity": holder, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": now}
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": lease.get("metadata") or {"namespace": self._namespace, "name": self._name},
            "spec": spec,
        }
