"""Tasks whose Jobs run in another cluster: MultiKueue copies the status of the Job there, and there are no pods here."""

from datetime import timedelta
from typing import Any

import pytest

from support.groups import add_group
from support.in_memory_api_server import NOW, FakeCluster, FakeRecorder, job_condition
from support.reconcile import KEY, add_task, get_condition, get_job
from trainingtask_operator.controller.reconciler import Reconciler
from trainingtask_operator.settings import Settings

POLICY = {"managedBy": "kueue.x-k8s.io/multikueue"}
STARTED = "2026-01-01T00:00:30Z"
RESUMED = {**job_condition("Suspended", "ResumeJobs"), "status": "False", "lastTransitionTime": STARTED}


def mirror(cluster: FakeCluster, task: dict[str, Any], ready: int, *conditions: dict[str, Any]) -> None:
    """Write the status of the Job, or JobSet, as MultiKueue does."""
    job = get_job(cluster, task)
    assert job["spec"]["managedBy"] == POLICY["managedBy"]
    jobs = [{"name": "trainer", "ready": ready, "active": 1}]
    job["status"] = {
        "startTime": STARTED,
        "ready": ready,
        "active": 1,
        "replicatedJobsStatus": jobs,
        "conditions": conditions,
    }
    job["status"]["conditions"] = list(conditions)


@pytest.mark.parametrize(
    ("add", "completed", "resumed", "started"),
    [
        (add_task, "Complete", [], STARTED),
        (add_group, "Completed", [RESUMED], STARTED),
        (add_group, "Completed", [], "2026-01-01T00:02:00Z"),  # when it is seen: it waited since its creation
    ],
)
async def test_a_remote_job_is_followed_by_its_status(
    cluster: FakeCluster,
    reconciler: Reconciler,
    recorder: FakeRecorder,
    add: Any,
    completed: str,
    resumed: list[Any],
    started: str,
) -> None:
    task = add(cluster, runPolicy=POLICY)
    await reconciler.reconcile(*KEY)
    await reconciler.reconcile(*KEY)
    assert "another cluster" in get_condition(task, "Running")["message"]
    mirror(cluster, task, 1, *resumed)
    assert await reconciler.reconcile(*KEY) is None, "it cannot become stale: its reports do not come here"
    assert (task["status"]["state"], task["status"]["startTime"]) == ("Running", started)
    assert [(row.status, row.node) for row in recorder.rows] == [("Running", None)]
    mirror(cluster, task, 0, *resumed, job_condition(completed))
    await reconciler.reconcile(*KEY)
    assert task["status"]["state"] == "Succeeded"
    assert "in another cluster" in get_condition(task, "Complete")["message"]
    (row,) = recorder.rows
    assert (row.status, row.start_time is not None, row.finish_time is not None) == ("Succeeded", True, True)
    assert cluster.events == []


async def test_the_time_in_a_queue_does_not_count_for_the_deadline_of_a_group(
    cluster: FakeCluster, settings: Settings, recorder: FakeRecorder
) -> None:
    """MultiKueue resumes the JobSet before it copies the status of the one in the other cluster."""
    now = NOW
    reconciler = Reconciler(cluster, cluster, settings, recorder, clock=lambda: now)
    task = add_group(cluster, runPolicy=POLICY | {"queueName": "team", "activeDeadlineSeconds": 3600})
    await reconciler.reconcile(*KEY)
    await reconciler.reconcile(*KEY)
    now += timedelta(hours=3)
    get_job(cluster, task)["spec"]["suspend"] = False
    assert await reconciler.reconcile(*KEY) is None
    assert (task["status"]["state"], len(cluster.jobs)) == ("Pending", 1)
    mirror(cluster, task, 1, RESUMED | {"lastTransitionTime": now.isoformat()})
    assert await reconciler.reconcile(*KEY) == timedelta(hours=1)
    assert (task["status"]["state"], len(cluster.jobs)) == ("Running", 1)


async def test_a_failed_remote_job_has_the_jobs_words(cluster: FakeCluster, reconciler: Reconciler) -> None:
    task = add_task(cluster, runPolicy=POLICY)
    await reconciler.reconcile(*KEY)
    mirror(cluster, task, 1)
    await reconciler.reconcile(*KEY)
    mirror(cluster, task, 0, job_condition("Failed", "BackoffLimitExceeded", "Job has reached the specified limit"))
    await reconciler.reconcile(*KEY)
    failed = get_condition(task, "Failed")
    assert failed["reason"] == "JobFailed"
    assert "in another cluster" in failed["message"]
    assert "BackoffLimitExceeded: Job has reached the specified limit" in failed["message"]


async def test_a_deleted_job_that_ran_remotely_is_not_created_again(
    cluster: FakeCluster, reconciler: Reconciler
) -> None:
    task = add_task(cluster, runPolicy=POLICY)
    await reconciler.reconcile(*KEY)
    mirror(cluster, task, 1)
    await reconciler.reconcile(*KEY)
    cluster.jobs.clear()
    await reconciler.reconcile(*KEY)
    assert get_condition(task, "Failed")["reason"] == "JobDeleted"
