"""Attacks on a trainer's identity: reports for another task by forged names, labels, owners and times."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from support import specs
from support.kubectl import Kubectl, Refused, eventually
from support.trainer_tokens import MERGE, ReportAs, bound_token
from trainingtask_api import names

FUTURE = "2099-01-01T00:00:00Z"
LIE = {"training": {"attempt": 1, "phase": "Done", "score": "0.001"}}


@pytest.fixture(scope="module")
def victim(kubectl: Kubectl) -> dict[str, Any]:
    """Train a task; return it."""
    small = {"resources": {"cpu": "500m"}}
    kubectl.apply(specs.task("victim", {**specs.CLASSICAL, **small}, kubectl.namespace))
    kubectl.wait("victim", "Complete")
    return kubectl.get("trainingtask", "victim")


@pytest.fixture(scope="module")
def victims_pod(kubectl: Kubectl, victim: dict[str, Any]) -> dict[str, Any]:
    (pod,) = kubectl.pods("victim")
    return pod


def forged_pod(name: str, **metadata: Any) -> dict[str, Any]:
    """Return an unschedulable pod with the trainers' ServiceAccount, for which a token can be requested all the same."""
    container = {
        "name": "trainer",
        "image": "none",
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    spec = {
        "serviceAccountName": names.TRAINER_SERVICE_ACCOUNT,
        "nodeSelector": {"no": "where"},
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, **metadata}, "spec": spec}


def test_the_tasks_own_pod_reports(
    kubectl: Kubectl, victim: dict[str, Any], victims_pod: dict[str, Any], report_as: ReportAs
) -> None:
    assert victim["status"]["podUid"] == victims_pod["metadata"]["uid"]
    assert victim["status"]["training"]["phase"] == "Done"
    report_as(bound_token(kubectl, victims_pod), "victim", {"training": victim["status"]["training"]})


def test_a_task_named_after_anothers_job_cannot_report_for_it(
    kubectl: Kubectl, victim: dict[str, Any], task: Callable[..., str], report_as: ReportAs
) -> None:
    name = task(f"{victim['status']['jobName']}-x", specs.CLASSICAL)
    (pod,) = eventually("the pod of the other task", lambda: kubectl.pods(name))
    assert pod["metadata"]["name"].startswith(f"{victim['status']['jobName']}-")
    with pytest.raises(Refused, match="its own pod belongs to"):
        report_as(bound_token(kubectl, pod), "victim", LIE)


def test_a_users_pod_cannot_report_for_a_task(kubectl: Kubectl, victim: dict[str, Any], report_as: ReportAs) -> None:
    name = f"{victim['status']['jobName']}-0-forged"
    kubectl.apply(forged_pod(name))
    try:
        with pytest.raises(Refused, match="its own pod belongs to"):
            report_as(bound_token(kubectl, kubectl.get("pod", name)), "victim", LIE)
        with pytest.raises(Refused, match="task-uid is set by"):
            kubectl("label", "pod", name, f"{names.TASK_UID_LABEL}={victim['metadata']['uid']}")
    finally:
        kubectl("delete", "pod", name, "--wait=false")


def test_a_pod_that_claims_to_be_a_tasks_is_refused(kubectl: Kubectl, victims_pod: dict[str, Any]) -> None:
    labels = {key: value for key, value in victims_pod["metadata"]["labels"].items() if key.startswith(names.GROUP)}
    owners = victims_pod["metadata"]["ownerReferences"]
    for claim, message in (
        ({"labels": labels, "ownerReferences": owners}, "task-uid is set by"),
        ({"labels": labels}, "task-uid is set by"),
        ({"ownerReferences": owners}, "only the Job controller"),
    ):
        with pytest.raises(Refused, match=message):
            kubectl.apply(forged_pod("forged", **claim))


def test_a_job_that_claims_to_be_a_tasks_is_refused(kubectl: Kubectl, victim: dict[str, Any]) -> None:
    (job,) = kubectl.jobs("victim")
    pod = forged_pod("forged")["spec"] | {"restartPolicy": "Never"}
    for claim, message in (
        ({"labels": {names.TASK_UID_LABEL: victim["metadata"]["uid"]}}, "task-uid is set by"),
        ({"ownerReferences": job["metadata"]["ownerReferences"]}, "only the trainingtask-operator"),
    ):
        metadata = {"name": "forged", **claim}
        forged = {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": {"template": {"spec": pod}}}
        with pytest.raises(Refused, match=message):
            kubectl.apply(forged)


def test_a_job_that_gives_its_pods_the_label_is_refused(kubectl: Kubectl, victim: dict[str, Any]) -> None:
    """The Job controller would create a pod with the label, to which an owner of any kind could be added."""
    pod = forged_pod("forged")["spec"] | {"restartPolicy": "Never"}
    template = {"metadata": {"labels": {names.TASK_UID_LABEL: victim["metadata"]["uid"]}}, "spec": pod}
    metadata = {"name": "forged", "labels": {"a": "b"}}
    forged = {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": {"template": template}}
    with pytest.raises(Refused, match="also in a Job's template"):
        kubectl.apply(forged)


def test_a_tasks_pod_gets_no_owner_of_another_kind(kubectl: Kubectl, victims_pod: dict[str, Any]) -> None:
    (owner,) = victims_pod["metadata"]["ownerReferences"]
    other = owner | {"apiVersion": "example.com/v1", "kind": "Other"}
    patch = json.dumps({"metadata": {"ownerReferences": [other]}})
    with pytest.raises(Refused, match="only the Job controller"):
        kubectl("patch", "pod", victims_pod["metadata"]["name"], "--type=merge", f"--patch={patch}")


@pytest.mark.parametrize("field", ["finishTime", "startTime", "reportTime"])
def test_a_report_from_the_future_is_refused(
    kubectl: Kubectl, victims_pod: dict[str, Any], report_as: ReportAs, field: str
) -> None:
    token = bound_token(kubectl, victims_pod)
    lie = {"training": {**LIE["training"], field: FUTURE}}
    with pytest.raises(Refused, match="no time in the future"):
        report_as(token, "victim", lie)
    # The time of the write, which the policy compares with, cannot be forged either.
    entry = {
        "manager": names.TRAINER_FIELD_MANAGER,
        "operation": "Apply",
        "subresource": "status",
        "apiVersion": names.API_VERSION,
        "fieldsType": "FieldsV1",
        "fieldsV1": {"f:status": {"f:training": {}}},
        "time": FUTURE,
    }
    with pytest.raises(Refused, match="no time in the future"):
        report_as(token, "victim", lie, MERGE, managedFields=[entry])
    with pytest.raises(Refused, match="must be nil"):
        report_as(token, "victim", lie, managedFields=[entry])


def test_a_report_from_the_future_is_repaired(kubectl: Kubectl, victim: dict[str, Any]) -> None:
    """A user who may write the status forged it: the operator restores it from the pod's termination message."""
    lie = '{"status": {"training": {"finishTime": "' + FUTURE + '"}}}'
    kubectl("patch", "trainingtask", "victim", "--subresource=status", "--type=merge", f"--patch={lie}")
    true = victim["status"]["training"]["finishTime"]

    def repaired() -> bool:
        return bool(kubectl.status("victim")["training"]["finishTime"] == true)

    eventually("the report is repaired", repaired)
