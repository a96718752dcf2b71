"""An API server that is away, overloaded, forgetful or silent: every task still gets one Job, and its right end."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from support.api_proxy import GONE, Answer, ApiProxy, Call
from support.tasks_on_cluster import CRASHES, MISTAKEN, RUNS, SUCCEEDS, TASKS, Scene, eventually

IMAGES = {"one": SUCCEEDS, "two": MISTAKEN, "three": CRASHES, "four": SUCCEEDS}


@pytest.fixture
async def proxy(here: Scene) -> AsyncIterator[ApiProxy]:
    async with ApiProxy(here.plane.server, here.plane.authority) as it:
        yield it


async def all_right(here: Scene, history: str) -> None:
    await here.jobs_ended(len(IMAGES), timeout=90)
    await here.tasks_ended()
    await here.check(IMAGES)
    await here.rows_match(history)


async def create_all(here: Scene) -> None:
    for name, image in IMAGES.items():
        await here.create(name, image, runPolicy__retries=0)


async def test_api_server_unreachable(here: Scene, proxy: ApiProxy, history: str, sizes: Any) -> None:
    async with here.operator(server=proxy.url, history=history) as operator:
        await here.create("one", SUCCEEDS, runPolicy__retries=0)
        await eventually("a Job", here.jobs, 60)
        await proxy.close()
        for name in list(IMAGES)[1:]:
            await here.create(name, IMAGES[name], runPolicy__retries=0)
        await asyncio.sleep(sizes.unreachable_seconds)
        assert len(await here.jobs()) == 1
        await proxy.open()
        await eventually("all Jobs", lambda: number_of_jobs(here, len(IMAGES)), 30)
        await all_right(here, history)
        assert not operator.defects()


async def number_of_jobs(here: Scene, number: int) -> bool:
    return len(await here.jobs()) == number


@pytest.mark.full
async def test_api_server_killed_and_started_again(here: Scene, history: str, sizes: Any) -> None:
    async with here.operator(history=history) as operator:
        await create_all(here)
        await eventually("a Job", here.jobs, 60)
        here.plane.kill_api_server()
        try:
            await asyncio.sleep(sizes.unreachable_seconds)
        finally:
            await asyncio.to_thread(here.plane.start_api_server)
        await all_right(here, history)
        assert not operator.defects()


@pytest.mark.full
async def test_watches_cut(here: Scene, proxy: ApiProxy, history: str) -> None:
    async def cut() -> None:
        while True:
            await asyncio.sleep(0.7)
            cuts.append(proxy.cut_watches())

    cuts: list[int] = []
    async with here.operator(server=proxy.url, history=history) as operator:
        await operator.ready()
        cutting = asyncio.create_task(cut())
        await create_all(here)
        await all_right(here, history)
        cutting.cancel()
        assert sum(cuts) > 0
        assert not operator.defects()
        assert not operator.ended


async def test_watches_expired(here: Scene, proxy: ApiProxy, history: str, dice: random.Random) -> None:
    """410: everything is listed anew, again and again."""

    def gone(call: Call) -> Answer | None:
        return GONE if call.is_watch and dice.random() < 0.5 else None

    async with here.operator(server=proxy.url, history=history) as operator:
        await operator.ready()
        proxy.instead = gone
        proxy.cut_watches()
        await create_all(here)
        for _ in range(5):
            await asyncio.sleep(1)
            proxy.cut_watches()
        proxy.instead = lambda _: None
        await all_right(here, history)
        assert not operator.defects()
        assert not operator.ended


BUSY, CONFLICT = Answer(429, "TooManyRequests", retry_after=1), Answer(409, "Conflict", "the object has been modified")
BROKEN, AWAY = Answer(500, "InternalError"), Answer(503, "ServiceUnavailable")


@pytest.mark.parametrize(
    "answers",
    [
        (BUSY, CONFLICT, BROKEN, AWAY),
        *(pytest.param((answer,), marks=pytest.mark.full) for answer in (BUSY, CONFLICT, BROKEN, AWAY)),
    ],
    ids=lambda answers: "-".join(str(answer.status) for answer in answers),
)
async def test_any_call_refused_for_the_moment(
    here: Scene, proxy: ApiProxy, history: str, answers: tuple[Answer, ...]
) -> None:
    """Every second call of any kind, from the first on: of the watches and lists as well, but for 409, which is for writes."""
    calls: Counter[Call] = Counter()
    refused: Counter[tuple[Call, int]] = Counter()

    def refuse(call: Call) -> Answer | None:
        calls[call] += 1
        fitting = [answer for answer in answers if call.is_write or answer is not CONFLICT]
        if calls[call] % 2 == 0 or not fitting:
            return None
        answer = fitting[calls[call] // 2 % len(fitting)]
        refused[call, answer.status] += 1
        return answer

    proxy.instead = refuse
    async with here.operator(server=proxy.url, history=history) as operator:
        await create_all(here)
        await all_right(here, history)
        assert {status for call, status in refused if call.creates_job} == {answer.status for answer in answers}
        assert any(call.path.endswith("/status") for call, _ in refused)
        assert not operator.defects()


async def test_answers_to_writes_lost(here: Scene, proxy: ApiProxy, history: str) -> None:
    """The API server has done what it was asked, and its answer never arrives: the first time for each write."""
    lost: set[tuple[str, str]] = set()

    def lose(call: Call) -> bool:
        if not call.is_write or (call.method, call.path) in lost:
            return False
        if not call.creates_job:
            lost.add((call.method, call.path))
            return True
        creations.append(call)
        return len(creations) % 2 == 1  # all creations share a path

    creations: list[Call] = []
    proxy.lost = lose
    await create_all(here)
    proxy.silent = True  # else a watch shows the Job before it is created again
    async with here.operator(server=proxy.url, history=history) as operator:

        async def tried_again() -> bool:
            return len(creations) > len(IMAGES)

        await eventually("Jobs are created again", tried_again, 60)
        proxy.silent = False
        proxy.cut_watches()
        await all_right(here, history)
        assert not operator.defects()


@pytest.mark.parametrize(("patience", "within"), [(8, 30), pytest.param(None, 90, marks=pytest.mark.full)])
async def test_watches_silent(here: Scene, proxy: ApiProxy, patience: float | None, within: float) -> None:
    """The bytes stop and the connection stays: noticed within 90 s; sooner by an operator of little patience."""
    async with here.operator(server=proxy.url, patience=patience) as operator:
        await here.create("before", RUNS)
        await here.state("before", "Running", timeout=60)
        proxy.silence_watches()
        silent_since = time.monotonic()
        await here.create("meanwhile", RUNS)
        await eventually("the Job of a task that no watch showed", lambda: number_of_jobs(here, 2), within + 10)
        noticed = time.monotonic() - silent_since
        print(f"noticed after {noticed:.0f} s")
        assert noticed <= within
        await here.end("meanwhile")
        await here.state("meanwhile", "Succeeded", timeout=90)
        assert not operator.defects()


async def test_object_deleted_while_the_watches_are_down(here: Scene, proxy: ApiProxy) -> None:
    """A list after 410 shows what is there, not what has gone: a task created again under its name is the newest one."""
    async with here.operator(server=proxy.url) as operator:
        await here.create("task", RUNS)
        await here.state("task", "Running", timeout=60)
        proxy.instead = lambda call: GONE if call.is_watch else None
        proxy.cut_watches()
        await here.delete(TASKS, "trainingtasks", "task")
        await here.create("task", SUCCEEDS)
        proxy.instead = lambda _: None
        await here.state("task", "Succeeded", timeout=60)
        await here.job_of("task")
        assert not operator.defects()


@pytest.mark.full
async def test_pods_shown_long_after_their_jobs_end(here: Scene, proxy: ApiProxy) -> None:
    """The watch of pods alone is refused for a while: the end of the task must still say how its trainer ended."""
    async with here.operator(server=proxy.url) as operator:
        await here.create("task", RUNS, runPolicy__retries=0)
        await here.state("task", "Running", timeout=60)
        refusal = Answer(503, "ServiceUnavailable")
        proxy.instead = lambda call: refusal if call.is_watch and call.path.endswith("/pods") else None
        proxy.cut_watches()
        await here.end("task", exit_code=1)
        await here.jobs_ended(1, timeout=60)
        await asyncio.sleep(3)
        proxy.instead = lambda _: None
        task = await here.state("task", "Failed", timeout=90)
        assert not operator.defects()
        assert [record["exitCode"] for record in task["status"]["attempts"]] == [1]
