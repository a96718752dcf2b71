"""Which events enqueue a task, and with which priority."""

import asyncio
from typing import Any

import pytest

from support.groups import TRAINER_SPEC
from support.in_memory_api_server import FakeRecorder
from support.virtual_time import in_virtual_time
from trainingtask_api import names
from trainingtask_operator.cache.workqueue import WorkQueue
from trainingtask_operator.kube_objects import Key, Object
from trainingtask_operator.manager.event_handlers import KUEUE_SECONDS
from trainingtask_operator.manager.manager import Manager
from trainingtask_operator.settings import Settings

CREATED = "2026-01-01T00:00:00Z"
SETTINGS = Settings.model_validate({"namespaces": ["n"], "devices": {}})
COMPLETE = [{"type": "Complete", "status": "True"}]


@pytest.fixture
def manager(settings: Settings) -> Manager:
    return Manager(settings)


def make_task(name: str = "t", version: int = 1, **status: Any) -> Object:
    metadata = {"namespace": "n", "name": name, "uid": f"uid-{name}", "resourceVersion": str(version)}
    metadata["creationTimestamp"] = "2026-01-01T00:00:00Z"
    return {"apiVersion": "v", "kind": "TrainingTask", "metadata": metadata, "spec": {}, "status": status}


def make_pod(name: str, phase: str = "Running", version: int = 1) -> Object:
    labels = {names.TASK_UID_LABEL: f"uid-{name}", names.TASK_NAME_LABEL: name}
    metadata: Object = {"namespace": "n", "name": name, "uid": f"pod-{name}", "resourceVersion": str(version)}
    metadata |= {"creationTimestamp": "2026-01-01T00:00:00Z", "labels": labels}
    return {"kind": "Pod", "metadata": metadata, "spec": {"containers": []}, "status": {"phase": phase}}


async def drain(queue: WorkQueue[Key]) -> list[str]:
    found = []
    while len(queue):
        key = await queue.get()
        assert key is not None
        queue.done(key)
        found.append(key[1])
    return found


async def test_a_new_task_comes_before_finished_ones(manager: Manager) -> None:
    old = make_task("old", conditions=COMPLETE)
    old["spec"] = {"runPolicy": {"ttlSecondsAfterFinished": 1}}
    manager.event_handlers.on_task_event("MODIFIED", old)
    manager.event_handlers.on_task_event("ADDED", make_task("new"))
    assert await drain(manager.queue) == ["new", "old"]


async def test_a_report_enqueues_at_once_only_when_it_finishes_the_training(manager: Manager) -> None:
    manager.event_handlers.on_task_event("ADDED", make_task())
    assert await drain(manager.queue) == ["t"]
    for step in range(5):
        manager.event_handlers.on_task_event("MODIFIED", make_task(version=2 + step, training={"step": step}))
    assert await drain(manager.queue) == []
    manager.event_handlers.on_task_event(
        "MODIFIED", make_task(version=9, training={"step": 9, "finishTime": "2026-01-01T00:00:00Z"})
    )
    assert await drain(manager.queue) == ["t"]


async def test_the_event_of_an_own_write_enqueues_nothing(manager: Manager) -> None:
    manager.event_handlers.on_task_event("ADDED", make_task())
    key = await manager.queue.get()
    assert key is not None
    manager.event_handlers.on_task_event(
        "MODIFIED", make_task(version=2, state="Pending")
    )  # before the response to the write
    manager.cache.assume(make_task(version=2, state="Pending"))
    manager.event_handlers.on_processed(key)
    assert await drain(manager.queue) == []

    manager.event_handlers.on_task_event("MODIFIED", make_task(version=3, state="Edited"))
    key = await manager.queue.get()
    assert key is not None
    manager.event_handlers.on_task_event("MODIFIED", make_task(version=4, state="EditedAgain"))  # another writer
    manager.event_handlers.on_processed(key)
    assert await drain(manager.queue) == ["t"]


async def test_a_running_pod_comes_before_pending_ones(manager: Manager) -> None:
    for name in ("a", "b"):
        manager.event_handlers.on_pod_event("ADDED", make_pod(name, "Pending"))
    manager.event_handlers.on_pod_event("MODIFIED", make_pod("b"))
    assert await drain(manager.queue) == ["b", "a"]


