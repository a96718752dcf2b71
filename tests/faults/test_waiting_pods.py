"""Why a task has no pod, or its pod does not start: the sentence of the Event is in the status."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from support.kube_api import PODS
from support.task_namespace import WAITS, ApiError, TaskNamespace, eventually, get_condition

POLICY = "pods-need-a-team"
ADMISSION = "/apis/admissionregistration.k8s.io/v1"
RULE = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}


async def wait_for_message(namespace: TaskNamespace, reason: str) -> str:
    """Wait until the task waits for this reason; return the message."""

    async def waits() -> Any:
        found = get_condition(await namespace.get_task("task"), "Running")
        return found if found.get("reason") == reason else None

    return str((await eventually(f"the task waits: {reason}", waits))["message"])


async def wait_for_refusal(namespace: TaskNamespace) -> str:
    """Wait for the Job controller's Event, and from then on for the message of the status."""

    async def refused() -> Any:
        path = f"{PODS}/namespaces/{namespace.name}/events"
        items = (await namespace.api.request("GET", path))["items"]
        return next((item for item in items if item["reason"] == "FailedCreate"), None)

    await eventually("the Job controller is refused a pod", refused)
    return await wait_for_message(namespace, "PodRefused")


async def test_pod_outside_of_a_limit_range(namespace: TaskNamespace) -> None:
    limit = {"type": "Container", "max": {"memory": "1Gi"}}
    limits = {"metadata": {"name": "small"}, "spec": {"limits": [limit]}}
    await namespace.api.request("POST", f"{PODS}/namespaces/{namespace.name}/limitranges", limits)
    async with namespace.operator():
        await namespace.create("task", WAITS)
        message = await wait_for_refusal(namespace)
        assert "maximum memory usage per Container is 1Gi, but limit is 2Gi" in message
        assert "change spec.resources in a new task" in message


@asynccontextmanager
async def pods_need_a_team(namespace: TaskNamespace) -> AsyncIterator[None]:
    """Let an admission policy refuse all pods of a namespace; it is enforced some seconds after it is created."""
    selector = {"matchLabels": {"kubernetes.io/metadata.name": namespace.name}}
    expression = "'team' in object.metadata.?annotations.orValue({})"
    validation = {"expression": expression, "message": "each pod names its team"}
    policy = {"matchConstraints": {"namespaceSelector": selector, "resourceRules": [RULE]}, "validations": [validation]}
    binding = {"policyName": POLICY, "validationActions": ["Deny"]}
    specs = {"validatingadmissionpolicies": policy, "validatingadmissionpolicybindings": binding}
    pod = {"metadata": {"name": "probe"}, "spec": {"containers": [{"name": "a", "image": "a"}]}}

    async def refuses() -> bool:
        try:
            await namespace.api.request("POST", f"{PODS}/namespaces/{namespace.name}/pods", pod, dryRun="All")
        except ApiError as error:
            return POLICY in str(error)
        return False

    for plural, spec in specs.items():
        await namespace.api.request("POST", f"{ADMISSION}/{plural}", {"metadata": {"name": POLICY}, "spec": spec})
    try:
        await eventually("the policy is enforced", refuses)
        yield
    finally:
        for plural in specs:
            await namespace.api.request("DELETE", f"{ADMISSION}/{plural}/{POLICY}")


async def test_pod_refused_by_an_admission_policy(namespace: TaskNamespace) -> None:
    async with pods_need_a_team(namespace), namespace.operator():
        await namespace.create("task", WAITS)
        message = await wait_for_refusal(namespace)
        assert f"ValidatingAdmissionPolicy '{POLICY}'" in message
        assert "each pod names its team" in message
        assert "ask the cluster's admin" in message


@pytest.mark.parametrize(
    ("component", "reason", "message", "expected"),
    [
        ("attachdetach-controller", "FailedAttachVolume", "Multi-Attach error for volume \"pvc-1\" Volume is already used by pod(s) x", "VolumeNotAttached"),
        ("kubelet", "FailedCreatePodSandBox", "Failed to create pod sandbox: no addresses are left", "SandboxNotCreated"),
        ("kubelet", "FailedMount", "Unable to attach or mount volumes: unmounted volumes=[a]: timed out", "VolumeNotMounted"),
    ],
)  # fmt: skip
async def test_pod_that_does_not_start(
    namespace: TaskNamespace, component: str, reason: str, message: str, expected: str
) -> None:
    """The test writes the Event, as the component does that is not at hand here."""

    async def scheduled() -> Any:
        return next((pod for pod in await namespace.list_pods() if pod["spec"].get("nodeName")), None)

    async with namespace.operator():
        await namespace.create("task", WAITS)
        pod = await eventually("a scheduled pod", scheduled)
        await wait_for_message(namespace, "Starting")
        now = datetime.now(UTC).isoformat(timespec="seconds")
        about = {"kind": "Pod", "namespace": namespace.name} | {f: pod["metadata"][f] for f in ("name", "uid")}
        event = {"metadata": {"name": "an-event"}, "involvedObject": about, "reason": reason, "message": message}
        event |= {"type": "Warning", "source": {"component": component}, "firstTimestamp": now, "lastTimestamp": now}
        await namespace.api.request("POST", f"{PODS}/namespaces/{namespace.name}/events", event)
        assert message in await wait_for_message(namespace, expected)
