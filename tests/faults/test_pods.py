"""Jobs and pods that end by another's hand."""

from typing import Any

import pytest

from support.tasks_on_cluster import CRASHES, JOBS, KILLED, PODS, RUNS, Scene, condition, eventually, state_of


async def test_job_deleted_by_hand(here: Scene, history: str) -> None:
    async with here.operator(history=history) as operator:
        await here.create("task", RUNS)
        await here.state("task", "Running", timeout=60)
        job = await here.job_of("task")
        await here.delete(JOBS, "jobs", job["metadata"]["name"], propagationPolicy="Background")
        task = await here.state("task", "Failed")
        assert condition(task, "Failed")["reason"] == "JobDeleted"
        here.check_writes({"task": task})
        await here.rows_match(history)
        assert not operator.defects()


@pytest.mark.full
async def test_job_deleted_by_hand_while_the_operator_is_down(here: Scene, history: str) -> None:
    async with here.operator(history=history) as operator:
        await here.create("task", RUNS)
        await here.state("task", "Running", timeout=60)
        await operator.kill()
        job = await here.job_of("task")
        await here.delete(JOBS, "jobs", job["metadata"]["name"], propagationPolicy="Foreground")
        await operator.start()
        task = await here.state("task", "Failed", timeout=60)
        assert condition(task, "Failed")["reason"] == "JobDeleted"
        here.check_writes({"task": task})
        await here.rows_match(history)
        assert not operator.defects()


async def test_pod_deleted_by_hand(here: Scene, history: str) -> None:
    """An attempt that ends: it is tried again, by the same Job."""
    async with here.operator(history=history) as operator:
        await here.create("task", RUNS, runPolicy__retries=1)
        await here.state("task", "Running", timeout=60)
        (pod,) = await here.pods()
        await here.delete(PODS, "pods", pod["metadata"]["name"])

        async def second() -> Any:
            task = await here.task("task")
            return task if task["status"]["attempt"] == 2 and state_of(task) == "Running" else None

        await eventually("a second attempt", second, 60)
        await here.end("task")
        task = await here.state("task", "Succeeded")
        first, second_one = task["status"]["attempts"]
        assert first["reason"] in ("Interrupted", "PodLost"), "whether its last moment was seen or not"
        assert "reason" not in second_one
        here.check_writes({"task": task})
        await here.rows_match(history)
        assert not operator.defects()


async def test_deadline_over_all_attempts(here: Scene, history: str) -> None:
    """Each attempt alone is quick enough; Kubernetes waits for 10 s between two."""
    async with here.operator(history=history) as operator:
        await here.create("task", CRASHES, runPolicy={"retries": 10, "activeDeadlineSeconds": 20})
        task = await here.state("task", "Failed", timeout=60)
        assert condition(task, "Failed")["reason"] == "DeadlineExceeded"
        reasons = [attempt["reason"] for attempt in task["status"]["attempts"]]
        assert reasons == ["TrainerCrashed", "DeadlineExceeded"]
        here.check_writes({"task": task})
        await here.rows_match(history)
        assert not operator.defects()


@pytest.mark.full
async def test_trainer_killed(here: Scene, history: str) -> None:
    """Exit code 137 without the kubelet's word that it was the memory limit."""
    async with here.operator(history=history) as operator:
        await here.create("task", KILLED, runPolicy__retries=1)
        await here.jobs_ended(1, timeout=90)
        await here.tasks_ended()
        await here.check({"task": KILLED}, retries=1)
        task = await here.task("task")
        assert {attempt["reason"] for attempt in task["status"]["attempts"]} == {"TrainerCrashed"}
        assert "137" in condition(task, "Failed")["message"]
        await here.rows_match(history)
        assert not operator.defects()
