"""Whose report a task's status holds: the pod that it names, and times that can be true."""

from datetime import UTC, datetime
from typing import Any

import pytest

from support import specs
from support.in_memory_api_server import NOW, FakeCluster, FakeRecorder, job_condition, pod, running, terminated
from support.reconcile import KEY, add_task, get_condition, get_job, run_pod
from trainingtask_api import TrainingReport, names
from trainingtask_operator import metrics
from trainingtask_operator.controller.heartbeat import HEARTBEAT_TIMEOUT
from trainingtask_operator.controller.reconciler import Reconciler
from trainingtask_operator.controller.task_parser import parse_task
from trainingtask_operator.settings import Settings

FUTURE = ["9999-12-31T23:59:59Z", "2099-01-01T00:00:00Z", "2026-01-01T00:07:01Z"]
PAST = ["0001-01-01T00:00:00Z", "2025-12-31T23:54:59Z"]
SECOND = {"attempt": 2, "created": "2026-01-01T00:01:10Z"}


async def report(cluster: FakeCluster, task: dict[str, Any], **fields: Any) -> None:
    training = {"attempt": 1, "phase": "Training", **fields}
    await cluster.apply_status(
        *KEY, task["metadata"]["uid"], {"training": training}, manager=names.TRAINER_FIELD_MANAGER
    )


async def test_the_status_has_the_pods_uid_without_a_write_of_its_own(
    cluster: FakeCluster, reconciler: Reconciler
) -> None:
    task = add_task(cluster, runPolicy__retries=1)
    uid = task["metadata"]["uid"]
    await reconciler.reconcile(*KEY)
    cluster.pods[uid] = [pod(task)]
    await reconciler.reconcile(*KEY)
    assert "podUid" not in task["status"], "a pod that has not begun has nothing to report"

    first = pod(task, phase="Running", state=running())
    cluster.pods[uid] = [first]
    await reconciler.reconcile(*KEY)
    assert (task["status"]["state"], task["status"]["podUid"]) == ("Running", first["metadata"]["uid"])

    cluster.pods[uid] = []
    await reconciler.reconcile(*KEY)
    assert task["status"]["podUid"] == first["metadata"]["uid"], "its last report may be on its way"

    failed = pod(task, phase="Failed", state=terminated(1))
    cluster.pods[uid] = [failed, pod(task, **SECOND)]
    await reconciler.reconcile(*KEY)
    assert task["status"]["podUid"] == first["metadata"]["uid"]
    second = pod(task, phase="Running", state=running("2026-01-01T00:01:20Z"), **SECOND)
    cluster.pods[uid] = [failed, second]
    await reconciler.reconcile(*KEY)
    assert task["status"]["podUid"] == second["metadata"]["uid"]
    assert cluster.requests.count("apply status") == 5, "Pending, Running, Starting, Interrupted, Running"


async def test_the_row_has_the_page_of_the_tracker(
    cluster: FakeCluster, settings: Settings, recorder: FakeRecorder
) -> None:
    """Also where the trainer itself writes no row."""
    reconciler = Reconciler(cluster, cluster, settings, recorder, clock=lambda: NOW)
    task = add_task(cluster)
    await reconciler.reconcile(*KEY)
    cluster.pods[task["metadata"]["uid"]] = [pod(task, phase="Running", state=running())]
    await report(cluster, task, trackingUrl="https://mlflow.example.com/#/1")
    await reconciler.reconcile(*KEY)
    assert [row.tracking_url for row in recorder.rows] == ["https://mlflow.example.com/#/1"]


async def test_a_pod_that_finished_before_its_first_event_is_in_the_status(
    cluster: FakeCluster, reconciler: Reconciler
) -> None:
    task = add_task(cluster)
    await reconciler.reconcile(*KEY)
    ended = pod(task, phase="Succeeded", state=terminated(0))
    cluster.pods[task["metadata"]["uid"]] = [ended]
    get_job(cluster, task)["status"] = {"conditions": [job_condition("Complete")]}
    await reconciler.reconcile(*KEY)
    assert (task["status"]["state"], task["status"]["podUid"]) == ("Succeeded", ended["metadata"]["uid"])