async def test_a_standby_enqueues_unfinished_tasks_once_it_leads(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Manager, "is_leader", False)
    manager.event_handlers.on_task_event("ADDED", make_task("open"))
    manager.event_handlers.on_task_event("ADDED", make_task("gone"))
    manager.event_handlers.on_task_event("DELETED", make_task("gone", version=2))
    manager.event_handlers.on_task_event("ADDED", make_task("over"))
    manager.event_handlers.on_task_event("MODIFIED", make_task("over", version=2, conditions=COMPLETE))
    assert await drain(manager.queue) == []
    manager.on_started_leading()
    assert await drain(manager.queue) == ["open"]
    assert list(manager.backfill._pending) == [("n", "over")], "the history is queried first"


@pytest.mark.parametrize("namespace", [None, "n"])
async def test_a_list_shows_what_was_deleted_while_the_watch_was_down(manager: Manager, namespace: str | None) -> None:
    for number, name in enumerate(("live", "deleted")):
        manager.event_handlers.on_task_event("ADDED", make_task(name))
        manager.event_handlers.on_pod_event("ADDED", make_pod(name, version=number + 10))
    assert await drain(manager.queue) == ["live", "deleted"]
    manager.cache.has_synced = True
    manager.event_handlers.on_pod_event(None, make_pod("live", version=10))
    manager.event_handlers.prune_missing(manager.cache.pods, "another", set())
    assert manager.cache.pods.uids() == {"pod-live", "pod-deleted"}, "the list was of another namespace"
    manager.event_handlers.prune_missing(manager.cache.pods, namespace, {"pod-live"})
    assert manager.cache.pods.uids() == {"pod-live"}
    assert (await drain(manager.queue))[0] == "deleted"


async def test_a_later_list_enqueues_no_pod_that_had_finished_before(manager: Manager) -> None:
    manager.cache.has_synced = True
    for name, phase in (("ended", "Succeeded"), ("ends", "Running")):
        manager.event_handlers.on_pod_event("ADDED", make_pod(name, phase, version=1))
    await drain(manager.queue)
    for name in ("ended", "ends", "new"):
        manager.event_handlers.on_pod_event(None, make_pod(name, "Succeeded", version=2))
    assert sorted(await drain(manager.queue)) == ["ends", "new"]


