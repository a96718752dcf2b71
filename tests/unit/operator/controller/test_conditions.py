"""Conditions of tasks that wait, or whose trainer sends no reports."""

import json
from datetime import datetime, timedelta
from typing import Any

import pytest

from support.in_memory_api_server import NOW, FakeCluster, FakeRecorder, pod, running, terminated
from support.reconcile import KEY, add_task, get_condition, get_job, run_pod
from trainingtask_operator.controller.heartbeat import HEARTBEAT_TIMEOUT
from trainingtask_operator.controller.reconciler import Reconciler
from trainingtask_operator.kube_objects import KubeEvent
from trainingtask_operator.settings import Settings

QUOTA = 'pods "t-0-" is forbidden: exceeded quota: small, requested: pods=1, used: pods=3, limited: pods=3'


def kube_event(message: str, time: datetime = NOW, count: int = 1) -> KubeEvent:
    return KubeEvent(message=message, count=count, time=time)


def get_running_condition(task: dict[str, Any]) -> tuple[str, str]:
    found = get_condition(task, "Running")
    return found["reason"], found["message"]


@pytest.mark.parametrize(
    ("message", "reason"), [(QUOTA, "QuotaExceeded"), ('no PriorityClass with name "x" was found', "PodRefused")]
)
async def test_a_job_without_a_pod_is_explained(
    cluster: FakeCluster, reconciler: Reconciler, message: str, reason: str
) -> None:
    task = add_task(cluster)
    await reconciler.reconcile(*KEY)
    uid = get_job(cluster, task)["metadata"]["uid"]
    cluster.kube_events[uid] = kube_event(message)
    await reconciler.reconcile(*KEY)
    assert get_running_condition(task)[0] == reason
    assert message in get_running_condition(task)[1]
    assert [event["reason"] for event in cluster.events] == [reason]

    cluster.pods[task["metadata"]["uid"]] = [pod(task)]
    await reconciler.reconcile(*KEY)
    assert get_running_condition(task)[0] == "Starting", "there is a pod: the Event is outdated"


async def test_only_a_quota_event_after_the_first_attempt_explains_the_second(
    cluster: FakeCluster, reconciler: Reconciler
) -> None:
    task = add_task(cluster)
    await run_pod(cluster, reconciler, task)
    failed = pod(task, phase="Failed", state=terminated(1))
    cluster.pods[task["metadata"]["uid"]] = [failed]
    uid = get_job(cluster, task)["metadata"]["uid"]
    cluster.kube_events[uid] = kube_event(QUOTA, time=NOW - timedelta(minutes=5))
    await reconciler.reconcile(*KEY)
    assert (task["status"]["state"], task["status"]["reason"]) == ("Interrupted", "TrainerCrashed")
    cluster.kube_events[uid] = kube_event(QUOTA)
    await reconciler.reconcile(*KEY)
    assert (task["status"]["state"], task["status"]["reason"]) == ("Interrupted", "QuotaExceeded")


@pytest.mark.parametrize(
    ("message", "count", "reason"),
    [
        ('MountVolume.SetUp failed for volume "code" : configmap "my-code" not found', 1, "VolumeNotFound"),
        ("MountVolume.SetUp failed: timed out waiting for the condition", 1, "Starting"),
        ("MountVolume.SetUp failed: timed out waiting for the condition", 2, "VolumeNotMounted"),
    ],
)
async def test_a_pod_without_its_volume_is_explained(
    cluster: FakeCluster, reconciler: Reconciler, message: str, count: int, reason: str
) -> None:
    task = add_task(cluster)
    await reconciler.reconcile(*KEY)
    waiting = pod(task, state={"waiting": {"reason": "ContainerCreating"}})
    cluster.pods[task["metadata"]["uid"]] = [waiting]
    cluster.kube_events[waiting["metadata"]["uid"]] = kube_event(message, count=count)
    await reconciler.reconcile(*KEY)
    assert get_running_condition(task)[0] == reason


async def test_a_claim_that_the_scheduler_misses_is_named(cluster: FakeCluster, reconciler: Reconciler) -> None:
    task = add_task(cluster)
    await reconciler.reconcile(*KEY)
    message = '0/1 nodes are available: persistentvolumeclaim "data" not found.'
    unschedulable = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    cluster.pods[task["metadata"]["uid"]] = [pod(task, conditions=[unschedulable])]
    await reconciler.reconcile(*KEY)
    assert get_running_condition(task)[0] == "VolumeNotFound"
    assert "PersistentVolumeClaim 'data'" in get_running_condition(task)[1]


