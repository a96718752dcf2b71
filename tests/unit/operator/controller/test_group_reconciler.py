"""Reconciles of a task on several nodes: each row of the fault table for groups."""

from support.groups import (
    add_group,
    group_pod,
    run_group,
    set_jobset_condition,
    set_pods,
)
from support.in_memory_api_server import FakeCluster, FakeRecorder, running, terminated
from support.reconcile import KEY, get_job
from trainingtask_operator.controller.reconciler import (
    Reconciler,
)
from trainingtask_operator.kube_objects import Object

PEER_LOST = '{"attempt": 1, "failure": {"reason": "PeerLost", "message": "Rank 1 is lost.", "phase": "Training"}}'
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
