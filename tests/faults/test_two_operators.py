"""Two replicas and one Lease: one reconciles, the other waits until the Lease expires."""

import asyncio

import pytest

from support.api_proxy import ApiProxy
from support.control_plane import OPERATORS
from support.operators import Operator, leader_and_standby
from support.task_namespace import MISTAKEN, RUNS, SUCCEEDS, Object, TaskNamespace, eventually

IMAGES = {"one": SUCCEEDS, "two": MISTAKEN, "three": SUCCEEDS}


def replicas(namespace: TaskNamespace, history: str, server: str | None = None) -> tuple[Operator, Operator]:
    """Return two replicas; `server` is the URL of the first one's API server."""
    first = namespace.operator(OPERATORS[0], server=server, history=history, lease=True)
    return first, namespace.operator(OPERATORS[1], history=history, lease=True)


def read_writes_of(namespace: TaskNamespace, user: str) -> list[Object]:
    """Return the writes of a replica, without those to the Lease."""
    return [w for w in namespace.plane.read_writes(namespace.name, user) if w["objectRef"]["resource"] != "leases"]


async def finish(namespace: TaskNamespace, history: str) -> None:
    await namespace.wait_for_finished_jobs(len(IMAGES))
    await namespace.wait_for_finished_tasks()
    await namespace.assert_finished(IMAGES)
    await namespace.wait_for_rows(history)


@pytest.mark.full
async def test_two_operators_at_once(namespace: TaskNamespace, history: str) -> None:
    async with leader_and_standby(*replicas(namespace, history)) as (first, second):
        for name, image in IMAGES.items():
            await namespace.create(name, image)
        await finish(namespace, history)
        assert read_writes_of(namespace, OPERATORS[0])
        assert not read_writes_of(namespace, OPERATORS[1])
        assert await second.wait_until_ready() == "standby"
        assert not first.find_defects() + second.find_defects()


@pytest.mark.full
async def test_leader_killed(namespace: TaskNamespace, history: str) -> None:
    async with leader_and_standby(*replicas(namespace, history)) as (first, second):
        await namespace.create("one", SUCCEEDS)
        await eventually("a Job", namespace.list_jobs)
        await first.kill()
        for name in ("two", "three"):
            await namespace.create(name, IMAGES[name])
        await finish(namespace, history)
        assert await second.wait_until_ready() == "leader"
        assert not second.find_defects()


async def test_leadership_lost_mid_work(namespace: TaskNamespace, history: str) -> None:
    """The leader loses its connection: it must not write when it is reconnected, though its cache is outdated."""
    async with (
        ApiProxy(namespace.plane.server, namespace.plane.authority) as proxy,
        leader_and_standby(*replicas(namespace, history, proxy.url)) as (first, second),
    ):
        await namespace.create("cut-off", RUNS)
        await namespace.wait_for_state("cut-off", "Running")
        await proxy.close()
        for name, image in IMAGES.items():
            await namespace.create(name, image)
        await second.wait_until_ready("leader")
        before = len(read_writes_of(namespace, OPERATORS[0]))
        await proxy.open()
        await namespace.finish_trainer("cut-off")
        await namespace.wait_for_finished_jobs(len(IMAGES) + 1)
        tasks = await namespace.wait_for_finished_tasks()
        namespace.assert_writes(tasks)
        assert first.unexpected_exits, "a leader without the Lease exits at once, and restarts as a standby"
        await first.wait_until_ready("standby")
        await asyncio.sleep(1)
        assert len(read_writes_of(namespace, OPERATORS[0])) == before
        assert len(await namespace.list_jobs()) == len(tasks)
        assert not second.unexpected_exits
