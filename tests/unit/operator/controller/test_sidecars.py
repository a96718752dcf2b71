"""Trainers that have ended in pods that go on, for a sidecar that has not."""

import json
from datetime import datetime, timedelta
from typing import Any

import pytest

from support.groups import add_group, group_pod, set_pods, start_group
from support.in_memory_api_server import NOW, FakeCluster, FakeRecorder, job_condition, pod, running, terminated
from support.reconcile import KEY, add_task, get_condition, get_condition_status, get_job, run_pod
from trainingtask_operator.controller.heartbeat import HEARTBEAT_TIMEOUT
from trainingtask_operator.controller.reconciler import Reconciler
from trainingtask_operator.controller.sidecars import SIDECAR_TIMEOUT
from trainingtask_operator.settings import Settings

ENDED = datetime.fromisoformat(terminated(0)["terminated"]["finishedAt"])


def reconcile_at(time: datetime, cluster: FakeCluster, settings: Settings, recorder: FakeRecorder) -> Reconciler:
    return Reconciler(cluster, cluster, settings, recorder, clock=lambda: time)


async def end_trainer(
    cluster: FakeCluster,
    reconciler: Reconciler,
    code: int,
    *,
    phase: str = "Running",
    sidecars: tuple[str, ...] = ("istio-proxy",),
    **changes: Any,
) -> dict[str, Any]:
    """Return a new task whose trainer has run, and has ended with this exit code."""
    task = add_task(cluster, **changes)
    await run_pod(cluster, reconciler, task)
    cluster.pods[task["metadata"]["uid"]] = [pod(task, phase=phase, state=terminated(code), sidecars=sidecars)]
    return task


@pytest.mark.parametrize("code", [0, 1, 64])
async def test_a_sidecar_has_30_seconds_and_is_named_in_the_status(
    cluster: FakeCluster, reconciler: Reconciler, settings: Settings, recorder: FakeRecorder, code: int
) -> None:
    task = await end_trainer(cluster, reconciler, code)
    early = reconcile_at(ENDED + timedelta(seconds=1), cluster, settings, recorder)
    assert await early.reconcile(*KEY) == SIDECAR_TIMEOUT - timedelta(seconds=1)
    assert (task["status"]["state"], task["status"]["reason"]) == ("Running", "SidecarRunning")
    message = get_condition(task, "Running")["message"]
    assert "'istio-proxy'" in message
    assert 'sidecar.istio.io/inject: "false"' in message
    assert [event["reason"] for event in cluster.events] == ["SidecarRunning"]
    assert not {"delete pod", "delete job"} & set(cluster.requests)


async def test_a_success_beside_a_sidecar_completes_the_task_and_deletes_its_job(
    cluster: FakeCluster, reconciler: Reconciler, recorder: FakeRecorder
) -> None:
    task = await end_trainer(cluster, reconciler, 0)
    await reconciler.reconcile(*KEY)
    assert (task["status"]["state"], task["status"]["completionTime"]) == ("Succeeded", "2026-01-01T00:01:03Z")
    assert cluster.requests[-2:] == ["apply status", "delete job"], "in this order"
    (row,) = recorder.rows
    assert (row.status, row.finish_time) == ("Succeeded", ENDED)
    assert list(recorder.log_pods) == [row.id]


async def test_a_job_that_was_not_deleted_is_deleted_by_the_next_reconcile(
    cluster: FakeCluster, reconciler: Reconciler
) -> None:
    task = await end_trainer(cluster, reconciler, 0)
    job = get_job(cluster, task)
    await reconciler.reconcile(*KEY)
    cluster.jobs[job["metadata"]["namespace"], job["metadata"]["name"]] = job  # the operator was killed before it
    await reconciler.reconcile(*KEY)
    assert cluster.jobs == {}
    assert task["status"]["state"] == "Succeeded"


@pytest.mark.parametrize("job_status", [{}, {"conditions": [job_condition("Failed", "FailedIndexes")]}])
async def test_a_failing_sidecar_fails_no_training(
    cluster: FakeCluster, reconciler: Reconciler, recorder: FakeRecorder, job_status: dict[str, Any]
) -> None:
    """Kubernetes counts the pod as failed, and would train again."""
    task = await end_trainer(cluster, reconciler, 0, phase="Failed", sidecars=())
    get_job(cluster, task)["status"] = job_status
    await reconciler.reconcile(*KEY)
    assert task["status"]["state"] == "Succeeded"
    assert [(row.status, row.error_reason) for row in recorder.rows] == [("Succeeded", None)]


