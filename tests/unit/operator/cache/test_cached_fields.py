"""The cached fields of each kind of object, and their bounds."""

import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic_core import from_json, to_json

from support import specs
from support.in_memory_api_server import NOW, FakeCluster, FakeRecorder
from trainingtask_api import names
from trainingtask_operator.cache.cached_fields import (
    MAX_ANNOTATIONS_CHARACTERS,
    MAX_LABELS_CHARACTERS,
    trim_job,
    trim_jobset,
    trim_kube_event,
    trim_kueue_workload,
    trim_pod,
    trim_task,
)
from trainingtask_operator.controller.reconciler import Reconciler
from trainingtask_operator.controller.task_parser import parse_task
from trainingtask_operator.manager.manager import Manager
from trainingtask_operator.settings import Settings

CREATED, LATER = "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z"
MIB = 1 << 20


def large(name: str, labels: int) -> bytes:
    """Return a suspended task whose labels and annotations hold so many bytes each, as the API server sends it."""
    task = specs.task(name, specs.changed(specs.CLASSICAL, runPolicy={"suspend": True}))
    pairs = {f"{'k' * 50}-{number}": "v" * 60 for number in range(labels // 115)}
    task["metadata"] |= {
        "uid": f"uid-{name}",
        "resourceVersion": "1",
        "generation": 1,
        "creationTimestamp": CREATED,
        "labels": pairs,
        "annotations": {"note": "a" * 200_000},
        "ownerReferences": [
            {"apiVersion": "v1", "kind": "ConfigMap", "name": "n" * 250, "uid": str(n)} for n in range(500)
        ],
        "managedFields": [{"manager": "m", "fieldsV1": {f"f:{key}": {} for key in pairs}}],
    }
    return to_json(task)


async def test_eight_tasks_with_1_mib_of_labels_take_less_than_2_mib(settings: Settings) -> None:
    bodies = [large(f"t{number}", MIB) for number in range(8)]
    manager, cluster = Manager(settings), FakeCluster()
    cluster._version = 100
    reconciler = Reconciler(cluster, manager.cache, settings, FakeRecorder(), clock=lambda: NOW)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for body in bodies:
            manager.event_handlers.on_task_event("ADDED", from_json(body))
        for number, body in enumerate(bodies):  # what was written stays until the watch shows it
            cluster.tasks["default", f"t{number}"] = from_json(body)
            assert parse_task(cluster.tasks["default", f"t{number}"], NOW), "as it is read live"
            for _ in range(2):
                await reconciler.reconcile("default", f"t{number}")
            cluster.tasks.clear()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(manager.cache.tasks) == 8
    assert after - before < 2 * MIB, "the parser keeps some strings of its own"


def test_labels_are_cached_whole_or_not_at_all() -> None:
    def trimmed(characters: int) -> dict[str, str]:
        body: dict[str, Any] = from_json(large("t", 0))
        body["metadata"]["labels"] = {"team": "v" * (characters - len("team"))}
        found: dict[str, str] = trim_task(body)["metadata"]["labels"]
        return found

    assert trimmed(MAX_LABELS_CHARACTERS)["team"]
    assert trimmed(MAX_LABELS_CHARACTERS + 1) == {}


def test_only_annotations_that_pods_inherit_are_cached() -> None:
    body: dict[str, Any] = from_json(large("t", 0))
    body["metadata"]["annotations"] = {"example.com/a": "1", "kubectl.kubernetes.io/last-applied-configuration": "{}"}
    assert "annotations" not in trim_task(body)["metadata"]
    assert trim_task(body, ["example.com/"])["metadata"]["annotations"] == {"example.com/a": "1"}
    body["metadata"]["annotations"]["example.com/b"] = "v" * MAX_ANNOTATIONS_CHARACTERS
    assert "annotations" not in trim_task(body, ["example.com/"])["metadata"]


def test_of_a_pod_the_trainers_container_is_cached() -> None:
    state = {"terminated": {"exitCode": 1, "reason": "Error", "message": "m" * 9000, "containerID": "c"}}
    pod: dict[str, Any] = {
        "kind": "Pod",
        "metadata": {
            "name": "p",
            "namespace": "n",
            "uid": "u",
            "resourceVersion": "1",
            "creationTimestamp": CREATED,
            "labels": {names.TASK_UID_LABEL: "t", "other": "x"},
            "annotations": {names.FAILURE_COUNT_ANNOTATION: "1", names.TASK_ANNOTATION: "{}"},
            "ownerReferences": [{"uid": "j", "controller": True, "kind": "Job"}, {"uid": "other"}],
        },
        "spec": {"nodeName": "node", "containers": [{"name": "sidecar"}, {"name": "trainer", "image": "i"}]},
        "status": {
            "phase": "Failed",
            "podIP": "10.0.0.1",
            "conditions": [{"type": "Ready", "status": "False"}, {"type": "PodScheduled", "status": "True"}],
            "containerStatuses": [{"name": "sidecar"}, {"name": "trainer", "imageID": "x" * 300, "state": state}],
        },
    }
    trimmed = trim_pod(pod)
    assert trimmed["metadata"]["labels"] == {names.TASK_UID_LABEL: "t"}
    assert trimmed["metadata"]["annotations"] == {names.FAILURE_COUNT_ANNOTATION: "1"}
    assert trimmed["metadata"]["ownerReferences"] == [{"uid": "j", "controller": True}]
    terminated = {"exitCode": 1, "reason": "Error", "message": "m" * 4096}
    assert trimmed["status"] == {
        "phase": "Failed",
        "conditions": [{"type": "PodScheduled", "status": "True"}],
        "containerStatuses": [{"name": "trainer", "state": {"terminated": terminated}}],
        "sidecars": ["sidecar"],
    }
    pod["status"]["containerStatuses"][0]["state"] = {"terminated": {"exitCode": 0}}
    assert trim_pod(pod)["status"]["sidecars"] == []


def test_of_init_containers_the_one_that_waits_for_no_other_is_cached() -> None:
    waiting = {"reason": "ImagePullBackOff", "message": "m", "other": 1}
    states = [{"terminated": {"exitCode": 0}}, {"waiting": waiting}, {"waiting": {"reason": "PodInitializing"}}]
    metadata = dict.fromkeys(("name", "namespace", "uid", "resourceVersion"), "1") | {"creationTimestamp": CREATED}
    statuses = [{"name": f"init-{number}", "state": state} for number, state in enumerate(states)]
    pod = {"metadata": metadata, "spec": {"containers": []}, "status": {"initContainerStatuses": statuses}}
    found = trim_pod(pod)["status"]["waitingInitContainer"]
    assert found == {"name": "init-1", "reason": "ImagePullBackOff", "message": "m"}


@pytest.mark.parametrize(
    "odd",
    [
        {"lastTimestamp": "0000-01-01T00:00:00Z"},
        {"lastTimestamp": "2026-01-01T00:00:00"},
        {"lastTimestamp": CREATED, "message": {"a": 1}},
        {"lastTimestamp": CREATED, "count": "many"},
        {"series": [1]},
    ],
)
def test_an_event_that_cannot_be_read_is_refused(odd: dict[str, Any]) -> None:
    body = {"metadata": {"name": "e", "uid": "e", "creationTimestamp": CREATED}, **odd}
    with pytest.raises((ValueError, TypeError)):
        trim_kube_event(body)


@pytest.mark.parametrize(("number", "kept"), [(100, True), (100_000, False)])
def test_large_arguments_of_a_report_are_dropped(number: int, kept: bool) -> None:
    metadata = dict.fromkeys(("name", "namespace", "uid", "resourceVersion"), "1") | {"creationTimestamp": CREATED}
    results = {"arguments": {"a": [[]] * number}, "labels": 2}
    status = {"state": "Running", "training": {"attempt": 1, "results": results}}
    found = trim_task({"metadata": metadata, "spec": {}, "status": status})["status"]
    assert (found == status) is kept
    assert found["training"]["results"]["labels"] == 2
    assert kept or found["training"]["results"]["arguments"] == {}


def test_the_message_of_an_event_is_cut() -> None:
    body = {"metadata": {}, "lastTimestamp": CREATED, "message": "m" * 100_000}
    event = trim_kube_event(body)
    assert (len(event.message), event.time) == (1024, datetime(2026, 1, 1, tzinfo=UTC))


LONG = "7" * 250_000
JOB: dict[str, Any] = {
    "metadata": {"uid": "1", "name": "j", "namespace": "n", "resourceVersion": "1", "creationTimestamp": CREATED},
    "spec": {"containers": [{"name": "trainer"}]},
    "status": {},
}


@pytest.mark.parametrize("trim", [trim_job, trim_jobset, trim_kueue_workload, trim_pod])
def test_long_annotations_are_cut(trim: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    marks = (names.SUSPENDED_ANNOTATION, names.FAILURE_COUNT_ANNOTATION, names.RESTART_COUNT_ANNOTATION)
    trimmed = trim({**JOB, "metadata": {**JOB["metadata"], "annotations": dict.fromkeys(marks, LONG)}})
    assert trimmed["metadata"]["annotations"], "a mark is one also when it is too long"
    assert len(to_json(trimmed)) < 1000


def test_the_long_image_of_a_pod_is_cut() -> None:
    body = {**JOB, "spec": {"containers": [{"name": "trainer", "image": LONG}]}}
    assert len(to_json(trim_pod(body))) < 5000


@pytest.mark.parametrize("label", [names.TASK_UID_LABEL, names.TASK_NAME_LABEL, names.QUEUE_LABEL])
def test_a_workload_with_a_label_that_no_pod_can_have_is_refused(label: str) -> None:
    template = {"metadata": {"labels": {label: LONG}}}
    with pytest.raises(ValueError, match="250000 characters"):
        trim_kueue_workload({**JOB, "spec": {"podSets": [{"template": template}]}})


def test_a_uid_that_no_object_has_is_refused() -> None:
    owners = [{"uid": LONG, "controller": True}]
    with pytest.raises(ValueError, match="250000 characters"):
        trim_job({**JOB, "metadata": {**JOB["metadata"], "ownerReferences": owners}})
    with pytest.raises(ValueError, match="250000 characters"):
        trim_kube_event({"metadata": {}, "lastTimestamp": CREATED, "involvedObject": {"uid": LONG}})


def test_the_counts_of_a_job_are_not_cached() -> None:
    identity = {"uid": "1", "name": "j", "namespace": "n", "resourceVersion": "1"}
    identity["creationTimestamp"] = "2026-01-01T00:00:00Z"
    body = {"metadata": {**identity, "managedFields": [1]}, "spec": {"suspend": False, "template": {}}}
    start = "2026-01-01T00:00:00Z"
    trimmed = trim_job({**body, "status": {"active": 1, "startTime": start, "conditions": []}})
    assert trimmed["status"] == {"startTime": start, "conditions": []}
    assert trimmed["spec"] == {"suspend": False}
    assert trimmed["metadata"] == {**identity, "labels": {}, "annotations": {}, "ownerReferences": []}


@pytest.mark.parametrize(
    ("labels", "managed_by", "conditions", "started"),
    [
        ({names.QUEUE_LABEL: "team"}, {}, {}, None),
        ({}, {"managedBy": "kueue.x-k8s.io/multikueue"}, {}, None),
        ({names.QUEUE_LABEL: "team"}, {}, {"Suspended": "False"}, LATER),
        ({"team": "a"}, {}, {}, CREATED),
    ],
)
def test_a_jobset_that_was_created_suspended_is_not_active_since_then(
    labels: dict[str, str], managed_by: dict[str, str], conditions: dict[str, str], started: str | None
) -> None:
    metadata = {"uid": "1", "name": "j", "namespace": "n", "resourceVersion": "1", "creationTimestamp": CREATED}
    found = [{"type": t, "status": s, "lastTransitionTime": LATER} for t, s in conditions.items()]
    body = {"metadata": metadata | {"labels": labels}, "spec": {"suspend": False} | managed_by}
    assert trim_jobset(body | {"status": {"conditions": found}})["status"].get("startTime") == started


@pytest.mark.parametrize(
    ("suspend", "conditions", "trimmed"),
    [
        (False, {}, (CREATED, {})),
        (None, {}, (CREATED, {})),
        (True, {"Suspended": "True"}, (None, {})),
        (False, {"Suspended": "True"}, (None, {})),  # resumed a moment ago
        (False, {"Suspended": "False"}, (LATER, {})),
        (False, {"Completed": "True", "RestartingJobSet": "False"}, (CREATED, {"Complete": "True"})),
        (False, {"Failed": "True"}, (CREATED, {"Failed": "True"})),
    ],
)
def test_a_jobset_is_cached_like_a_job(
    suspend: bool | None, conditions: dict[str, str], trimmed: tuple[str | None, dict[str, str]]
) -> None:
    metadata = {"uid": "1", "name": "j", "namespace": "n", "resourceVersion": "1", "creationTimestamp": CREATED}
    status = {
        "restarts": 1,
        "conditions": [
            {"type": t, "status": s, "reason": "R", "lastTransitionTime": LATER} for t, s in conditions.items()
        ],
    }
    spec = {"replicatedJobs": [{}], "ttlSecondsAfterFinished": 5} | ({} if suspend is None else {"suspend": suspend})
    found = trim_jobset({"kind": "JobSet", "metadata": metadata, "spec": spec, "status": status})
    assert found["kind"] == "JobSet"
    assert found["spec"].keys() <= {"suspend", "ttlSecondsAfterFinished"}
    assert found["status"].get("startTime") == trimmed[0]
    assert {c["type"]: c["status"] for c in found["status"]["conditions"]} == trimmed[1]
