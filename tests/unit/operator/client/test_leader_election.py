"""The election on an API server in memory: one holder at a time, whatever is lost."""

import asyncio
import copy
from collections.abc import Callable
from typing import Any

import pytest

from support.virtual_time import in_virtual_time, now
from trainingtask_operator.client.errors import ClusterError
from trainingtask_operator.client.leader_election import (
    LEASE_DURATION_SECONDS,
    RENEW_DEADLINE_SECONDS,
    RETRY_PERIOD_SECONDS,
    LeaderElector,
    LeadershipLostError,
)


class Leases:
    """One Lease, with optimistic concurrency."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.version = 0
        self.before: Callable[[str], None] = lambda _: None

    async def get_lease(self, namespace: str, name: str) -> dict[str, Any]:
        self.before("get")
        if self.lease is None:
            raise ClusterError(404, "not found")
        return copy.deepcopy(self.lease)

    async def create_lease(self, lease: dict[str, Any]) -> dict[str, Any]:
        self.before("create")
        if self.lease is not None:
            raise ClusterError(409, "already exists")
        return self._store(lease)

    async def replace_lease(self, lease: dict[str, Any]) -> dict[str, Any]:
        self.before("replace")
        if self.lease is None or lease["metadata"]["resourceVersion"] != str(self.version):
            raise ClusterError(409, "the object has been modified")
        return self._store(lease)

    def _store(self, lease: dict[str, Any]) -> dict[str, Any]:
        self.version += 1
        self.lease = copy.deepcopy(lease)
        self.lease["metadata"]["resourceVersion"] = str(self.version)
        return copy.deepcopy(self.lease)

    @property
    def holder(self) -> str:
        assert self.lease is not None
        return str(self.lease["spec"]["holderIdentity"])


def replica(leases: Leases, name: str) -> LeaderElector:
    return LeaderElector(leases, "ns", "lease", name, clock=now)  # type: ignore[arg-type]


@in_virtual_time
async def test_the_standby_leads_once_the_leaders_lease_has_expired() -> None:
    leases = Leases()
    one, two = replica(leases, "one"), replica(leases, "two")
    first, second = asyncio.create_task(one.run()), asyncio.create_task(two.run())
    await one.elected.wait()
    await asyncio.sleep(3 * LEASE_DURATION_SECONDS)  # renewals alone keep it
    assert (leases.holder, two.elected.is_set()) == ("one", False)
    first.cancel()  # killed
    killed = now()
    await two.elected.wait()
    assert (
        LEASE_DURATION_SECONDS - RETRY_PERIOD_SECONDS <= now() - killed <= LEASE_DURATION_SECONDS + RETRY_PERIOD_SECONDS
    )
    assert leases.holder == "two"
    assert leases.lease is not None
    assert leases.lease["spec"]["leaseTransitions"] == 1
    second.cancel()


@in_virtual_time
async def test_a_released_lease_is_taken_at_once() -> None:
    leases = Leases()
    one, two = replica(leases, "one"), replica(leases, "two")
    first = asyncio.create_task(one.run())
    await one.elected.wait()
    second = asyncio.create_task(two.run())
    first.cancel()
    await one.release()
    released = now()
    await two.elected.wait()
    assert now() - released <= RETRY_PERIOD_SECONDS
    await one.release()
    assert leases.holder == "two", "what another one holds is not released"
    second.cancel()


@in_virtual_time
async def test_a_leader_that_cannot_renew_stops_before_another_may_lead() -> None:
    leases = Leases()
    one, two = replica(leases, "one"), replica(leases, "two")
    first = asyncio.create_task(one.run())
    await one.elected.wait()
    cut_off = now()

    def away(what: str) -> None:
        if asyncio.current_task() is first:
            raise ClusterError(0, "the API server does not answer")

    leases.before = away
    second = asyncio.create_task(two.run())
    with pytest.raises(LeadershipLostError, match="was not renewed"):
        await first
    assert now() - cut_off <= RENEW_DEADLINE_SECONDS + RETRY_PERIOD_SECONDS
    assert not two.elected.is_set()
    await two.elected.wait()
    assert now() - cut_off >= LEASE_DURATION_SECONDS
    second.cancel()


@in_virtual_time
async def test_a_hanging_request_does_not_outlast_the_renew_deadline() -> None:
    leases = Leases()
    one = replica(leases, "one")
    running = asyncio.create_task(one.run())
    await one.elected.wait()
    began = now()

    async def hang(namespace: str, name: str) -> dict[str, Any]:
        if now() - began < RENEW_DEADLINE_SECONDS - RETRY_PERIOD_SECONDS:
            raise ClusterError(0, "the API server does not answer")
        return await asyncio.Event().wait()  # type: ignore[return-value]

    leases.get_lease = hang  # type: ignore[method-assign]
    with pytest.raises(LeadershipLostError):
        await running
    assert now() - began <= RENEW_DEADLINE_SECONDS + RETRY_PERIOD_SECONDS, "one attempt alone is given 5 s"


@in_virtual_time
async def test_a_leader_whose_lease_was_taken_stops() -> None:
    leases = Leases()
    one = replica(leases, "one")
    running = asyncio.create_task(one.run())
    await one.elected.wait()
    assert leases.lease is not None
    leases.lease["spec"]["holderIdentity"] = "another"
    leases.version += 1
    leases.lease["metadata"]["resourceVersion"] = str(leases.version)
    with pytest.raises(LeadershipLostError, match="another holds it"):
        await running
