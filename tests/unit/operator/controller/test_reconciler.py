"""Reconciles of a task from its creation to its end."""

import json

import pytest

from support.in_memory_api_server import NOW, FakeCluster, FakeRecorder, job_condition, pod, running, terminated
from support.reconcile import KEY, add_task, get_condition, get_condition_status, get_job, run_pod
from trainingtask_operator.client.errors import ClusterError
from trainingtask_operator.controller.reconciler import REQUEUE_AFTER_JOB_CREATED, Reconciler
from trainingtask_operator.settings import Settings


async def test_a_task_takes_four_requests_from_creation_to_completion(
    cluster: FakeCluster, reconciler: Reconciler, recorder: FakeRecorder
) -> None:
    task = add_task(cluster)
    await reconciler.reconcile(*KEY)
    assert (task["status"]["state"], task["status"]["reason"]) == ("Pending", "Starting")
    assert task["status"]["jobName"] == get_job(cluster, task)["metadata"]["name"]
    assert [(row.status, row.error_reason) for row in recorder.rows] == [("Pending", None)]

    cluster.pods[task["metadata"]["uid"]] = [pod(task, phase="Running", state=running())]
    await reconciler.reconcile(*KEY)
    assert task["status"]["state"] == "Running"
    assert task["status"]["node"] == "node-1"
    assert [row.status for row in recorder.rows] == ["Running"]

    cluster.pods[task["metadata"]["uid"]] = [pod(task, phase="Succeeded", state=terminated(0, reason="Completed"))]
    await reconciler.reconcile(*KEY)
    assert task["status"]["state"] == "Running", "until the Job is Complete"

    get_job(cluster, task)["status"] = {"conditions": [job_condition("Complete")]}
    await reconciler.reconcile(*KEY)
    await reconciler.reconcile(*KEY)
    assert task["status"]["state"] == "Succeeded"
    assert (get_condition_status(task, "Complete"), get_condition_status(task, "Running")) == ("True", "False")
    assert task["status"]["completionTime"] == "2026-01-01T00:01:04Z"
    (row,) = recorder.rows
    assert (row.status, row.total_time, row.node, row.trainer_image) == ("Succeeded", 60.0, "node-1", "trainer:test")
    transitions = [(kind, reason) for run, kind, reason in recorder.events if run == row.id]
    assert transitions == [
        ("Accepted", "Accepted"),
        ("Running", "Starting"),
        ("Running", "TrainerRunning"),
        ("Running", "Ended"),
        ("Complete", "Succeeded"),
    ]
    assert cluster.requests == ["create job", "apply status", "apply status", "apply status"]
    assert cluster.events == []


async def test_a_new_tasks_job_is_created_before_its_status_is_written(
    cluster: FakeCluster, settings: Settings, recorder: FakeRecorder
) -> None:
    task = add_task(cluster)
    reconciler = Reconciler(cluster, cluster, settings, recorder, clock=lambda: NOW)
    assert await reconciler.reconcile(*KEY) == REQUEUE_AFTER_JOB_CREATED
    assert cluster.requests == ["create job"]
    assert await reconciler.reconcile(*KEY) != REQUEUE_AFTER_JOB_CREATED
    assert task["status"]["jobName"] == get_job(cluster, task)["metadata"]["name"]


@pytest.mark.parametrize("lost", ["request", "response"])
@pytest.mark.parametrize("step", ["apply status", "create job"])
async def test_a_lost_request_or_response_leads_to_one_job(
    cluster: FakeCluster, reconciler: Reconciler, step: str, lost: str
) -> None:
    task = add_task(cluster)
    losses = [step]

    def lose(what: str) -> None:
        if what in losses:
            losses.remove(what)
            raise ClusterError(0, "lost")

    if lost == "request":
        cluster.before_each = lose
    else:
        cluster.after_each = lose
    with pytest.raises(ClusterError):
        await reconciler.reconcile(*KEY)
    await reconciler.reconcile(*KEY)
    assert len(cluster.jobs) == 1
    assert task["status"]["jobName"] == get_job(cluster, task)["metadata"]["name"]


async def test_a_job_of_an_earlier_try_is_adopted_when_the_watch_lags(
    cluster: FakeCluster, reconciler: Reconciler
) -> None:
    task = add_task(cluster)
    await reconciler.reconcile(*KEY)
    job = get_job(cluster, task)
    del job["metadata"]["labels"]  # out of the watch's sight
    await reconciler.reconcile(*KEY)
    assert len(cluster.jobs) == 1
    assert get_condition_status(task, "Accepted") == "True"