async def test_a_deadline_within_the_sidecars_time_fails_no_training(
    cluster: FakeCluster, reconciler: Reconciler, settings: Settings, recorder: FakeRecorder
) -> None:
    task = await end_trainer(cluster, reconciler, 0, runPolicy={"activeDeadlineSeconds": 7})
    get_job(cluster, task)["status"] = {"conditions": [job_condition("Failed", "DeadlineExceeded")]}
    await reconcile_at(ENDED + timedelta(seconds=5), cluster, settings, recorder).reconcile(*KEY)
    assert (task["status"]["state"], task["status"]["completionTime"]) == ("Succeeded", "2026-01-01T00:01:03Z")


async def test_a_groups_deadline_within_the_sidecars_time_fails_no_training(
    cluster: FakeCluster, reconciler: Reconciler, settings: Settings, recorder: FakeRecorder
) -> None:
    task = add_group(cluster, runPolicy={"activeDeadlineSeconds": 65})
    early = reconcile_at(ENDED, cluster, settings, recorder)
    await start_group(cluster, early, task)
    set_pods(cluster, task, ended_pod(task, 0, 0), ended_pod(task, 1, 0))
    assert await reconcile_at(ENDED + timedelta(seconds=20), cluster, settings, recorder).reconcile(*KEY) == timedelta(
        seconds=10
    )
    await reconciler.reconcile(*KEY)
    assert task["status"]["state"] == "Succeeded"


@pytest.mark.parametrize("code", [1, 64])
async def test_a_failure_beside_a_sidecar_deletes_the_pod_once(
    cluster: FakeCluster, reconciler: Reconciler, recorder: FakeRecorder, code: int
) -> None:
    task = await end_trainer(cluster, reconciler, code)
    await reconciler.reconcile(*KEY)
    await reconciler.reconcile(*KEY)
    assert cluster.requests.count("delete pod") == 1
    assert len(cluster.jobs) == 1, "the Job decides whether it is tried again"
    assert task["status"]["state"] == "Running"
    assert [(row.status, row.error_reason) for row in recorder.rows] == [("Interrupted", "TrainerCrashed")]
    assert len(recorder.log_pods) == 1


async def test_a_users_error_outlives_its_deleted_pod(
    cluster: FakeCluster, reconciler: Reconciler, recorder: FakeRecorder
) -> None:
    """The Job controller and the kubelet may delete it before the Job's end is seen."""
    task = await end_trainer(cluster, reconciler, 64)
    failure = {"reason": "InvalidData", "message": "Row 3 has no text.", "phase": "Loading"}
    (held,) = cluster.pods[task["metadata"]["uid"]]
    held["status"]["containerStatuses"][0]["state"] = terminated(
        64, json.dumps({"attempt": 1, "phase": "Failed", "failure": failure})
    )
    await reconciler.reconcile(*KEY)
    held["status"] |= {"phase": "Failed", "sidecars": []}
    await reconciler.reconcile(*KEY)
    task["status"]["training"] = {"attempt": 1, "phase": "Failed", "failure": failure}
    cluster.pods.clear()
    get_job(cluster, task)["status"] = {"conditions": [job_condition("Failed", "PodFailurePolicy")]}
    await reconciler.reconcile(*KEY)
    failed = get_condition(task, "Failed")
    assert (failed["reason"], failed["message"]) == ("InvalidData", "Row 3 has no text.")
    assert [(a["exitCode"], a["reason"]) for a in task["status"]["attempts"]] == [(64, "InvalidData")]
    assert [(row.status, row.error_reason) for row in recorder.rows] == [("Failed", "InvalidData")]


async def test_a_suspension_that_waits_for_a_sidecar_is_no_failure(
    cluster: FakeCluster, reconciler: Reconciler
) -> None:
    task = await end_trainer(cluster, reconciler, 143)
    (held,) = cluster.pods[task["metadata"]["uid"]]
    held["metadata"]["deletionTimestamp"] = "2026-01-01T00:02:03Z"  # by the Job controller
    task["spec"]["runPolicy"] = {"suspend": True}
    await reconciler.reconcile(*KEY)
    assert (task["status"]["state"], "reason" in task["status"]["attempts"][0]) == ("Suspended", False)
    task["spec"]["runPolicy"]["suspend"] = False
    again = pod(task, phase="Running", state=running("2026-01-01T00:01:50Z"), created="2026-01-01T00:01:45Z")
    cluster.pods[task["metadata"]["uid"]] = [again]
    await reconciler.reconcile(*KEY)
    assert (task["status"]["state"], task["status"]["attempt"]) == ("Running", 1)