async def test_the_end_of_a_jobset_comes_before_its_starting_pods(manager: Manager) -> None:
    for name in ("a", "b"):
        manager.event_handlers.on_task_event("ADDED", make_task(name))
    await drain(manager.queue)
    manager.event_handlers.on_pod_event("ADDED", make_pod("a", "Pending"))
    made = make_pod("b")
    jobset = {**made, "kind": "JobSet", "metadata": {**made["metadata"], "uid": "jobset-b"}, "spec": {}}
    failed = {"type": "Failed", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    manager.event_handlers.on_jobset_event("MODIFIED", {**jobset, "status": {"conditions": [failed]}})
    assert await drain(manager.queue) == ["b", "a"]
    manager.event_handlers.on_jobset_event("DELETED", jobset)
    assert (await drain(manager.queue), manager.cache.jobsets.uids()) == (["b"], set())


def make_kueue_workload(name: str = "t", version: int = 1, **condition: str) -> Object:
    labels = {names.TASK_UID_LABEL: f"uid-{name}", names.TASK_NAME_LABEL: name}
    metadata = {"namespace": "n", "name": f"job-{name}", "uid": f"workload-{name}", "resourceVersion": str(version)}
    return {
        "kind": "Workload",
        "metadata": metadata | {"creationTimestamp": CREATED},
        "spec": {"podSets": [{"template": {"metadata": {"labels": labels}, "spec": {"containers": ["large"]}}}]},
        "status": {"conditions": [condition] if condition else []},
    }


@in_virtual_time
async def test_the_words_of_a_queue_enqueue_at_most_every_few_seconds() -> None:
    manager = Manager(SETTINGS)
    for version in range(20):
        words = {"type": "QuotaReserved", "status": "False", "message": f"{version} more needed"}
        manager.event_handlers.on_kueue_workload_event("MODIFIED", make_kueue_workload(version=version, **words))
    assert await drain(manager.queue) == []
    await asyncio.sleep(KUEUE_SECONDS)
    assert await drain(manager.queue) == ["t"]
    unseen = {"type": "PodsReady", "status": "False", "message": "not yet"}
    workload = make_kueue_workload(version=21, **words)
    workload["status"]["conditions"].append(unseen)
    manager.event_handlers.on_kueue_workload_event("MODIFIED", workload)
    await asyncio.sleep(KUEUE_SECONDS)
    assert await drain(manager.queue) == [], "a condition that nothing is told of"


async def test_only_unfinished_workloads_of_tasks_are_kept(manager: Manager) -> None:
    workloads = manager.cache.kueue_workloads
    foreign = make_kueue_workload("foreign")
    foreign["spec"] = {"podSets": [{"template": {"metadata": {"labels": {"app": "x"}}}}]}
    manager.event_handlers.on_kueue_workload_event(None, foreign)
    assert workloads.uids() == set()
    manager.event_handlers.on_kueue_workload_event(None, make_kueue_workload())
    (kept,) = workloads["uid-t"]
    assert "podSets" not in kept["spec"]
    finished = {"type": "Finished", "status": "True"}
    manager.event_handlers.on_kueue_workload_event("MODIFIED", make_kueue_workload(version=2, **finished))
    assert workloads.uids() == set()


def add_group(manager: Manager, recorder: FakeRecorder) -> Object:
    """Add a task with a JobSet whose only Job has two pods, in its second start; return the task."""
    manager.event_handlers.recorder = recorder
    task = make_task() | {"apiVersion": names.API_VERSION, "spec": TRAINER_SPEC}
    manager.event_handlers.on_task_event("ADDED", task)
    child = make_pod("t")["metadata"]
    jobset = {**child, "uid": "jobset-t", **make_owner("uid-t")}
    manager.event_handlers.on_jobset_event("ADDED", {"kind": "JobSet", "metadata": jobset, "spec": {}})
    job = {**child, "uid": "job-t", **make_owner("jobset-t")}
    manager.event_handlers.on_job_event("ADDED", {"kind": "Job", "metadata": job, "spec": {}})
    for index in range(2):
        manager.event_handlers.on_pod_event("ADDED", make_group_pod(index))
    return task


def make_owner(uid: str) -> Object:
    return {"ownerReferences": [{"uid": uid, "controller": True}]}


def make_group_pod(index: int, starts: int = 1, **metadata: Any) -> Object:
    pod = make_pod("t")
    annotations = {names.RESTART_COUNT_ANNOTATION: str(starts), names.NODE_RANK_ANNOTATION: str(index)}
    pod["metadata"] |= {"name": f"t-{index}", "uid": f"pod-{index}", "annotations": annotations, **make_owner("job-t")}
    pod["metadata"] |= metadata
    state = {"name": names.TRAINER_CONTAINER, "state": {"running": {"startedAt": CREATED}}}
    return {**pod, "status": {"phase": "Running", "containerStatuses": [state]}}


async def test_a_group_deleted_while_it_trains_has_one_cancelled_row(manager: Manager, recorder: FakeRecorder) -> None:
    task = add_group(manager, recorder)
    manager.event_handlers.on_task_event("DELETED", task)
    assert [(row.attempt, row.status) for row in recorder.rows] == [(1, "Failed"), (2, "Cancelled")]
    assert list(recorder.log_pods.values()) == ["t-0"], "read while the pods have their grace period"


@pytest.mark.parametrize("metadata", [{"namespace": "another", **make_owner("job-t")}, {"ownerReferences": []}])
async def test_a_pod_with_the_label_alone_adds_no_attempt_to_a_deleted_task(
    manager: Manager, recorder: FakeRecorder, metadata: Object
) -> None:
    task = add_group(manager, recorder)
    forged = make_group_pod(0, 6, name="forged", uid="forged", **metadata)
    manager.event_handlers.on_pod_event("ADDED", forged)
    manager.event_handlers.on_task_event("DELETED", task)
    assert [(row.attempt, row.status) for row in recorder.rows] == [(1, "Failed"), (2, "Cancelled")]
    assert list(recorder.log_pods.values()) == ["t-0"]


@pytest.mark.parametrize(
    ("reason", "enqueued"),
    [("FailedAttachVolume", ["t"]), ("FailedCreatePodSandBox", ["t"]), ("FailedMount", ["t"]), ("NodeNotReady", [])],
)
async def test_of_events_those_about_a_pod_that_does_not_start_enqueue(
    manager: Manager, reason: str, enqueued: list[str]
) -> None:
    manager.event_handlers.on_task_event("ADDED", make_task())
    manager.event_handlers.on_pod_event("ADDED", make_pod("t", "Pending"))
    await drain(manager.queue)
    event: Object = {"metadata": {"namespace": "n", "uid": "e", "creationTimestamp": CREATED}, "reason": reason}
    manager.event_handlers.on_kube_event("ADDED", event | {"regarding": {"uid": "pod-t"}, "note": "why"})
    assert await drain(manager.queue) == enqueued
    assert bool(manager.cache.kube_events) == bool(enqueued), "others are not kept"
