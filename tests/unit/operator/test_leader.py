"""The election on an API server in memory: one holder at a time, whatever is lost."""

import asyncio
import copy
from collections.abc import Callable
from typing import Any

import pytest

from trainingtask_operator import leader
from trainingtask_operator.cluster import ClusterError
from trainingtask_operator.leader import Leadership, LeadershipLostError


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


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leader, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(leader, "RENEW_WITHIN_SECONDS", 0.2)
    monkeypatch.setattr(leader, "LEASE_SECONDS", 0.4)


def replica(leases: Leases, name: str) -> Leadership:
    return Leadership(leases, "ns", "lease", name)  # type: ignore[arg-type]


async def test_the_first_leads_and_the_standby_takes_over_when_it_is_silent() -> None:
    leases = Leases()
    one, two = replica(leases, "one"), replica(leases, "two")
    first, second = asyncio.create_task(one.run()), asyncio.create_task(two.run())
    await asyncio.wait_for(one.held.wait(), 2)
    await asyncio.sleep(0.6)  # longer than the Lease: renewals alone keep it
    assert (leases.holder, two.held.is_set()) == ("one", False)
    first.cancel()  # killed
    await asyncio.wait_for(two.held.wait(), 2)
    assert leases.holder == "two"
    assert leases.lease is not None
    assert leases.lease["spec"]["leaseTransitions"] == 1
    second.cancel()


async def test_a_released_lease_is_taken_at_once() -> None:
    leases = Leases()
    one, two = replica(leases, "one"), replica(leases, "two")
    first = asyncio.create_task(one.run())
    await asyncio.wait_for(one.held.wait(), 2)
    second = asyncio.create_task(two.run())
    first.cancel()
    await one.release()
    await asyncio.wait_for(two.held.wait(), 0.3)
    await one.release()
    assert leases.holder == "two", "what another one holds is not released"
    second.cancel()


async def test_a_leader_that_cannot_renew_stops_before_another_may_lead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leader, "LEASE_SECONDS", 1.5)  # 0.4 s is little on a busy machine
    leases = Leases()
    one, two = replica(leases, "one"), replica(leases, "two")
    first = asyncio.create_task(one.run())
    await asyncio.wait_for(one.held.wait(), 2)
    failing = True

    def away(what: str) -> None:
        if failing and asyncio.current_task() is first:
            raise ClusterError(0, "the API server does not answer")

    leases.before = away
    second = asyncio.create_task(two.run())
    with pytest.raises(LeadershipLostError, match="was not renewed"):
        await asyncio.wait_for(asyncio.shield(first), 2)
    assert not two.held.is_set()
    await asyncio.wait_for(two.held.wait(), 5)
    second.cancel()


async def test_an_answer_that_does_not_come_is_not_waited_for_beyond_the_time_that_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(leader, "RENEW_WITHIN_SECONDS", 1.0)
    leases = Leases()
    one = replica(leases, "one")
    running = asyncio.create_task(one.run())
    await asyncio.wait_for(one.held.wait(), 2)
    loop = asyncio.get_running_loop()
    began = loop.time()

    async def hang(namespace: str, name: str) -> dict[str, Any]:
        if loop.time() - began < 0.9:
            raise ClusterError(0, "the API server does not answer")
        return await asyncio.Event().wait()  # type: ignore[return-value]

    leases.get_lease = hang  # type: ignore[method-assign]
    with pytest.raises(LeadershipLostError):
        await asyncio.wait_for(running, 5)
    assert loop.time() - began < 1.3, "one attempt alone is given 0.5 s"


async def test_a_leader_whose_lease_was_taken_stops() -> None:
    leases = Leases()
    one = replica(leases, "one")
    running = asyncio.create_task(one.run())
    await asyncio.wait_for(one.held.wait(), 2)
    assert leases.lease is not None
    leases.lease["spec"]["holderIdentity"] = "somebody"
    leases.version += 1
    leases.lease["metadata"]["resourceVersion"] = str(leases.version)
    with pytest.raises(LeadershipLostError, match="somebody holds it"):
        await asyncio.wait_for(running, 2)
