"""Ends of attempts that the operator did not see, or that are followed by what could hide them."""

import json
from datetime import datetime
from typing import Any

import pytest

from support.groups import add_group, group_pod, run_group, set_jobset_condition, set_pods
from support.in_memory_api_server import FakeCluster, FakeRecorder, job_condition, pod, running, terminated
from support.reconcile import KEY, add_task, get_condition, get_job, run_pod
from trainingtask_api import names
from trainingtask_operator.cache.assume_cache import Observed
from trainingtask_operator.controller.reconciler import Reconciler
from trainingtask_operator.kube_objects import Object

UNSCHEDULABLE = [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes: no GPU"}]
LOST = [{"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager", "message": "m"}]
DEADLINE = {"conditions": [job_condition("Failed", "DeadlineExceeded")]}
COMPLETE = {"conditions": [job_condition("Complete")]}


def list_reasons(task: dict[str, Any]) -> list[tuple[int, str | None]]:
    return [(record["number"], record.get("reason")) for record in task["status"]["attempts"]]


def make_second(task: dict[str, Any], **fields: Any) -> Object:
    return pod(task, attempt=2, created="2026-01-01T00:01:15Z", **fields)


@pytest.mark.parametrize("end", ["deadline", "job deleted"])
async def test_a_resumed_attempt_whose_pod_waits_stays_the_latest_and_its_row_is_closed(
    cluster: FakeCluster, reconciler: Reconciler, recorder: FakeRecorder, end: str
) -> None:
    task = add_task(cluster, runPolicy={"retries": 3, "activeDeadlineSeconds": 60})
    await run_pod(cluster, reconciler, task)
    uid, policy = task["metadata"]["uid"], task["spec"]["runPolicy"]
    first = pod(task, phase="Failed", state=terminated(137, reason="OOMKilled"))
    second = make_second(task, phase="Running", state=running("2026-01-01T00:01:20Z"))
    resumed = pod(task, created="2026-01-01T00:01:40Z", conditions=UNSCHEDULABLE)  # the Job counts anew
    for suspend, pods in ((False, [first, second]), (True, []), (False, [resumed])):
        task["spec"]["runPolicy"] = {**policy, "suspend": suspend}
        cluster.pods[uid] = pods
        await reconciler.reconcile(*KEY)
    assert (task["status"]["attempt"], list_reasons(task)) == (2, [(1, "OOMKilled"), (2, None)])
    if end == "deadline":
        get_job(cluster, task)["status"] = DEADLINE
    else:
        cluster.jobs.clear()
    await reconciler.reconcile(*KEY)
    reason = "DeadlineExceeded" if end == "deadline" else "JobDeleted"
    assert list_reasons(task) == [(1, "OOMKilled"), (2, reason)]
    await reconciler.reconcile(*KEY)
    assert [(row.attempt, row.error_reason, bool(row.finish_time)) for row in recorder.rows] == [
        (1, "OOMKilled", True),
        (2, reason, True),
    ]


async def test_an_attempt_keeps_its_reason_when_the_task_ends_while_the_next_one_waits(
    cluster: FakeCluster, reconciler: Reconciler, recorder: FakeRecorder
) -> None:
    task = add_task(cluster, runPolicy={"retries": 3, "activeDeadlineSeconds": 60})
    await run_pod(cluster, reconciler, task)
    first = pod(task, phase="Failed", state=terminated(137, reason="OOMKilled"))
    cluster.pods[task["metadata"]["uid"]] = [first, make_second(task, conditions=UNSCHEDULABLE)]
    await reconciler.reconcile(*KEY)
    get_job(cluster, task)["status"] = DEADLINE
    await reconciler.reconcile(*KEY)
    assert get_condition(task, "Failed")["reason"] == "DeadlineExceeded"
    assert list_reasons(task)[0] == (1, recorder.rows[0].error_reason) == (1, "OOMKilled")


async def test_a_success_that_nobody_saw_is_not_that_of_the_failed_attempt(
    cluster: FakeCluster, reconciler: Reconciler, recorder: FakeRecorder
) -> None:
    """The operator was away while the second attempt ran, and its pod went with its node."""
    task = add_task(cluster, runPolicy={"retries": 3})
    await run_pod(cluster, reconciler, task)
    uid = task["metadata"]["uid"]
    failure = {"reason": "HubUnavailable", "message": "Away.", "phase": "Loading"}
    report = {"attempt": 1, "phase": "Failed", "finishTime": "2026-01-01T00:01:03Z", "failure": failure}
    cluster.pods[uid] = [pod(task, phase="Failed", state=terminated(1, json.dumps(report)))]
    await cluster.apply_status(*KEY, uid, {"training": report}, manager=names.TRAINER_FIELD_MANAGER)
    await reconciler.reconcile(*KEY)
    cluster.pods[uid] = []
    get_job(cluster, task)["status"] = COMPLETE
    for _ in range(2):
        await reconciler.reconcile(*KEY)
    assert (task["status"]["state"], list_reasons(task)) == ("Succeeded", [(1, "HubUnavailable"), (2, None)])
    assert [(row.attempt, row.status) for row in recorder.rows] == [(1, "Failed"), (2, "Succeeded")]


async def test_the_pod_that_succeeded_is_listed_where_the_watch_shows_an_earlier_failure(
    cluster: FakeCluster, reconciler: Reconciler, recorder: FakeRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = add_task(cluster, runPolicy={"retries": 3})
    await run_pod(cluster, reconciler, task)
    uid = task["metadata"]["uid"]
    cluster.pods[uid] = [pod(task, phase="Failed", state=terminated(1, "boom"))]
    await reconciler.reconcile(*KEY)
    live = [*cluster.pods[uid], make_second(task, phase="Succeeded", state=terminated(0))]

    async def list_pods(*_: str) -> list[Object]:
        return live

    monkeypatch.setattr(cluster, "list_pods", list_pods)
    get_job(cluster, task)["status"] = COMPLETE
    await reconciler.reconcile(*KEY)
    cluster.pods[uid] = live
    await reconciler.reconcile(*KEY)
    assert list_reasons(task) == [(1, "TrainerCrashed"), (2, None)]
    assert [(row.attempt, row.status) for row in recorder.rows] == [(1, "Failed"), (2, "Succeeded")]


@pytest.mark.parametrize("is_pod_gone", [True, False])
async def test_an_attempt_on_a_lost_node_ended_when_the_next_one_began(
    cluster: FakeCluster, reconciler: Reconciler, recorder: FakeRecorder, is_pod_gone: bool
) -> None:
    """No kubelet is left that could note its end."""
    task = add_task(cluster, runPolicy={"retries": 3})
    uid, state = task["metadata"]["uid"], running("2026-01-01T00:00:10Z")
    await reconciler.reconcile(*KEY)
    lost = pod(task, phase="Failed", state=state, conditions=LOST)
    lost["metadata"]["deletionTimestamp"] = "2026-01-01T00:01:00Z"
    second = make_second(task, phase="Running", state=running("2026-01-01T00:01:30Z"))
    for pods in ([pod(task, phase="Running", state=state)], [lost], [second] if is_pod_gone else [lost, second]):
        cluster.pods[uid] = pods
        await reconciler.reconcile(*KEY)
    row = recorder.rows[0]
    assert (row.error_reason, row.total_time) == ("NodeLost", 65)
    assert row.finish_time == datetime.fromisoformat("2026-01-01T00:01:15Z")


async def test_a_recorded_end_of_a_group_outlasts_the_deletion_of_its_pod(
    cluster: FakeCluster, reconciler: Reconciler
) -> None:
    task = add_group(cluster)
    for _ in range(2):
        await reconciler.reconcile(*KEY)
    run_group(cluster, task)
    await reconciler.reconcile(*KEY)
    failure = {"reason": "InvalidData", "message": "No rows.", "phase": "Loading"}
    report = {"attempt": 1, "phase": "Failed", "finishTime": "2026-01-01T00:01:03Z", "failure": failure}
    sidecars = {"sidecars": ("istio-proxy",)}
    bad = group_pod(task, 1, phase="Running", state=terminated(64, json.dumps(report)), **sidecars)
    set_pods(cluster, task, group_pod(task, 0, phase="Running", state=running()), bad)
    await reconciler.reconcile(*KEY)  # 30 s have passed: its end is recorded, and it is deleted
    assert "delete pod" in cluster.requests
    await reconciler.reconcile(*KEY)  # as for the event of that deletion
    assert list_reasons(task) == [(1, "InvalidData")]
    set_pods(cluster, task, group_pod(task, 0, phase="Failed", state=terminated(143)))
    await reconciler.reconcile(*KEY)
    set_jobset_condition(cluster, task, "Failed", "FailJobSetFailurePolicyAction")
    await reconciler.reconcile(*KEY)
    assert get_condition(task, "Failed")["reason"] == "InvalidData"


async def test_a_group_that_fails_before_its_first_pod_starts_begins_before_it_ends(
    cluster: FakeCluster, reconciler: Reconciler
) -> None:
    task = add_group(cluster)
    for _ in range(2):
        await reconciler.reconcile(*KEY)
    second = group_pod(task, 1, phase="Failed", state=terminated(1, "boom"))
    first = group_pod(task, 0, phase="Running", state=running("2026-01-01T00:01:55Z"))
    set_pods(cluster, task, first, second)
    await reconciler.reconcile(*KEY)
    (record,) = task["status"]["attempts"]
    assert record["startTime"] < record["finishTime"] < "2026-01-01T00:01:55Z"


async def test_a_task_that_is_gone_gets_no_job_again(
    cluster: FakeCluster, reconciler: Reconciler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The watch of tasks missed its deletion, and the garbage collector deletes its Job."""
    task = add_task(cluster)
    await reconciler.reconcile(*KEY)
    await reconciler.reconcile(*KEY)
    assert task["status"]
    del cluster.tasks[KEY]
    cluster.jobs.clear()
    monkeypatch.setattr(cluster, "observe", lambda *_: Observed(task, None, []))
    await reconciler.reconcile(*KEY)
    assert cluster.requests.count("create job") == 1
