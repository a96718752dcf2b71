"""Jobs and pods that are deleted, killed, or time out."""

import pytest

from support.task_namespace import (
    JOBS,
    KILLED,
    PODS,
    RUNS,
    TaskNamespace,
    get_condition,
)
from trainingtask_operator.kube_objects import parse_time


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
        await namespace.wait_for_attempt("task", 2)
        await namespace.finish_trainer("task")
        task = await namespace.wait_for_state("task", "Succeeded")
        first, second_one = task["status"]["attempts"]
        assert first["reason"] in ("Interrupted", "PodLost"), "depending on whether its end was observed"
        assert "reason" not in second_one
        namespace.assert_writes({"task": task})
        await namespace.wait_for_rows(history)
        assert not operator.find_defects()


async def test_deadline_over_all_attempts(namespace: TaskNamespace, history: str) -> None:
    """It passes when the second attempt begins, at least 10 s after the first has failed: neither exceeds it alone."""
    async with namespace.operator(history=history) as operator:
        await namespace.create("task", RUNS, runPolicy={"retries": 10, "activeDeadlineSeconds": 3600})
        await namespace.finish_trainer("task", exit_code=1)
        task = await namespace.wait_for_attempt("task", 2)
        job = await namespace.get_job("task")
        second = parse_time(task["status"]["attempts"][1]["startTime"])
        elapsed = second - parse_time(job["status"]["startTime"])
        deadline = {"activeDeadlineSeconds": int(elapsed.total_seconds())}
        await namespace.patch(JOBS, "jobs", job["metadata"]["name"], {"spec": deadline})
        task = await namespace.wait_for_state("task", "Failed")
        assert get_condition(task, "Failed")["reason"] == "DeadlineExceeded"
        assert [attempt["reason"] for attempt in task["status"]["attempts"]] == ["TrainerCrashed", "DeadlineExceeded"]
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