async def test_the_attempt_after_a_deleted_pod_is_the_next_one(cluster: FakeCluster, reconciler: Reconciler) -> None:
    task = await end_trainer(cluster, reconciler, 1)
    await reconciler.reconcile(*KEY)
    (first,) = cluster.pods[task["metadata"]["uid"]]
    first["status"] |= {"phase": "Failed", "sidecars": []}
    await reconciler.reconcile(*KEY)
    assert (task["status"]["state"], task["status"]["reason"]) == ("Interrupted", "TrainerCrashed")
    again = pod(task, phase="Running", attempt=2, state=running("2026-01-01T00:01:50Z"), created="2026-01-01T00:01:45Z")
    cluster.pods[task["metadata"]["uid"]].append(again)
    await reconciler.reconcile(*KEY)
    assert (task["status"]["state"], task["status"]["attempt"]) == ("Running", 2)
    assert task["status"]["attempts"][0] | {"startTime": ""} == {
        "number": 1, "pod": first["metadata"]["name"], "node": "node-1", "startTime": "", "finishTime": "2026-01-01T00:01:03Z",
        "exitCode": 1, "reason": "TrainerCrashed",
    }  # fmt: skip


async def test_a_trainer_runs_beside_a_sidecar_that_cannot_start(cluster: FakeCluster, reconciler: Reconciler) -> None:
    task = add_task(cluster)
    await run_pod(cluster, reconciler, task)
    cluster.pods[task["metadata"]["uid"]] = [pod(task, phase="Pending", state=running())]
    await reconciler.reconcile(*KEY)
    assert task["status"]["state"] == "Running"
    cluster.pods[task["metadata"]["uid"]] = [pod(task, phase="Pending", state=terminated(0), sidecars=["no-image"])]
    await reconciler.reconcile(*KEY)
    assert task["status"]["state"] == "Succeeded"


async def test_a_native_sidecar_that_ends_slowly_leaves_the_end_to_the_job(
    cluster: FakeCluster, reconciler: Reconciler, settings: Settings, recorder: FakeRecorder
) -> None:
    """Its kubelet ends it; the pod runs on for as long as that takes."""
    task = await end_trainer(cluster, reconciler, 0, sidecars=())
    await reconcile_at(NOW + HEARTBEAT_TIMEOUT / 3, cluster, settings, recorder).reconcile(*KEY)
    assert (task["status"]["state"], task["status"]["reason"]) == ("Running", "TrainerRunning")
    cluster.pods[task["metadata"]["uid"]] = [pod(task, phase="Running", state=terminated(1))]
    await reconciler.reconcile(*KEY)
    assert (get_condition_status(task, "Interrupted"), task["status"]["reason"]) == ("True", "TrainerCrashed")
    assert "delete pod" not in cluster.requests


def ended_pod(
    task: dict[str, Any], index: int, code: int, sidecars: tuple[str, ...] = ("istio-proxy",)
) -> dict[str, Any]:
    return group_pod(task, index, phase="Running", state=terminated(code), sidecars=sidecars)


async def test_a_group_completes_once_all_its_trainers_have_succeeded(
    cluster: FakeCluster, reconciler: Reconciler, recorder: FakeRecorder
) -> None:
    task = add_group(cluster)
    await start_group(cluster, reconciler, task)
    set_pods(cluster, task, ended_pod(task, 0, 0), group_pod(task, 1, phase="Running", state=running()))
    await reconciler.reconcile(*KEY)
    assert (task["status"]["state"], task["status"]["reason"]) == ("Running", "TrainerRunning")
    set_pods(cluster, task, ended_pod(task, 0, 0), ended_pod(task, 1, 0))
    await reconciler.reconcile(*KEY)
    assert task["status"]["state"] == "Succeeded"
    assert cluster.requests[-1] == "delete jobset"
    assert [row.status for row in recorder.rows] == ["Succeeded"]


async def test_of_a_failed_group_the_pod_that_failed_first_is_deleted(
    cluster: FakeCluster, reconciler: Reconciler
) -> None:
    """Its exit code decides whether the group is tried again; the failed Job ends the others."""
    task = add_group(cluster)
    await start_group(cluster, reconciler, task)
    set_pods(cluster, task, ended_pod(task, 0, 1), ended_pod(task, 1, 64))
    await reconciler.reconcile(*KEY)
    deleted = [
        pod["metadata"]["name"]
        for pod in cluster.pods[task["metadata"]["uid"]]
        if "deletionTimestamp" in pod["metadata"]
    ]
    assert deleted == ["t-trainer-0-1-r0"]
    (record,) = task["status"]["attempts"]
    assert (record["pod"], record["exitCode"]) == ("t-trainer-0-1-r0", 64), "before the pod is gone"


async def test_a_recorded_group_is_ended_all_the_same(
    cluster: FakeCluster, reconciler: Reconciler, settings: Settings, recorder: FakeRecorder
) -> None:
    task = add_group(cluster)
    await start_group(cluster, reconciler, task)
    set_pods(cluster, task, ended_pod(task, 0, 1), ended_pod(task, 1, 1))
    await reconcile_at(ENDED + timedelta(seconds=1), cluster, settings, recorder).reconcile(*KEY)
    assert (task["status"]["reason"], task["status"]["attempts"][0]["exitCode"]) == ("SidecarRunning", 1)
    await reconciler.reconcile(*KEY)
    assert cluster.requests.count("delete pod") == 1
