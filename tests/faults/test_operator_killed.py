"""SIGKILL of the operator at any moment: the next process continues."""

import asyncio
import random
from collections import Counter
from typing import Any

import pytest

from support.api_proxy import ApiProxy, Call
from support.task_namespace import CRASHES, MISTAKEN, RUNS, SUCCEEDS, TaskNamespace

ENDINGS = [SUCCEEDS, SUCCEEDS, MISTAKEN, CRASHES]


async def test_operator_killed_at_random_moments(
    namespace: TaskNamespace, history: str, sizes: Any, rng: random.Random
) -> None:
    images = {f"task-{n}": ENDINGS[n % len(ENDINGS)] for n in range(sizes.tasks_killed_over)}
    to_create = list(images.items())
    async with namespace.operator(history=history) as operator:
        for kill in range(sizes.kills):
            while to_create and len(images) - len(to_create) <= kill * len(images) / sizes.kills:
                name, image = to_create.pop(0)
                await namespace.create(name, image, runPolicy__retries=1)
            await asyncio.sleep(rng.uniform(0.2, 4))  # from before it can act to long after
            await operator.restart()
        for name, image in to_create:
            await namespace.create(name, image, runPolicy__retries=1)
        await namespace.wait_for_finished_jobs(len(images))
        await namespace.wait_for_finished_tasks()
        await namespace.assert_finished(images, retries=1)
        await namespace.wait_for_rows(history)
        assert not operator.find_defects()


@pytest.mark.full
async def test_operator_killed_before_and_after_each_of_its_writes(namespace: TaskNamespace, history: str) -> None:
    """Before a write: it is not executed. After it: it is executed, and the response is lost."""
    moment = asyncio.Event()
    chosen: Counter[tuple[str, str]] = Counter()

    def first(call: Call) -> bool:
        return choose(call, "before")

    def second(call: Call) -> bool:
        return choose(call, "after")

    def choose(call: Call, when: str) -> bool:
        """Choose each kind of write twice, once for each moment."""
        key = (when, f"{call.method} {call.path}")
        if not call.is_write or moment.is_set() or chosen[key] >= (2 if call.path.endswith("/status") else 1):
            return False
        chosen[key] += 1
        moment.set()
        return True

    async def kill_whenever() -> None:
        while True:
            await moment.wait()
            await operator.kill()
            moment.clear()
            await operator.start()

    async with ApiProxy(namespace.plane.server, namespace.plane.authority) as proxy:
        proxy.drop_request, proxy.drop_response = first, second
        async with namespace.operator(server=proxy.url, history=history) as operator:
            await namespace.create("task", RUNS)
            killing = asyncio.create_task(kill_whenever())
            await namespace.wait_for_state("task", "Running")
            await namespace.finish_trainer("task")
            task = await namespace.wait_for_state("task", "Succeeded")
            killing.cancel()
            namespace.assert_writes({"task": task})
            assert len(await namespace.list_pods()) == 1
            await operator.wait_until_ready()
            await namespace.wait_for_rows(history)
            assert not operator.find_defects()
    jobs = f"POST /apis/batch/v1/namespaces/{namespace.name}/jobs"
    assert chosen["before", jobs] == chosen["after", jobs] == 1
    assert sum(chosen.values()) >= 4
