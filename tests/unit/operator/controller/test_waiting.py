"""The causes of waiting and missing pods, in the words of the components that report them."""

import pytest

from support import specs
from support.in_memory_api_server import NOW, FakeCluster, pod
from trainingtask_operator.controller.attempts import build_attempts
from trainingtask_operator.controller.diagnosis import Cause
from trainingtask_operator.controller.waiting import explain_missing_pod
from trainingtask_operator.kube_objects import KubeEvent, Object

FORBIDDEN = 'Error creating: pods "t-0-abcde" is forbidden: '
SANDBOX = "4f1e" * 16


def explain(waiting_pod: Object, event: KubeEvent | None = None) -> Cause | None:
    (found,) = build_attempts([waiting_pod], None, {waiting_pod["metadata"]["uid"]: event} if event else {})
    return found.waiting_cause


@pytest.fixture
def waiting_pod() -> Object:
    task = FakeCluster().add_task(specs.task("t", specs.CLASSICAL))
    return pod(task, state={"waiting": {"reason": "ContainerCreating"}})


@pytest.mark.parametrize(
    ("reason", "message", "cause", "step"),
    [
        (
            "FailedAttachVolume",
            'Multi-Attach error for volume "pvc-1" Volume is already used by pod(s) other-0',
            "VolumeNotAttached",
            "ReadWriteMany",
        ),
        (
            "FailedAttachVolume",
            'AttachVolume.Attach failed for volume "pvc-1" : rpc error: code = Internal desc = no such disk',
            "VolumeNotAttached",
            "ask the cluster's admin",
        ),
        (
            "FailedMount",
            "Unable to attach or mount volumes: unmounted volumes=[claim-0], unattached volumes=[], failed to process"
            " volumes=[]: timed out waiting for the condition",
            "VolumeNotMounted",
            "ask the cluster's admin",
        ),
        (
            "FailedCreatePodSandBox",
            "Failed to create pod sandbox: rpc error: code = Unknown desc = failed to setup network for sandbox"
            f' "{SANDBOX}": plugin type="calico" failed (add): no addresses',
            "SandboxNotCreated",
            "ask the cluster's admin",
        ),
    ],
)
def test_an_event_explains_why_a_pod_does_not_start(
    waiting_pod: Object, reason: str, message: str, cause: str, step: str
) -> None:
    found = explain(waiting_pod, KubeEvent(message, 1, NOW, reason))
    assert found is not None
    assert found.reason == cause
    assert step in found.message
    assert message.replace(f' "{SANDBOX}"', "") in found.message, "the same at each try"


@pytest.mark.parametrize("reason", ["ImagePullBackOff", "CreateContainerError", "CrashLoopBackOff"])
def test_an_injected_container_that_does_not_start_is_named(waiting_pod: Object, reason: str) -> None:
    waiting_pod["status"]["waitingInitContainer"] = {"name": "istio-proxy", "reason": reason, "message": "as it says"}
    found = explain(waiting_pod)
    assert found is not None
    assert found.reason == "ContainerNotCreated"
    assert f"'istio-proxy', injected into the pod, does not start ({reason})" in found.message
    assert found.message.endswith("as it says")


def test_an_image_volume_that_cannot_be_pulled_is_no_fault_of_the_trainers_image(waiting_pod: Object) -> None:
    message = 'Back-off pulling image "registry.example.com/data:1": not found'
    waiting_pod["status"]["containerStatuses"][0]["state"] = {
        "waiting": {"reason": "ImagePullBackOff", "message": message}
    }
    found = explain(waiting_pod)
    assert found is not None
    assert (found.reason, "An image of the pod" in found.message) == ("ImagePullFailed", True)
    assert message in found.message


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        (FORBIDDEN + "maximum memory usage per Container is 1Gi, but limit is 2Gi", "The namespace's LimitRange"),
        (FORBIDDEN + "memory max limit to request ratio per Pod is 1, but provided ratio is 2", "The namespace's LimitRange"),
        (FORBIDDEN + "ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no team", "A policy of the cluster"),
        (FORBIDDEN + 'violates PodSecurity "restricted:latest": runAsNonRoot != true', "A policy of the cluster"),
        ('Error creating: admission webhook "v.example.com" denied the request: no team', "A policy of the cluster"),
        ('Error creating: Internal error occurred: failed calling webhook "v.example.com": refused', "A webhook"),
        (FORBIDDEN + "no PriorityClass with name x was found", "The pod cannot be created"),
    ],
)  # fmt: skip
def test_a_refusal_of_the_pod_has_its_next_step(message: str, sentence: str) -> None:
    cause = explain_missing_pod(KubeEvent(message, 1, NOW, "FailedCreate"))
    assert cause.reason == "PodRefused"
    assert cause.message.startswith(sentence)
    assert cause.message.endswith(message)
