"""Reconciles of a task on several nodes: each row of the fault table for groups."""

import json

import pytest

from support.groups import add_group, group_pod, run_group, set_jobset_condition, set_pods, start_group
from support.in_memory_api_server import FakeCluster, FakeRecorder, running, terminated
from support.reconcile import KEY, get_condition, get_job
from trainingtask_operator.controller.reconciler import (
    Reconciler,
)
from trainingtask_operator.kube_objects import Object


def describe_failure(reason: str, message: str) -> str:
    """Return a trainer's termination message."""
    failure = {"reason": reason, "message": message, "phase": "Training"}
    return json.dumps({"attempt": 1, "phase": "Failed", "finishTime": "2026-01-01T00:01:02Z", "failure": failure})


PEER_LOST = describe_failure("PeerLost", "Rank 1 is lost.")
DISRUPTIONS = {
    "PreemptionByScheduler": "Preempted",
    "EvictionByEvictionAPI": "Evicted",
    "TerminationByKubelet": "Evicted",
    "DeletionByTaintManager": "NodeLost",
    "DeletionByPodGC": "NodeLost",
}


def get_attempts(task: Object) -> list[tuple[object, ...]]:
    return [(a["number"], a.get("pod"), a.get("node"), a.get("reason")) for a in task["status"]["attempts"]]


async def test_a_group_is_created_runs_and_succeeds(
    cluster: FakeCluster, reconciler: Reconciler, recorder: FakeRecorder
) -> None:
    task = add_group(cluster)
    await reconciler.reconcile(*KEY)
    jobset = get_job(cluster, task)
    assert (jobset["kind"], task["status"]["jobName"]) == ("JobSet", jobset["metadata"]["name"])
    assert (task["status"]["state"], task["status"]["reason"]) == ("Pending", "Starting")

    set_pods(cluster, task, group_pod(task, 0, phase="Running", state=running()), group_pod(task, 1))
    await reconciler.reconcile(*KEY)
    assert task["status"]["state"] == "Pending", "until both pods run"
    run_group(cluster, task)
    await reconciler.reconcile(*KEY)
    status = task["status"]
    assert (status["state"], status["node"], status["attempt"]) == ("Running", "node-0, node-1 (2 nodes)", 1)
    assert status["podUid"] == cluster.pods[task["metadata"]["uid"]][0]["metadata"]["uid"], "that of index 0 reports"

    done = [group_pod(task, i, phase="Succeeded", state=terminated(0, reason="Completed")) for i in range(2)]
    set_pods(cluster, task, *done)
    await reconciler.reconcile(*KEY)
    assert task["status"]["state"] == "Running", "until the JobSet is Completed"
    set_jobset_condition(cluster, task, "Completed", "AllJobsCompleted")
    await reconciler.reconcile(*KEY)
    assert (task["status"]["state"], task["status"]["completionTime"]) == ("Succeeded", "2026-01-01T00:01:04Z")
    assert [(row.status, row.total_time, row.node) for row in recorder.rows] == [("Succeeded", 60.0, status["node"])]


async def test_a_users_error_fails_the_task_with_the_pod_that_has_it(
    cluster: FakeCluster, reconciler: Reconciler, recorder: FakeRecorder
) -> None:
    task = add_group(cluster, runPolicy={"activeDeadlineSeconds": 3600})
    await start_group(cluster, reconciler, task)
    refused = group_pod(task, 1, phase="Failed", state=terminated(64, describe_failure("InvalidData", "No rows.")))
    set_pods(cluster, task, group_pod(task, 0, phase="Failed", state=terminated(1, PEER_LOST)), refused)
    await reconciler.reconcile(*KEY)
    assert task["status"]["state"] == "Running", "no retry is announced"
    set_jobset_condition(cluster, task, "Failed", "FailJobSetFailurePolicyAction")
    await reconciler.reconcile(*KEY)
    failed = get_condition(task, "Failed")
    assert (failed["reason"], failed["message"]) == ("InvalidData", "Pod t-trainer-0-1-r0 on node node-1: No rows.")
    assert get_attempts(task) == [(1, "t-trainer-0-1-r0", "node-1", "InvalidData")]
    assert [(row.status, row.error_reason, row.node) for row in recorder.rows] == [("Failed", "InvalidData", "node-1")]