async def test_the_pod_of_a_resumed_task_is_in_the_status(cluster: FakeCluster, reconciler: Reconciler) -> None:
    task = add_task(cluster)
    await run_pod(cluster, reconciler, task)
    task["spec"]["runPolicy"] = {"suspend": True}
    cluster.pods[task["metadata"]["uid"]] = []
    await reconciler.reconcile(*KEY)
    task["spec"]["runPolicy"] = {"suspend": False}
    later = pod(task, phase="Running", state=running("2026-01-01T00:01:20Z"), created="2026-01-01T00:01:10Z")
    cluster.pods[task["metadata"]["uid"]] = [later]
    await reconciler.reconcile(*KEY)
    assert (task["status"]["attempt"], task["status"]["podUid"]) == (1, later["metadata"]["uid"])


@pytest.mark.parametrize("time", [*FUTURE, *PAST])
@pytest.mark.parametrize("field", ["reportTime", "startTime", "finishTime"])
async def test_an_implausible_report_is_replaced_by_the_termination_message(
    cluster: FakeCluster, reconciler: Reconciler, recorder: FakeRecorder, field: str, time: str
) -> None:
    task = add_task(cluster)
    await run_pod(cluster, reconciler, task)
    finish = "2026-01-01T00:01:02Z"
    await report(cluster, task, score="0.999", **{"finishTime": finish, field: time})
    before = metrics.INVALID_RECORDS.labels("report")._value.get()
    termination_report = TrainingReport.model_validate(
        {"attempt": 1, "phase": "Done", "finishTime": finish, "score": "0.5"}
    )
    ended = pod(task, phase="Succeeded", state=terminated(0, termination_report.model_dump_json(by_alias=True)))
    cluster.pods[task["metadata"]["uid"]] = [ended]
    get_job(cluster, task)["status"] = {"conditions": [job_condition("Complete")]}
    await reconciler.reconcile(*KEY)
    await reconciler.reconcile(*KEY)
    assert task["status"]["training"]["score"] == "0.5"
    assert task["status"]["completionTime"] == "2026-01-01T00:01:04Z"
    assert metrics.INVALID_RECORDS.labels("report")._value.get() > before


async def test_a_termination_message_of_the_future_is_not_stored(cluster: FakeCluster, reconciler: Reconciler) -> None:
    task = add_task(cluster)
    await run_pod(cluster, reconciler, task)
    termination_report = '{"attempt": 1, "phase": "Done", "finishTime": "2099-01-01T00:00:00Z"}'
    cluster.pods[task["metadata"]["uid"]] = [pod(task, phase="Succeeded", state=terminated(0, termination_report))]
    get_job(cluster, task)["status"] = {"conditions": [job_condition("Complete")]}
    await reconciler.reconcile(*KEY)
    assert task["status"]["state"] == "Succeeded"
    assert "training" not in task["status"]


@pytest.mark.parametrize("time", FUTURE[:2])
async def test_a_report_of_the_future_is_no_heartbeat(
    cluster: FakeCluster, settings: Settings, recorder: FakeRecorder, time: str
) -> None:
    task = add_task(cluster)
    now = NOW
    reconciler = Reconciler(cluster, cluster, settings, recorder, clock=lambda: now)
    for _ in range(2):
        await reconciler.reconcile(*KEY)
    cluster.pods[task["metadata"]["uid"]] = [pod(task, phase="Running", state=running())]
    await report(cluster, task, reportTime=time)
    assert await reconciler.reconcile(*KEY) is not None
    now = datetime(2026, 1, 1, 0, 0, 3, tzinfo=UTC) + HEARTBEAT_TIMEOUT
    await reconciler.reconcile(*KEY)
    assert get_condition(task, "Running")["reason"] == "ProgressStale"


async def test_a_pod_that_started_in_the_year_9999_breaks_nothing(cluster: FakeCluster, reconciler: Reconciler) -> None:
    task = add_task(cluster)
    await reconciler.reconcile(*KEY)
    cluster.pods[task["metadata"]["uid"]] = [pod(task, phase="Running", state=running("9999-12-31T23:59:59Z"))]
    assert await reconciler.reconcile(*KEY) == HEARTBEAT_TIMEOUT


def test_a_report_within_the_clock_skew_is_plausible() -> None:
    task = FakeCluster().add_task(specs.task("t", specs.CLASSICAL))
    task["status"] = {"training": {"attempt": 1, "phase": "Training", "reportTime": "2026-01-01T00:06:59Z"}}
    read = parse_task(task, NOW)
    assert read is not None
    assert read.status is not None
    assert read.status.training is not None
