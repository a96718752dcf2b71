"""Two replicas and one Lease: one acts, the other waits for it to fall silent."""

import asyncio

import pytest

from support.api_proxy import ApiProxy
from support.control_plane import OPERATORS
from support.operators import Operator, leader_and_standby
from support.tasks_on_cluster import MISTAKEN, RUNS, SUCCEEDS, Object, Scene, eventually

TAKEN_OVER_SECONDS = 60
IMAGES = {"one": SUCCEEDS, "two": MISTAKEN, "three": SUCCEEDS}


def replicas(here: Scene, history: str, server: str | None = None) -> tuple[Operator, Operator]:
    """Return two; the way of the first to the API server may be another."""
    first = here.operator(OPERATORS[0], server=server, history=history, lease=True)
    return first, here.operator(OPERATORS[1], history=history, lease=True)


def acts_of(here: Scene, user: str) -> list[Object]:
    """Return what a replica wrote, less its part in the election."""
    return [w for w in here.plane.writes(here.namespace, user) if w["objectRef"]["resource"] != "leases"]


async def finish(here: Scene, history: str) -> None:
    await here.jobs_ended(len(IMAGES), timeout=TAKEN_OVER_SECONDS)
    await here.tasks_ended()
    await here.check(IMAGES)
    await here.rows_match(history)


@pytest.mark.full
async def test_two_operators_at_once(here: Scene, history: str) -> None:
    async with leader_and_standby(*replicas(here, history)) as (first, second):
        for name, image in IMAGES.items():
            await here.create(name, image)
        await finish(here, history)
        assert acts_of(here, OPERATORS[0])
        assert not acts_of(here, OPERATORS[1])
        assert await second.ready() == "standby"
        assert not first.defects() + second.defects()


@pytest.mark.full
async def test_leader_killed(here: Scene, history: str) -> None:
    async with leader_and_standby(*replicas(here, history)) as (first, second):
        await here.create("one", SUCCEEDS)
        await eventually("a Job", here.jobs, 30)
        await first.kill()
        for name in ("two", "three"):
            await here.create(name, IMAGES[name])
        await finish(here, history)
        assert await second.ready() == "leader"
        assert not second.defects()


async def test_leadership_lost_mid_work(here: Scene, history: str) -> None:
    """The leader is cut off and lives: it must not act when it is back, though it still believes what it saw."""
    async with (
        ApiProxy(here.plane.server, here.plane.authority) as proxy,
        leader_and_standby(*replicas(here, history, proxy.url)) as (first, second),
    ):
        await here.create("cut-off", RUNS)
        await here.state("cut-off", "Running", timeout=30)
        await proxy.close()
        for name, image in IMAGES.items():
            await here.create(name, image)
        await second.ready("leader", TAKEN_OVER_SECONDS)
        before = len(acts_of(here, OPERATORS[0]))
        await proxy.open()
        await here.end("cut-off")
        await here.jobs_ended(len(IMAGES) + 1, timeout=TAKEN_OVER_SECONDS)
        tasks = await here.tasks_ended()
        here.check_writes(tasks)
        assert first.ended, "whoever has lost the Lease ends at once, and starts as a standby"
        await first.ready("standby")
        await asyncio.sleep(1)
        assert len(acts_of(here, OPERATORS[0])) == before
        assert len(await here.jobs()) == len(tasks)
        assert not second.ended