async def test_a_fault_restarts_the_group_as_the_next_attempt(
    cluster: FakeCluster, reconciler: Reconciler, recorder: FakeRecorder
) -> None:
    task = add_group(cluster)
    await start_group(cluster, reconciler, task)
    killed = group_pod(task, 1, phase="Failed", state=terminated(137, reason="OOMKilled"))
    set_pods(cluster, task, group_pod(task, 0, phase="Failed", state=terminated(1, PEER_LOST)), killed)
    await reconciler.reconcile(*KEY)
    assert (task["status"]["state"], task["status"]["reason"]) == ("Interrupted", "OOMKilled")
    assert "t-trainer-0-1-r0 on node node-1" in get_condition(task, "Interrupted")["message"]

    run_group(cluster, task, restarts=1)
    await reconciler.reconcile(*KEY)
    assert (task["status"]["state"], task["status"]["attempt"]) == ("Running", 2)
    assert task["status"]["podUid"] == cluster.pods[task["metadata"]["uid"]][0]["metadata"]["uid"]
    assert get_attempts(task) == [
        (1, "t-trainer-0-1-r0", "node-1", "OOMKilled"),
        (2, "t-trainer-0-0-r1", "node-0, node-1 (2 nodes)", None),
    ]
    set_jobset_condition(cluster, task, "Completed", "AllJobsCompleted")
    await reconciler.reconcile(*KEY)
    assert [(row.attempt, row.status, row.error_reason) for row in recorder.rows] == [
        (1, "Failed", "OOMKilled"),
        (2, "Succeeded", None),
    ]


async def test_of_pods_that_report_the_same_failure_the_named_one_had_it(
    cluster: FakeCluster, reconciler: Reconciler
) -> None:
    """The launchers tell each other why they end."""
    task = add_group(cluster)
    await start_group(cluster, reconciler, task)
    report = describe_failure("TrainerCrashed", "It was killed (rank 1 on pod t-trainer-0-1-r0).")
    set_pods(cluster, task, *(group_pod(task, i, phase="Failed", state=terminated(1, report)) for i in range(2)))
    await reconciler.reconcile(*KEY)
    assert get_attempts(task) == [(1, "t-trainer-0-1-r0", "node-1", "TrainerCrashed")]
    assert " ended: It was killed (rank 1" in get_condition(task, "Interrupted")["message"]


async def test_the_last_of_the_retries_fails_the_task(cluster: FakeCluster, reconciler: Reconciler) -> None:
    task = add_group(cluster, runPolicy={"retries": 1})
    await start_group(cluster, reconciler, task)
    for restarts in range(2):
        crashed = group_pod(task, 1, restarts=restarts, phase="Failed", state=terminated(1, "boom"))
        set_pods(cluster, task, crashed)
        await reconciler.reconcile(*KEY)
    set_jobset_condition(cluster, task, "Failed", "ReachedMaxRestarts")
    await reconciler.reconcile(*KEY)
    failed = get_condition(task, "Failed")
    assert (failed["reason"], "t-trainer-0-1-r1" in failed["message"]) == ("RetriesExhausted", True)
    assert [reason for *_, reason in get_attempts(task)] == ["TrainerCrashed", "TrainerCrashed"]


@pytest.mark.parametrize("disruption", DISRUPTIONS)
async def test_a_disrupted_pod_is_the_reason_and_not_its_peers(
    cluster: FakeCluster, reconciler: Reconciler, disruption: str
) -> None:
    task = add_group(cluster)
    await start_group(cluster, reconciler, task)
    condition = {"type": "DisruptionTarget", "status": "True", "reason": disruption, "message": "away"}
    taken = group_pod(task, 1, phase="Running", state=running(), conditions=[condition])
    taken["metadata"]["deletionTimestamp"] = "2026-01-01T00:01:00Z"
    set_pods(cluster, task, group_pod(task, 0, phase="Failed", state=terminated(1, PEER_LOST)), taken)
    await reconciler.reconcile(*KEY)
    assert (task["status"]["state"], task["status"]["reason"]) == ("Interrupted", DISRUPTIONS[disruption])

    taken["status"]["phase"] = "Failed"
    await reconciler.reconcile(*KEY)
    run_group(cluster, task, restarts=1)
    await reconciler.reconcile(*KEY)
    assert get_attempts(task)[0] == (1, "t-trainer-0-1-r0", "node-1", DISRUPTIONS[disruption])


async def test_the_end_of_an_attempt_outlives_the_pod_that_failed_first(
    cluster: FakeCluster, reconciler: Reconciler
) -> None:
    task = add_group(cluster)
    await start_group(cluster, reconciler, task)
    lost = group_pod(task, 0, phase="Failed", state=terminated(1, PEER_LOST))
    set_pods(cluster, task, lost, group_pod(task, 1, phase="Running", state=running()))
    await reconciler.reconcile(*KEY)
    assert get_attempts(task) == [(1, "t-trainer-0-0-r0", "node-0", "PeerLost")], "as far as is known"
    set_pods(cluster, task, lost, group_pod(task, 1, phase="Failed", state=terminated(137, reason="OOMKilled")))
    await reconciler.reconcile(*KEY)
    first = [(1, "t-trainer-0-1-r0", "node-1", "OOMKilled")]
    assert get_attempts(task) == first

    stopped = group_pod(task, 0, phase="Failed", state=terminated(143))
    stopped["metadata"]["deletionTimestamp"] = "2026-01-01T00:01:05Z"
    for pods in ([stopped], []):
        set_pods(cluster, task, *pods)
        await reconciler.reconcile(*KEY)
        assert get_attempts(task) == first


