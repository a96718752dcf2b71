"""An unreachable, overloaded or silent API server: every task still gets one Job, and the right terminal status."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from support.api_proxy import GONE, ApiProxy, Call, ErrorResponse
from support.task_namespace import CRASHES, MISTAKEN, RUNS, SUCCEEDS, TASKS, TaskNamespace, eventually

IMAGES = {"one": SUCCEEDS, "two": MISTAKEN, "three": CRASHES, "four": SUCCEEDS}


@pytest.fixture
async def proxy(namespace: TaskNamespace) -> AsyncIterator[ApiProxy]:
    async with ApiProxy(namespace.plane.server, namespace.plane.authority) as it:
        yield it


async def assert_recovered(namespace: TaskNamespace, history: str) -> None:
    await namespace.wait_for_finished_jobs(len(IMAGES))
    await namespace.wait_for_finished_tasks()
    await namespace.assert_finished(IMAGES)
    await namespace.wait_for_rows(history)


async def create_tasks(namespace: TaskNamespace) -> None:
    for name, image in IMAGES.items():
        await namespace.create(name, image, runPolicy__retries=0)


async def test_api_server_unreachable(namespace: TaskNamespace, proxy: ApiProxy, history: str, sizes: Any) -> None:
    async with namespace.operator(server=proxy.url, history=history) as operator:
        await namespace.create("one", SUCCEEDS, runPolicy__retries=0)
        await eventually("a Job", namespace.list_jobs)
        await proxy.close()
        for name in list(IMAGES)[1:]:
            await namespace.create(name, IMAGES[name], runPolicy__retries=0)
        await asyncio.sleep(sizes.unreachable_seconds)
        assert len(await namespace.list_jobs()) == 1
        await proxy.open()
        await eventually("all Jobs", lambda: has_jobs(namespace, len(IMAGES)))
        await assert_recovered(namespace, history)
        assert not operator.find_defects()


async def has_jobs(namespace: TaskNamespace, number: int) -> bool:
    return len(await namespace.list_jobs()) == number


@pytest.mark.full
async def test_api_server_killed_and_started_again(namespace: TaskNamespace, history: str, sizes: Any) -> None:
    async with namespace.operator(history=history) as operator:
        await create_tasks(namespace)
        await eventually("a Job", namespace.list_jobs)
        namespace.plane.kill_api_server()
        try:
            await asyncio.sleep(sizes.unreachable_seconds)
        finally:
            await asyncio.to_thread(namespace.plane.start_api_server)
        await assert_recovered(namespace, history)
        assert not operator.find_defects()


@pytest.mark.full
async def test_watches_cut(namespace: TaskNamespace, proxy: ApiProxy, history: str) -> None:
    async def cut() -> None:
        while True:
            await asyncio.sleep(0.7)
            cuts.append(proxy.break_watches())

    cuts: list[int] = []
    async with namespace.operator(server=proxy.url, history=history) as operator:
        await operator.wait_until_ready()
        cutting = asyncio.create_task(cut())
        await create_tasks(namespace)
        await assert_recovered(namespace, history)
        cutting.cancel()
        assert sum(cuts) > 0
        assert not operator.find_defects()
        assert not operator.unexpected_exits


async def test_watches_expired(namespace: TaskNamespace, proxy: ApiProxy, history: str, rng: random.Random) -> None:
    """410: everything is listed anew, repeatedly."""

    def gone(call: Call) -> ErrorResponse | None:
        return GONE if call.is_watch and rng.random() < 0.5 else None

    async with namespace.operator(server=proxy.url, history=history) as operator:
        await operator.wait_until_ready()
        proxy.respond_instead = gone
        proxy.break_watches()
        await create_tasks(namespace)
        for _ in range(5):
            await asyncio.sleep(1)
            proxy.break_watches()
        proxy.respond_instead = lambda _: None
        await assert_recovered(namespace, history)
        assert not operator.find_defects()
        assert not operator.unexpected_exits


BUSY, CONFLICT = (
    ErrorResponse(429, "TooManyRequests", retry_after=1),
    ErrorResponse(409, "Conflict", "the object has been modified"),
)
BROKEN, AWAY = ErrorResponse(500, "InternalError"), ErrorResponse(503, "ServiceUnavailable")


@pytest.mark.parametrize(
    "answers",
    [
        (BUSY, CONFLICT, BROKEN, AWAY),
        *(pytest.param((answer,), marks=pytest.mark.full) for answer in (BUSY, CONFLICT, BROKEN, AWAY)),
    ],
    ids=lambda answers: "-".join(str(answer.status) for answer in answers),
)
async def test_any_call_refused_for_the_moment(
    namespace: TaskNamespace, proxy: ApiProxy, history: str, answers: tuple[ErrorResponse, ...]
) -> None:
    """Every second call of any kind, from the first on: of the watches and lists as well, but for 409, which is for writes."""
    calls: Counter[Call] = Counter()
    refused: Counter[tuple[Call, int]] = Counter()

    def refuse(call: Call) -> ErrorResponse | None:
        calls[call] += 1
        fitting = [answer for answer in answers if call.is_write or answer is not CONFLICT]
        if calls[call] % 2 == 0 or not fitting:
            return None
        answer = fitting[calls[call] // 2 % len(fitting)]
        refused[call, answer.status] += 1
        return answer

    proxy.respond_instead = refuse
    async with namespace.operator(server=proxy.url, history=history) as operator:
        await create_tasks(namespace)
        await assert_recovered(namespace, history)
        assert {status for call, status in refused if call.creates_job} == {answer.status for answer in answers}
        assert any(call.path.endswith("/status") for call, _ in refused)
        assert not operator.find_defects()


async def test_answers_to_writes_lost(namespace: TaskNamespace, proxy: ApiProxy, history: str) -> None:
    """The API server has executed the write, and its response is lost: the first time for each write."""
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
    proxy.drop_response = lose
    await create_tasks(namespace)
    proxy.mute_new_watches = True  # else a watch shows the Job before it is created again
    async with namespace.operator(server=proxy.url, history=history) as operator:

        async def tried_again() -> bool:
            return len(creations) > len(IMAGES)

        await eventually("Jobs are created again", tried_again)
        proxy.mute_new_watches = False
        proxy.break_watches()
        await assert_recovered(namespace, history)
        assert not operator.find_defects()


@pytest.mark.parametrize(("watch_timeout", "within"), [(8, 60), pytest.param(None, 150, marks=pytest.mark.full)])
async def test_watches_silent(
    namespace: TaskNamespace, proxy: ApiProxy, watch_timeout: float | None, within: float
) -> None:
    """The bytes stop and the connection stays: the watch timeout detects it, well before the next resync."""
    async with namespace.operator(server=proxy.url, watch_timeout=watch_timeout) as operator:
        await namespace.create("before", RUNS)
        await namespace.wait_for_state("before", "Running")
        proxy.mute_watches()
        silent_since = time.monotonic()
        await namespace.create("meanwhile", RUNS)
        await eventually("the Job of a task that no watch showed", lambda: has_jobs(namespace, 2), within + 10)
        detected = time.monotonic() - silent_since
        print(f"detected after {detected:.0f} s")
        assert detected <= within
        await namespace.finish_trainer("meanwhile")
        await namespace.wait_for_state("meanwhile", "Succeeded")
        assert not operator.find_defects()


async def test_object_deleted_while_the_watches_are_down(namespace: TaskNamespace, proxy: ApiProxy) -> None:
    """A list after 410 shows what is there, not what has gone: a task created again under its name is the newest one."""
    async with namespace.operator(server=proxy.url) as operator:
        await namespace.create("task", RUNS)
        await namespace.wait_for_state("task", "Running")
        proxy.respond_instead = lambda call: GONE if call.is_watch else None
        proxy.break_watches()
        await namespace.delete(TASKS, "trainingtasks", "task")
        await namespace.create("task", SUCCEEDS)
        proxy.respond_instead = lambda _: None
        await namespace.wait_for_state("task", "Succeeded")
        await namespace.get_job("task")
        assert not operator.find_defects()


@pytest.mark.full
async def test_pods_shown_long_after_their_jobs_end(namespace: TaskNamespace, proxy: ApiProxy) -> None:
    """The watch of pods alone is refused for a while: the end of the task must still say how its trainer ended."""
    async with namespace.operator(server=proxy.url) as operator:
        await namespace.create("task", RUNS, runPolicy__retries=0)
        await namespace.wait_for_state("task", "Running")
        refusal = ErrorResponse(503, "ServiceUnavailable")
        proxy.respond_instead = lambda call: refusal if call.is_watch and call.path.endswith("/pods") else None
        proxy.break_watches()
        await namespace.finish_trainer("task", exit_code=1)
        await namespace.wait_for_finished_jobs(1)
        await asyncio.sleep(3)
        proxy.respond_instead = lambda _: None
        task = await namespace.wait_for_state("task", "Failed")
        assert not operator.find_defects()
        assert [record["exitCode"] for record in task["status"]["attempts"]] == [1]
