"""The causes of failed and waiting pods."""

import json
from typing import Any

import pytest

from support import specs
from support.in_memory_api_server import FakeCluster, pod, terminated
from trainingtask_operator.controller.attempts import Attempt, build_attempts


def attempt(**fields: Any) -> Attempt:
    task = FakeCluster().add_task(specs.task("t", specs.CLASSICAL))
    (found,) = build_attempts([pod(task, **fields)])
    return found


FAILURE = {"reason": "InvalidData", "message": "Row 3 has no text.", "phase": "Loading"}


@pytest.mark.parametrize(
    ("state", "reason", "part"),
    [
        (terminated(64, json.dumps({"attempt": 1, "phase": "Failed", "failure": FAILURE})), "InvalidData", "Row 3"),
        (terminated(137, reason="OOMKilled"), "OOMKilled", "spec.resources.memory"),
        (terminated(143), "Interrupted", "SIGTERM"),
        (terminated(1, "line one\nline two\nboom"), "TrainerCrashed", "exit code 1. Last it said: line one | line two | boom"),
        (terminated(139), "TrainerCrashed", "exit code 139"),
        # A user's own image may leave any termination message.
        (terminated(1, '{"failure": {"reason": "' + "x" * 500 + '"}}'), "TrainerCrashed", "exit code 1"),
        (terminated(1, "[]"), "TrainerCrashed", "exit code 1"),
    ],
)  # fmt: skip
def test_why_a_pod_failed(state: dict[str, Any], reason: str, part: str) -> None:
    cause = attempt(phase="Failed", state=state).cause
    assert cause is not None
    assert cause.reason == reason
    assert part in cause.message


@pytest.mark.parametrize(
    ("disruption", "reason"),
    [
        ("PreemptionByScheduler", "Preempted"),
        ("DeletionByTaintManager", "NodeLost"),
        ("EvictionByEvictionAPI", "Evicted"),
        ("SomethingNew", "Evicted"),
    ],
)
def test_a_disruption_has_its_reason(disruption: str, reason: str) -> None:
    disrupted = {"type": "DisruptionTarget", "status": "True", "reason": disruption, "message": "by the cluster"}
    cause = attempt(phase="Failed", state=terminated(143), conditions=[disrupted]).cause
    assert cause is not None
    assert (cause.reason, "by the cluster" in cause.message) == (reason, True)


# Messages of the kubelet; none of these pods is a DisruptionTarget.
OVER_THE_LIMIT = (
    'Usage of EmptyDir volume "tmp" exceeds the limit "1Gi". ',
    "Pod ephemeral local storage usage exceeds the total limit of containers 1Gi. ",
    'Container trainer exceeded its local ephemeral storage limit "1Gi". ',
)


@pytest.mark.parametrize("message", OVER_THE_LIMIT)
def test_a_pod_over_its_disk_limit_is_explained_with_the_limit(message: str) -> None:
    task = FakeCluster().add_task(specs.task("t", specs.CLASSICAL))
    evicted = pod(task, phase="Failed", state=terminated(137))
    evicted["status"] |= {"reason": "Evicted", "message": message}
    evicted["spec"]["storageLimit"] = "1Gi"
    (found,) = build_attempts([evicted])
    assert found.cause is not None
    assert found.cause.reason == "StorageExceeded"
    assert "its limit of 1Gi: raise spec.resources.storage" in found.cause.message
    assert message.strip() in found.cause.message
    assert found.counts_as_failure


def test_a_node_under_pressure_is_no_fault_of_the_pod() -> None:
    task = FakeCluster().add_task(specs.task("t", specs.CLASSICAL))
    evicted = pod(task, phase="Failed")
    evicted["status"] |= {"reason": "Evicted", "message": "Pod The node had condition: [DiskPressure]. "}
    (found,) = build_attempts([evicted])
    assert found.cause is not None
    assert found.cause.reason == "Evicted"


@pytest.mark.parametrize(
    ("waiting", "reason"),
    [
        ("ErrImagePull", "ImagePullFailed"),
        ("InvalidImageName", "ImagePullFailed"),
        ("CreateContainerConfigError", "SecretNotFound"),
        ("RunContainerError", "SecretNotFound"),
        ("ContainerCreating", None),
    ],
)
def test_why_a_pod_does_not_start(waiting: str, reason: str | None) -> None:
    waiting_cause = attempt(state={"waiting": {"reason": waiting, "message": 'secret "hub" not found'}}).waiting_cause
    assert (waiting_cause and waiting_cause.reason) == reason


def test_edited_counts_are_no_crash() -> None:
    task = FakeCluster().add_task(specs.task("t", specs.CLASSICAL))
    edited = pod(task)
    edited["metadata"]["annotations"] = dict.fromkeys(edited["metadata"]["annotations"], "many")
    assert build_attempts([edited])[0].number == 1