async def test_an_oom_kill_is_explained_with_the_reported_peak(cluster: FakeCluster, reconciler: Reconciler) -> None:
    task = add_task(cluster)
    await run_pod(cluster, reconciler, task)
    report = {"attempt": 1, "phase": "Training", "reportTime": "2026-01-01T00:01:00Z", "peakMemoryBytes": 1900 << 20}
    await cluster.apply_status(*KEY, task["metadata"]["uid"], {"training": report}, manager="trainingtask-trainer")
    cluster.pods[task["metadata"]["uid"]] = [pod(task, phase="Failed", state=terminated(137, reason="OOMKilled"))]
    await reconciler.reconcile(*KEY)
    message = get_condition(task, "Interrupted")["message"]
    assert "memory limit of 2Gi" in message
    assert "00:01:00 UTC it had reported a peak of 1900 MiB" in message


async def test_a_trainer_without_reports_is_stale_and_left_running(
    cluster: FakeCluster, settings: Settings, recorder: FakeRecorder
) -> None:
    now = NOW
    reconciler = Reconciler(cluster, cluster, settings, recorder, clock=lambda: now)
    task = add_task(cluster)
    await reconciler.reconcile(*KEY)
    started = NOW.isoformat()
    cluster.pods[task["metadata"]["uid"]] = [pod(task, phase="Running", state=running(started), created=started)]
    assert await reconciler.reconcile(*KEY) == HEARTBEAT_TIMEOUT
    assert "progressStale" not in task["status"]

    now = NOW + HEARTBEAT_TIMEOUT
    assert await reconciler.reconcile(*KEY) is None
    assert (task["status"]["state"], task["status"]["progressStale"]) == ("Running", True)
    assert get_running_condition(task)[0] == "ProgressStale"
    assert [event["reason"] for event in cluster.events] == ["ProgressStale"]
    now += timedelta(minutes=1)
    before = len(cluster.requests)
    await reconciler.reconcile(*KEY)
    assert len(cluster.requests) == before, "written once"

    report = {"attempt": 1, "phase": "Training", "reportTime": now.isoformat()}
    await cluster.apply_status(*KEY, task["metadata"]["uid"], {"training": report}, manager="trainingtask-trainer")
    assert await reconciler.reconcile(*KEY) == HEARTBEAT_TIMEOUT
    assert get_running_condition(task)[0] == "TrainerRunning"
    assert "progressStale" not in task["status"]


@pytest.mark.parametrize("device", ["cpu", "gpu"])
async def test_a_profile_that_is_not_offered_for_the_device_is_named(
    cluster: FakeCluster, settings: Settings, recorder: FakeRecorder, device: str
) -> None:
    profile = {"device": "gpu", "image": "x", "resources": {"cpu": "1", "memory": "2Gi"}}
    offered = Settings.model_validate(settings.model_dump() | {"profiles": {"slice": profile}})
    reconciler = Reconciler(cluster, cluster, offered, recorder, clock=lambda: NOW)
    task = add_task(cluster, device=device, resources={"profile": "slice" if device == "cpu" else "big"})
    await reconciler.reconcile(*KEY)
    message = get_condition(task, "Accepted")
    assert message["reason"] == "ProfileNotOffered"
    assert f"(offered: {'none' if device == 'cpu' else 'slice'})" in message["message"]
    assert cluster.jobs == {}


async def test_the_job_stays_until_the_rows_are_recorded(
    cluster: FakeCluster, reconciler: Reconciler, recorder: FakeRecorder
) -> None:
    task = add_task(cluster, runPolicy={"ttlSecondsAfterFinished": 60})
    await run_pod(cluster, reconciler, task)
    message = json.dumps({"attempt": 1, "phase": "Done"})
    cluster.pods[task["metadata"]["uid"]] = [pod(task, phase="Succeeded", state=terminated(0, message, "Completed"))]
    done = {"type": "Complete", "status": "True", "lastTransitionTime": "2026-01-01T00:01:04Z"}
    get_job(cluster, task)["status"] = {"conditions": [done]}
    recorder.is_unavailable = True
    await reconciler.reconcile(*KEY)
    assert await reconciler.reconcile(*KEY) is not None, "requeued"
    assert "ttlSecondsAfterFinished" not in get_job(cluster, task)["spec"]
    recorder.is_unavailable = False
    await reconciler.reconcile(*KEY)
    assert get_job(cluster, task)["spec"]["ttlSecondsAfterFinished"] == 60
    assert list(recorder.log_pods.values()) == [cluster.pods[task["metadata"]["uid"]][0]["metadata"]["name"]]
