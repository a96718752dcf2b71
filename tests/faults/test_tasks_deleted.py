"""Tasks that are deleted, recreated, or deleted with their namespace: nothing hangs, no Job outlives its task."""

import asyncio
from datetime import UTC, datetime

import kopf
import pytest

from support.control_plane import OPERATORS
from support.kube_api import PODS
from support.task_namespace import RUNS, SUCCEEDS, TASKS, Object, TaskNamespace, eventually, read_rows
from trainingtask_api import names
from trainingtask_api.status import UNOBSERVED_STATUS
from trainingtask_operator.client.errors import ClusterError
from trainingtask_operator.client.kubernetes import connect
from trainingtask_operator.handlers import login


async def read_rows_of(history: str, uid: str) -> list[Object]:
    rows = await asyncio.to_thread(read_rows, history)
    return [row for (of, _), row in sorted(rows.items()) if of == uid]


async def create_running_task(namespace: TaskNamespace, history: str, name: str = "task") -> str:
    """Return the uid of a running task whose row says so."""
    await namespace.create(name, RUNS)
    uid = str((await namespace.wait_for_state(name, "Running"))["metadata"]["uid"])

    async def has_started() -> bool:
        return any(row["start_time"] for row in await read_rows_of(history, uid))

    await eventually("a row with the start", has_started)
    return uid


async def wait_for_cancelled_row(history: str, uid: str) -> None:
    """Wait until the only row of a task is Cancelled; assert that it is complete."""

    async def is_cancelled() -> bool:
        return [row["status"] for row in await read_rows_of(history, uid)] == ["Cancelled"]

    await eventually(f"a cancelled row of {uid}", is_cancelled)
    (row,) = await read_rows_of(history, uid)
    assert row["error_reason"] == "Cancelled"
    assert row["create_time"] <= row["start_time"] <= row["finish_time"] <= datetime.now(UTC)


async def wait_until_no_job(namespace: TaskNamespace, uid: str) -> None:
    async def none() -> bool:
        children = [*await namespace.list_jobs(), *await namespace.list_pods()]
        return not any(child["metadata"]["labels"].get(names.TASK_UID_LABEL) == uid for child in children)

    await eventually("no Job and no pod without a task", none)


async def test_task_deleted(namespace: TaskNamespace, history: str) -> None:
    async with namespace.operator(history=history) as operator:
        uid = await create_running_task(namespace, history)
        await namespace.delete(TASKS, names.PLURAL, "task")
        await wait_for_cancelled_row(history, uid)
        await wait_until_no_job(namespace, uid)
        assert not operator.find_defects()


async def test_finished_task_deleted_after_its_time_to_live(namespace: TaskNamespace, history: str) -> None:
    """The operator is killed once the task has finished; the next one deletes it."""
    async with namespace.operator(history=history) as operator:
        await namespace.create("task", SUCCEEDS, runPolicy={"ttlSecondsAfterFinished": 600, "deleteTask": True})
        task = await namespace.wait_for_state("task", "Succeeded")
        await operator.kill()
        await namespace.patch(TASKS, names.PLURAL, "task", {"spec": {"runPolicy": {"ttlSecondsAfterFinished": 1}}})
        await operator.start()

        async def is_deleted() -> bool:
            return not await namespace.list_tasks()

        await eventually("the task is deleted", is_deleted)
        uid = task["metadata"]["uid"]
        await wait_until_no_job(namespace, uid)
        assert [row["status"] for row in await read_rows_of(history, uid)] == ["Succeeded"]
        assert not operator.find_defects()


@pytest.mark.full
async def test_task_deleted_while_the_operator_is_down(namespace: TaskNamespace, history: str) -> None:
    async with namespace.operator(history=history) as operator:
        uid = await create_running_task(namespace, history)
        await operator.kill()
        await namespace.delete(TASKS, names.PLURAL, "task")
        await wait_until_no_job(namespace, uid)
        await operator.start()
        await wait_for_cancelled_row(history, uid)
        assert not operator.find_defects()


async def test_task_created_again_under_its_name(namespace: TaskNamespace, history: str) -> None:
    """Once while the operator runs, once while it is down: each task has its own Job and its own row."""
    async with namespace.operator(history=history) as operator:
        first = await create_running_task(namespace, history)
        await namespace.delete(TASKS, names.PLURAL, "task")
        second = await create_running_task(namespace, history)
        await wait_for_cancelled_row(history, first)
        await operator.kill()
        await namespace.delete(TASKS, names.PLURAL, "task")
        await namespace.create("task", SUCCEEDS)
        await operator.start()
        third = await namespace.wait_for_state("task", "Succeeded")
        await wait_for_cancelled_row(history, second)
        assert [row["status"] for row in await read_rows_of(history, third["metadata"]["uid"])] in ([], ["Succeeded"])
        for uid in (first, second):
            await wait_until_no_job(namespace, uid)
        await namespace.get_job("task")

        async def recorded() -> bool:
            return [row["status"] for row in await read_rows_of(history, third["metadata"]["uid"])] == ["Succeeded"]

        await eventually("the row of the third", recorded)
        assert not operator.find_defects()


async def test_status_of_a_task_that_was_created_again_meanwhile(
    namespace: TaskNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It arrives when another task has the name, which must not become terminal."""
    monkeypatch.setenv("KUBECONFIG", str(namespace.plane.kubeconfig(OPERATORS[0])))
    await namespace.create("task")
    first = (await namespace.get_task("task"))["metadata"]["uid"]
    await namespace.delete(TASKS, names.PLURAL, "task")
    await namespace.create("task")
    async with connect(lambda: login(kopf.OperatorSettings())) as cluster:
        with pytest.raises(ClusterError) as refusal:
            await cluster.apply_status(
                namespace.name, "task", first, {"state": "Failed"}, manager=names.OPERATOR_FIELD_MANAGER
            )
    assert refusal.value.is_conflict
    assert (await namespace.get_task("task"))["status"] == {**UNOBSERVED_STATUS, "state": "Pending"}


async def test_namespace_deleted(namespace: TaskNamespace, history: str) -> None:
    """With one task that runs and one that is new; tasks elsewhere go on."""
    async with namespace.operator(history=history) as operator:
        uid = await create_running_task(namespace, history)
        await namespace.create("new", RUNS)
        await namespace.api.request("DELETE", f"{PODS}/namespaces/{namespace.name}")

        async def gone() -> bool:
            found = (await namespace.api.request("GET", f"{PODS}/namespaces"))["items"]
            return namespace.name not in {item["metadata"]["name"] for item in found}

        await eventually("the namespace is gone", gone)
        await wait_for_cancelled_row(history, uid)
        assert not operator.find_defects()
        assert not operator.unexpected_exits
        await operator.wait_until_ready()