async def test_a_foreign_job_of_the_same_name_is_reported_and_left_alone(
    cluster: FakeCluster, reconciler: Reconciler
) -> None:
    task = add_task(cluster)
    await reconciler.reconcile(*KEY)
    job = get_job(cluster, task)
    job["metadata"] |= {"labels": {}, "ownerReferences": [{"uid": "another-uid"}]}
    before = json.dumps(job)
    assert await reconciler.reconcile(*KEY) is not None, "requeued: the deletion of that Job has no event"
    assert get_condition(task, "Accepted")["reason"] == "NameConflict"
    assert json.dumps(job) == before
    assert [event["reason"] for event in cluster.events] == ["NameConflict"]
    cluster.jobs.clear()
    await reconciler.reconcile(*KEY)
    assert get_condition_status(task, "Accepted") == "True", "the conflict is gone, so is the complaint"


async def test_suspend_and_resume_reach_the_job(cluster: FakeCluster, reconciler: Reconciler) -> None:
    task = add_task(cluster, runPolicy={"suspend": True})
    await reconciler.reconcile(*KEY)
    assert cluster.jobs == {}, "a queue would start it"
    assert (task["status"]["state"], get_condition_status(task, "Suspended")) == ("Suspended", "True")
    assert "is created when" in get_condition(task, "Accepted")["message"]

    task["spec"]["runPolicy"] = {"suspend": False}
    await reconciler.reconcile(*KEY)
    assert get_job(cluster, task)["spec"]["suspend"] is False
    assert (task["status"]["state"], get_condition_status(task, "Suspended")) == ("Pending", "False")

    cluster.pods[task["metadata"]["uid"]] = [pod(task, phase="Running", state=running())]
    await reconciler.reconcile(*KEY)
    task["spec"]["runPolicy"] = {"suspend": True}
    await reconciler.reconcile(*KEY)
    assert get_job(cluster, task)["spec"]["suspend"] is True
    assert (task["status"]["state"], get_condition_status(task, "Running")) == ("Suspended", "False")
    assert cluster.events == [], "a suspension by the user is no Warning"


async def test_a_user_error_has_the_trainers_message_in_status_row_and_event(
    cluster: FakeCluster, reconciler: Reconciler, recorder: FakeRecorder
) -> None:
    task = add_task(cluster)
    await run_pod(cluster, reconciler, task)
    termination_message = json.dumps(
        {
            "attempt": 1,
            "phase": "Failed",
            "failure": {"reason": "DatasetNotFound", "message": "No folder 'x' in the claim.", "phase": "Loading"},
        }
    )
    cluster.pods[task["metadata"]["uid"]] = [pod(task, phase="Failed", state=terminated(64, termination_message))]
    await reconciler.reconcile(*KEY)
    assert task["status"]["state"] == "Running", "not interrupted: it is not retried"
    get_job(cluster, task)["status"] = {
        "conditions": [job_condition("Failed", "PodFailurePolicy", "the policy matched")]
    }
    await reconciler.reconcile(*KEY)
    assert (get_condition(task, "Failed")["reason"], get_condition(task, "Failed")["message"]) == (
        "DatasetNotFound",
        "No folder 'x' in the claim.",
    )
    (row,) = recorder.rows
    assert (row.status, row.error_reason, row.error_message) == (
        "Failed",
        "DatasetNotFound",
        "No folder 'x' in the claim.",
    )
    assert [(event["reason"], event["note"]) for event in cluster.events] == [
        ("DatasetNotFound", "No folder 'x' in the claim.")
    ]


