"""Jobs and pods that are deleted, killed, or time out."""

from typing import Any

import pytest

from support.task_namespace import (
    CRASHES,
    JOBS,
    KILLED,
    PODS,
    RUNS,
    TaskNamespace,
    eventually,
    get_condition,
    get_state,
)


async def test_job_deleted_by_hand(namespace: TaskNamespace, history: str) -> None:
    async with namespace.operator(history=history) as operator:
        await namespace.create("task", RUNS)
        await namespace.wait_for_state("task", "Running")
        job = await namespace.get_job("task")
        await namespace.delete(JOBS, "jobs", job["metadata"]["name"], propagationPolicy="Background")
        task = await namespace.wait_for_state("task", "Failed")
        assert get_condition(task, "Failed")["reason"] == "JobDeleted"
        namespace.assert_writes({"task": task})
        await namespace.wait_for_rows(history)
        assert not operator.find_defects()


@pytest.mark.full
async def test_job_deleted_by_hand_while_the_operator_is_down(namespace: TaskNamespace, history: str) -> None:
    async with namespace.operator(history=history) as operator:
        await namespace.create("task", RUNS)
        await namespace.wait_for_state("task", "Running")
        await operator.kill()
        job = await namespace.get_job("task")
        await namespace.delete(JOBS, "jobs", job["metadata"]["name"], propagationPolicy="Foreground")
        await operator.start()
        task = await namespace.wait_for_state("task", "Failed")
        assert get_condition(task, "Failed")["reason"] == "JobDeleted"
        namespace.assert_writes({"task": task})
        await namespace.wait_for_rows(history)
        assert not operator.find_defects()


async def test_pod_deleted_by_hand(namespace: TaskNamespace, history: str) -> None:
    """The attempt ends, and the same Job retries it."""
    async with namespace.operator(history=history) as operator:
        await namespace.create("task", RUNS, runPolicy__retries=1)
        await namespace.wait_for_state("task", "Running")
        (pod,) = await namespace.list_pods()
        await namespace.delete(PODS, "pods", pod["metadata"]["name"])

        async def second() -> Any:
            task = await namespace.get_task("task")
            return task if task["status"]["attempt"] == 2 and get_state(task) == "Running" else None

        await eventually("a second attempt", second)
        await namespace.finish_trainer("task")
        task = await namespace.wait_for_state("task", "Succeeded")
        first, second_one = task["status"]["attempts"]
        assert first["reason"] in ("Interrupted", "PodLost"), "depending on whether its end was observed"
        assert "reason" not in second_one
        namespace.assert_writes({"task": task})
        await namespace.wait_for_rows(history)
        assert not operator.find_defects()


async def test_deadline_over_all_attempts(namespace: TaskNamespace, history: str) -> None:
    """No attempt alone exceeds the deadline; Kubernetes waits for 10 s after the first, and longer each time."""
    async with namespace.operator(history=history) as operator:
        await namespace.create("task", CRASHES, runPolicy={"retries": 10, "activeDeadlineSeconds": 40})
        task = await namespace.wait_for_state("task", "Failed")
        assert get_condition(task, "Failed")["reason"] == "DeadlineExceeded"
        *crashed, last = [attempt["reason"] for attempt in task["status"]["attempts"]]
        assert (set(crashed), last) == ({"TrainerCrashed"}, "DeadlineExceeded")
        namespace.assert_writes({"task": task})
        await namespace.wait_for_rows(history)
        assert not operator.find_defects()


@pytest.mark.full
async def test_trainer_killed(namespace: TaskNamespace, history: str) -> None:
    """Exit code 137 without the kubelet's reason OOMKilled."""
    async with namespace.operator(history=history) as operator:
        await namespace.create("task", KILLED, runPolicy__retries=1)
        await namespace.wait_for_finished_jobs(1)
        await namespace.wait_for_finished_tasks()
        await namespace.assert_finished({"task": KILLED}, retries=1)
        task = await namespace.get_task("task")
        assert {attempt["reason"] for attempt in task["status"]["attempts"]} == {"TrainerCrashed"}
        assert "137" in get_condition(task, "Failed")["message"]
        await namespace.wait_for_rows(history)
        assert not operator.find_defects()