async def test_the_end_of_an_attempt_outlives_each_step_of_its_deletion(
    cluster: FakeCluster, reconciler: Reconciler
) -> None:
    """As seen on a cluster: JobSet deletes the failed pod, which has ended, and its peer, which runs on for a while."""
    task = add_group(cluster)
    await start_group(cluster, reconciler, task)
    peer, failed = (
        group_pod(task, 0, phase="Running", state=running()),
        group_pod(task, 1, phase="Failed", state=terminated(137)),
    )
    set_pods(cluster, task, peer, failed)
    await reconciler.reconcile(*KEY)
    recorded = task["status"]["attempts"]
    assert get_attempts(task) == [(1, "t-trainer-0-1-r0", "node-1", "TrainerCrashed")]
    for pod in (peer, failed):
        pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:01:05Z"
    stopped = group_pod(task, 0, phase="Failed", state=terminated(143))
    stopped["metadata"]["deletionTimestamp"] = "2026-01-01T00:01:05Z"
    for pods in ([peer, failed], [stopped, failed], [peer], [stopped], [failed], []):
        set_pods(cluster, task, *pods)
        await reconciler.reconcile(*KEY)
        assert task["status"]["attempts"] == recorded, pods
    run_group(cluster, task, restarts=1)
    await reconciler.reconcile(*KEY)
    assert task["status"]["attempts"][:1] == recorded


async def test_an_attempt_keeps_its_start_while_its_first_pod_goes(
    cluster: FakeCluster, reconciler: Reconciler
) -> None:
    task = add_group(cluster)
    await start_group(cluster, reconciler, task)
    begun = task["status"]["attempts"]
    set_pods(cluster, task, group_pod(task, 1, phase="Running", state=running()))
    await reconciler.reconcile(*KEY)
    assert task["status"]["attempts"] == begun


async def test_a_restart_that_no_operator_observed_closes_the_attempt(
    cluster: FakeCluster, reconciler: Reconciler, recorder: FakeRecorder
) -> None:
    task = add_group(cluster)
    await start_group(cluster, reconciler, task)
    run_group(cluster, task, restarts=2)
    await reconciler.reconcile(*KEY)
    assert [(number, reason) for number, _, _, reason in get_attempts(task)] == [
        (1, "PodLost"),
        (2, "PodLost"),
        (3, None),
    ]
    assert [(row.attempt, row.status) for row in recorder.rows] == [(1, "Failed"), (2, "Failed"), (3, "Running")]


async def test_a_jobset_created_again_begins_the_next_attempt(
    cluster: FakeCluster, reconciler: Reconciler, recorder: FakeRecorder
) -> None:
    """Somebody deletes a JobSet whose pod failed before it started; the new one's count of restarts begins at 0."""
    task = add_group(cluster, runPolicy={"retries": 3})
    await reconciler.reconcile(*KEY)
    set_pods(cluster, task, group_pod(task, 0, phase="Failed"), group_pod(task, 1))
    await reconciler.reconcile(*KEY)
    first = (1, "t-trainer-0-0-r0", "node-0", "PodFailed")
    assert get_attempts(task) == [first]
    cluster.jobs.clear()
    set_pods(cluster, task)
    await reconciler.reconcile(*KEY)
    assert (get_attempts(task), task["status"]["state"]) == ([first], "Interrupted")

    pods = [group_pod(task, i, node=f"new-{i}", phase="Running", state=running()) for i in range(2)]
    for i, pod in enumerate(pods):
        pod["metadata"] |= {"name": f"new-{i}", "uid": f"new-{i}"}
    set_pods(cluster, task, *pods)
    await reconciler.reconcile(*KEY)
    status = task["status"]
    assert (status["state"], status["attempt"], status["podUid"]) == ("Running", 2, "new-0")
    second = (2, "new-0", "new-0, new-1 (2 nodes)", None)
    assert get_attempts(task) == [first, second]
    set_pods(cluster, task, pods[1])
    await reconciler.reconcile(*KEY)
    assert get_attempts(task) == [first, second], "also while one of its pods is away"
    run_group(cluster, task, restarts=1)
    await reconciler.reconcile(*KEY)
    set_jobset_condition(cluster, task, "Completed", "AllJobsCompleted")
    await reconciler.reconcile(*KEY)
    assert [(row.attempt, row.status, row.error_reason) for row in recorder.rows] == [
        (1, "Failed", "PodFailed"),
        (2, "Failed", "PodLost"),
        (3, "Succeeded", None),
    ]