async def test_a_failed_attempt_is_retried_and_each_has_its_row(
    cluster: FakeCluster, reconciler: Reconciler, recorder: FakeRecorder
) -> None:
    task = add_task(cluster)
    await run_pod(cluster, reconciler, task)
    first = pod(task, phase="Failed", state=terminated(137, reason="OOMKilled"))
    cluster.pods[task["metadata"]["uid"]] = [first]
    await reconciler.reconcile(*KEY)
    assert (task["status"]["state"], task["status"]["reason"]) == ("Interrupted", "OOMKilled")

    again = pod(task, phase="Running", attempt=2, state=running("2026-01-01T00:01:30Z"), created="2026-01-01T00:01:20Z")
    cluster.pods[task["metadata"]["uid"]] = [first, again]
    await reconciler.reconcile(*KEY)
    assert (task["status"]["state"], task["status"]["attempt"], get_condition_status(task, "Interrupted")) == (
        "Running",
        2,
        "False",
    )
    assert [(row.attempt, row.status, row.error_reason) for row in recorder.rows] == [
        (1, "Failed", "OOMKilled"),
        (2, "Running", None),
    ]
    assert "2Gi" in (recorder.rows[0].error_message or "")

    last = pod(task, phase="Failed", attempt=2, state=terminated(1, "Traceback\nboom"), created="2026-01-01T00:01:20Z")
    cluster.pods[task["metadata"]["uid"]] = [first, last]
    get_job(cluster, task)["status"] = {"conditions": [job_condition("Failed", "FailedIndexes", "one index failed")]}
    await reconciler.reconcile(*KEY)
    failed = get_condition(task, "Failed")
    assert failed["reason"] == "RetriesExhausted"
    assert "boom" in failed["message"]
    assert "TrainerCrashed" in failed["message"]
    assert [(row.attempt, row.status, row.error_reason) for row in recorder.rows] == [
        (1, "Failed", "OOMKilled"),
        (2, "Failed", "TrainerCrashed"),
    ]
    assert [(a["number"], a["exitCode"], a["reason"]) for a in task["status"]["attempts"]] == [
        (1, 137, "OOMKilled"),
        (2, 1, "TrainerCrashed"),
    ]


async def test_a_deadline_has_its_reason(cluster: FakeCluster, reconciler: Reconciler) -> None:
    task = add_task(cluster, runPolicy={"activeDeadlineSeconds": 7})
    await run_pod(cluster, reconciler, task)
    cluster.pods[task["metadata"]["uid"]] = []
    get_job(cluster, task)["status"] = {
        "conditions": [job_condition("Failed", "DeadlineExceeded", "Job was active longer")]
    }
    await reconciler.reconcile(*KEY)
    assert get_condition(task, "Failed")["reason"] == "DeadlineExceeded"
    assert "7 s" in get_condition(task, "Failed")["message"]


async def test_a_pod_that_a_failing_job_ends_is_no_interruption(cluster: FakeCluster, reconciler: Reconciler) -> None:
    task = add_task(cluster, runPolicy={"activeDeadlineSeconds": 7})
    await run_pod(cluster, reconciler, task)
    cluster.pods[task["metadata"]["uid"]] = [pod(task, phase="Failed", state=terminated(143))]
    target = job_condition("FailureTarget", "DeadlineExceeded")
    get_job(cluster, task)["status"] = {"conditions": [target]}
    await reconciler.reconcile(*KEY)
    assert get_condition_status(task, "Interrupted") == ""
    assert cluster.events == []
    get_job(cluster, task)["status"] = {"conditions": [target, job_condition("Failed", "FailedIndexes")]}
    await reconciler.reconcile(*KEY)
    assert get_condition(task, "Failed")["reason"] == "DeadlineExceeded"


async def test_the_reason_of_a_waiting_pod_comes_and_goes(cluster: FakeCluster, reconciler: Reconciler) -> None:
    task = add_task(cluster)
    await reconciler.reconcile(*KEY)
    unschedulable = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "0/1 nodes are available: 1 Insufficient memory.",
    }
    cluster.pods[task["metadata"]["uid"]] = [pod(task, conditions=[unschedulable])]
    await reconciler.reconcile(*KEY)
    await reconciler.reconcile(*KEY)
    assert (task["status"]["state"], task["status"]["reason"]) == ("Pending", "Unschedulable")
    assert "Insufficient memory" in get_condition(task, "Running")["message"]
    assert [event["reason"] for event in cluster.events] == ["Unschedulable"], "one Event"

    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}}
    cluster.pods[task["metadata"]["uid"]] = [pod(task, state=waiting)]
    await reconciler.reconcile(*KEY)
    assert task["status"]["reason"] == "ImagePullFailed"

    cluster.pods[task["metadata"]["uid"]] = [pod(task, phase="Running", state=running())]
    await reconciler.reconcile(*KEY)
    assert task["status"]["state"] == "Running"
