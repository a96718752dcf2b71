"""Two replicas and one Lease: one acts, the other waits for it to fall silent."""

import asyncio

import pytest

from support.api_proxy import ApiProxy
from support.control_plane import OPERATORS
from support.operators import Operator, leader_and_standby
from support.task_namespace import MISTAKEN, RUNS, SUCCEEDS, Object, TaskNamespace, eventually

TAKEN_OVER_SECONDS = 60
IMAGES = {"one": SUCCEEDS, "two": MISTAKEN, "three": SUCCEEDS}


def replicas(namespace: TaskNamespace, history: str, server: str | None = None) -> tuple[Operator, Operator]:
    """Return two; the way of the first to the API server may be another."""
    first = namespace.operator(OPERATORS[0], server=server, history=history, lease=True)
    return first, namespace.operator(OPERATORS[1], history=history, lease=True)


def acts_of(namespace: TaskNamespace, user: str) -> list[Object]:
    """Return what a replica wrote, less its part in the election."""
    return [w for w in namespace.plane.read_writes(namespace.name, user) if w["objectRef"]["resource"] != "leases"]


async def finish(namespace: TaskNamespace, history: str) -> None:
    await namespace.wait_for_finished_jobs(len(IMAGES), timeout=TAKEN_OVER_SECONDS)
    await namespace.wait_for_finished_tasks()
    await namespace.assert_finished(IMAGES)
    await namespace.wait_for_rows(history)


@pytest.mark.full
async def test_two_operators_at_once(namespace: TaskNamespace, history: str) -> None:
    async with leader_and_standby(*replicas(namespace, history)) as (first, second):
        for name, image in IMAGES.items():
            await namespace.create(name, image)
        await finish(namespace, history)
        assert acts_of(namespace, OPERATORS[0])
        assert not acts_of(namespace, OPERATORS[1])
        assert await second.wait_until_ready() == "standby"
        assert not first.find_defects() + second.find_defects()


@pytest.mark.full
async def test_leader_killed(namespace: TaskNamespace, history: str) -> None:
    async with leader_and_standby(*replicas(namespace, history)) as (first, second):
        await namespace.create("one", SUCCEEDS)
        await eventually("a Job", namespace.list_jobs, 30)
        await first.kill()
        for name in ("two", "three"):
            await namespace.create(name, IMAGES[name])
        await finish(namespace, history)
        assert await second.wait_until_ready() == "leader"
        assert not second.find_defects()


async def test_leadership_lost_mid_work(namespace: TaskNamespace, history: str) -> None:
    """The leader is cut off and lives: it must not act when it is back, though it still believes what it saw."""
    async with (
        ApiProxy(namespace.plane.server, namespace.plane.authority) as proxy,
        leader_and_standby(*replicas(namespace, history, proxy.url)) as (first, second),
    ):
        await namespace.create("cut-off", RUNS)
        await namespace.wait_for_state("cut-off", "Running", timeout=30)
        await proxy.close()
        for name, image in IMAGES.items():
            await namespace.create(name, image)
        await second.wait_until_ready("leader", TAKEN_OVER_SECONDS)
        before = len(acts_of(namespace, OPERATORS[0]))
        await proxy.open()
        await namespace.finish_trainer("cut-off")
        await namespace.wait_for_finished_jobs(len(IMAGES) + 1, timeout=TAKEN_OVER_SECONDS)
        tasks = await namespace.wait_for_finished_tasks()
        namespace.assert_writes(tasks)
        assert first.unexpected_exits, "whoever has lost the Lease ends at once, and starts as a standby"
        await first.wait_until_ready("standby")
        await asyncio.sleep(1)
        assert len(acts_of(namespace, OPERATORS[0])) == before
        assert len(await namespace.list_jobs()) == len(tasks)
        assert not second.unexpected_exits
