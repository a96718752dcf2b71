"""Tasks that are deleted, created again, or vanish with their namespace: nothing hangs, nothing trains without a task."""

import asyncio
from datetime import UTC, datetime

import kopf
import pytest

from support.control_plane import OPERATORS
from support.kube_api import PODS
from support.tasks_on_cluster import RUNS, SUCCEEDS, TASKS, Object, Scene, eventually, read_rows
from trainingtask_api import names
from trainingtask_operator.client.errors import ClusterError
from trainingtask_operator.client.kubernetes import connect
from trainingtask_operator.handlers import login


async def rows_of(history: str, uid: str) -> list[Object]:
    rows = await asyncio.to_thread(read_rows, history)
    return [row for (of, _), row in sorted(rows.items()) if of == uid]


async def a_running_task(here: Scene, history: str, name: str = "task") -> str:
    """Return the uid of a task that runs, and whose row says so."""
    await here.create(name, RUNS)
    uid = str((await here.state(name, "Running", timeout=60))["metadata"]["uid"])
    await eventually("a row", lambda: rows_of(history, uid), 30)
    return uid


async def cancelled(history: str, uid: str, timeout: float = 60) -> None:
    """Wait until the one row of a task says that it was cancelled; it must be whole."""

    async def is_cancelled() -> bool:
        return [row["status"] for row in await rows_of(history, uid)] == ["Cancelled"]

    await eventually(f"a cancelled row of {uid}", is_cancelled, timeout)
    (row,) = await rows_of(history, uid)
    assert row["error_reason"] == "Cancelled"
    assert row["create_time"] <= row["start_time"] <= row["finish_time"] <= datetime.now(UTC)


async def no_jobs(here: Scene, uid: str) -> None:
    async def none() -> bool:
        children = [*await here.jobs(), *await here.pods()]
        return not any(child["metadata"]["labels"].get(names.TASK_UID_LABEL) == uid for child in children)

    await eventually("no Job and no pod without a task", none, 60)


async def test_task_deleted(here: Scene, history: str) -> None:
    async with here.operator(history=history) as operator:
        uid = await a_running_task(here, history)
        await here.delete(TASKS, names.PLURAL, "task")
        await cancelled(history, uid)
        await no_jobs(here, uid)
        assert not operator.defects()


@pytest.mark.full
async def test_task_deleted_while_the_operator_is_down(here: Scene, history: str) -> None:
    async with here.operator(history=history) as operator:
        uid = await a_running_task(here, history)
        await operator.kill()
        await here.delete(TASKS, names.PLURAL, "task")
        await no_jobs(here, uid)
        await operator.start()
        await cancelled(history, uid)
        assert not operator.defects()


async def test_task_created_again_under_its_name(here: Scene, history: str) -> None:
    """Once while the operator looks, once while it is down: each task has its own Job and its own row."""
    async with here.operator(history=history) as operator:
        first = await a_running_task(here, history)
        await here.delete(TASKS, names.PLURAL, "task")
        second = await a_running_task(here, history)
        await cancelled(history, first)
        await operator.kill()
        await here.delete(TASKS, names.PLURAL, "task")
        await here.create("task", SUCCEEDS)
        await operator.start()
        third = await here.state("task", "Succeeded", timeout=60)
        await cancelled(history, second)
        assert [row["status"] for row in await rows_of(history, third["metadata"]["uid"])] in ([], ["Succeeded"])
        for uid in (first, second):
            await no_jobs(here, uid)
        await here.job_of("task")

        async def recorded() -> bool:
            return [row["status"] for row in await rows_of(history, third["metadata"]["uid"])] == ["Succeeded"]

        await eventually("the row of the third", recorded, 30)
        assert not operator.defects()


async def test_status_of_a_task_that_was_created_again_meanwhile(here: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """It arrives when another task has the name: that one must not end with it."""
    monkeypatch.setenv("KUBECONFIG", str(here.plane.kubeconfig(OPERATORS[0])))
    await here.create("task")
    first = (await here.task("task"))["metadata"]["uid"]
    await here.delete(TASKS, names.PLURAL, "task")
    await here.create("task")
    async with connect(lambda: login(kopf.OperatorSettings())) as cluster:
        with pytest.raises(ClusterError) as refusal:
            await cluster.apply_status(
                here.namespace, "task", first, {"state": "Failed"}, manager=names.OPERATOR_FIELD_MANAGER
            )
    assert refusal.value.is_conflict
    assert (await here.task("task"))["status"] == {"state": "Pending"}


async def test_namespace_deleted(here: Scene, history: str) -> None:
    """With one task that runs and one that is new; tasks elsewhere go on."""
    async with here.operator(history=history) as operator:
        uid = await a_running_task(here, history)
        await here.create("new", RUNS)
        await here.api.request("DELETE", f"{PODS}/namespaces/{here.namespace}")

        async def gone() -> bool:
            found = (await here.api.request("GET", f"{PODS}/namespaces"))["items"]
            return here.namespace not in {item["metadata"]["name"] for item in found}

        await eventually("the namespace is gone", gone, 90)
        await cancelled(history, uid)
        assert not operator.defects()
        assert not operator.ended
        await operator.ready()
