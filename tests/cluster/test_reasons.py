"""Reasons why a task waits or ended, each provoked on the cluster.

The first test applies all tasks, so that they run in parallel; test_life.py and test_faults.py provoke the other reasons.
Tests of GPUs and of a lost node use fake nodes.
"""

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from support import specs
from support.fake_nodes import GPU
from support.kubectl import Kubectl, eventually
from support.reason_tasks import FAKE, GPU_TASK, HIGH, LOW, Apply
from trainingtask_api import names

Row = dict[str, Any]

WITHIN = timedelta(seconds=60)  # what no watch tells comes with the resync, which takes 300 s


def workloads() -> dict[str, Any]:
    """Return a minimal CRD of Kueue's Workload, without Kueue."""
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": "workloads.kueue.x-k8s.io",
            "annotations": {"api-approved.kubernetes.io": "unapproved, for tests"},
        },
        "spec": {
            "group": "kueue.x-k8s.io",
            "names": {"kind": "Workload", "plural": "workloads"},
            "scope": "Namespaced",
            "versions": [{"name": "v1beta1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}],
        },
    }


def build_workload(name: str, job: dict[str, Any]) -> dict[str, Any]:
    """Return a Workload of a Job as Kueue makes it."""
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": job["metadata"]["name"], "uid": job["metadata"]["uid"]}
    labels = {"kueue.x-k8s.io/job-uid": owner["uid"]}
    template = {"metadata": {"labels": job["spec"]["template"]["metadata"]["labels"]}}
    return {
        "apiVersion": "kueue.x-k8s.io/v1beta1",
        "kind": "Workload",
        "metadata": {"name": name, "labels": labels, "ownerReferences": [{**owner, "controller": True}]},
        "spec": {"active": True, "queueName": "team-a", "podSets": [{"template": template}]},
    }


def wait_for_reason(kubectl: Kubectl, task: str, reason: str, kind: str = "Running") -> str:
    """Wait for a condition's reason; return its message."""

    def condition() -> dict[str, Any] | None:
        found = kubectl.condition(task, kind)
        return found if found.get("reason") == reason else None

    message: str = eventually(f"{task}: {kind} for {reason}", condition)["message"]
    return message


def measure_event_delay(kubectl: Kubectl, task: str, reason: str, part: str) -> timedelta:
    """Return the delay from Kubernetes' Warning with `part` about the Job or its pod to the task's event of this reason."""
    job = kubectl.status(task)["jobName"]

    def measure() -> timedelta | None:
        causes, ours = [], []
        for event in kubectl.find("events"):
            subject, time = event["involvedObject"], event.get("eventTime") or event["firstTimestamp"]
            if subject["kind"] in ("Job", "Pod") and subject["name"].startswith(job) and part in event["message"]:
                causes.append(datetime.fromisoformat(time))
            elif (subject["kind"], subject["name"], event["reason"]) == (names.KIND, task, reason):
                ours.append(datetime.fromisoformat(time))
        return min(ours) - min(causes) if ours else None  # the Event follows the status

    return eventually(f"{task}: the event {reason}", measure)


def attempts(kubectl: Kubectl, task: str) -> list[tuple[int, str | None]]:
    return [(a["number"], a.get("reason")) for a in kubectl.status(task).get("attempts", [])]


@pytest.mark.parametrize(
    ("task", "reason", "part"),
    [
        ("no-volume", "VolumeNotFound", "nowhere"),
        ("no-code", "VolumeNotFound", "no-such-code"),
        ("no-image", "ImagePullFailed", "localhost:1/no/such:image"),
        ("no-secret", "SecretNotFound", "nope"),
        ("no-memory", "Unschedulable", "Insufficient memory"),
        ("over-quota", "QuotaExceeded", "exceeded quota: unwelcome"),
        ("no-priority", "PodRefused", "no-such-class"),
    ],
)
def test_a_waiting_task_has_its_reason(kubectl: Kubectl, apply_task: Apply, task: str, reason: str, part: str) -> None:
    assert part in wait_for_reason(kubectl, task, reason)
    assert kubectl.status(task)["reason"] == reason
    assert measure_event_delay(kubectl, task, reason, part) < WITHIN


def test_a_task_starts_when_its_quota_has_room(kubectl: Kubectl, apply_task: Apply) -> None:
    kubectl("delete", "resourcequota", "unwelcome")
    # The Job controller retries by itself, and the task's condition follows.
    eventually("a pod", lambda: kubectl.pods("over-quota"))
    eventually(
        "the quota is no longer the reason",
        lambda: kubectl.condition("over-quota", "Running")["reason"] != "QuotaExceeded",
    )


def test_a_profile_that_is_not_offered_is_refused(kubectl: Kubectl, apply_task: Apply) -> None:
    message = wait_for_reason(kubectl, "no-profile", "ProfileNotOffered", "Accepted")
    assert "doomed, fake" in message
    assert kubectl.jobs("no-profile") == []


def test_a_queued_task_waits_for_quota_and_is_suspended_through_kueue(kubectl: Kubectl, apply_task: Apply) -> None:
    """The test acts for Kueue, which starts and stops the Job by its suspend field."""

    def job() -> dict[str, Any]:
        (found,) = kubectl.jobs("queued")
        return found

    def kueue_suspends(value: bool) -> None:
        patch = json.dumps({"spec": {"suspend": value}})
        kubectl("patch", "job", job()["metadata"]["name"], "--type=merge", "--patch", patch, "--field-manager=kueue")

    def user_suspends(value: bool) -> None:
        patch = json.dumps({"spec": {"runPolicy": {"suspend": value}}})
        kubectl("patch", "trainingtask", "queued", "--type=merge", "--patch", patch)

    assert "'team-a'" in wait_for_reason(kubectl, "queued", "WaitingForQuota")
    suspended_since = job()["metadata"]["creationTimestamp"]
    changed = kubectl.condition("queued", "Running")["lastTransitionTime"]
    assert datetime.fromisoformat(changed) - datetime.fromisoformat(suspended_since) < WITHIN
    assert job()["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team-a"
    assert job()["spec"]["suspend"] is True
    kueue_suspends(False)
    wait_for_reason(kubectl, "queued", "TrainerRunning")

    user_suspends(True)
    assert "Workload" in wait_for_reason(kubectl, "queued", "QueueUnavailable", "Suspended")
    assert kubectl.status("queued")["state"] == "Running", "a task that cannot be stopped is not Suspended"
    kubectl.apply(workloads())
    try:
        kubectl("wait", "crd/workloads.kueue.x-k8s.io", "--for=condition=Established", "--timeout=5m", timeout=310)
        kubectl.apply(build_workload("queued", job()))
        eventually("the Workload is updated", lambda: kubectl.get("workload", "queued")["spec"]["active"] is False)
        wait_for_reason(kubectl, "queued", "SuspendedByUser", "Suspended")
        assert job()["spec"]["suspend"] is False, "the operator left the Job to Kueue"
        kueue_suspends(True)
        eventually("no pod", lambda: not kubectl.pods("queued"))

        user_suspends(False)
        eventually("the Workload is updated", lambda: kubectl.get("workload", "queued")["spec"]["active"] is True)
        wait_for_reason(kubectl, "queued", "WaitingForQuota")
        assert job()["spec"]["suspend"] is True
    finally:
        kubectl("delete", "crd", "workloads.kueue.x-k8s.io")


def test_a_job_that_somebody_suspended_waits_for_them(kubectl: Kubectl, apply_task: Apply) -> None:
    def suspend(value: bool) -> None:
        kubectl("patch", "job", job, "--type=merge", "--patch", json.dumps({"spec": {"suspend": value}}))

    apply_task("halted", FAKE)
    wait_for_reason(kubectl, "halted", "TrainerRunning")
    job = kubectl.status("halted")["jobName"]
    suspend(True)
    assert f"kubectl patch job {job}" in wait_for_reason(kubectl, "halted", "JobSuspended")
    kubectl("label", "trainingtask", "halted", "a=b")  # the operator reconciles it once more
    eventually("no pod", lambda: not kubectl.pods("halted"))
    assert kubectl.get("job", job)["spec"]["suspend"] is True
    suspend(False)
    wait_for_reason(kubectl, "halted", "TrainerRunning")
    assert attempts(kubectl, "halted") == [(1, None)]


def test_a_task_in_another_cluster_is_followed_by_its_jobs_status(kubectl: Kubectl, apply_task: Apply) -> None:
    """The test acts for MultiKueue, which copies the status of the Job in the other cluster."""

    def mirror(**status: Any) -> None:
        patch = json.dumps({"status": {"startTime": started, **status}})
        kubectl("patch", "job", job, "--subresource=status", "--type=merge", "--patch", patch)

    apply_task("remote", specs.changed(FAKE, runPolicy={"managedBy": "kueue.x-k8s.io/multikueue"}))
    message = eventually("accepted", lambda: kubectl.condition("remote", "Running").get("message"))
    assert "another cluster" in message
    job, started = kubectl.status("remote")["jobName"], datetime.now(UTC).isoformat(timespec="seconds")
    mirror(active=1, ready=1)
    eventually("Running", lambda: kubectl.status("remote").get("state") == "Running")
    assert kubectl.pods("remote") == []
    now = datetime.now(UTC).isoformat(timespec="seconds")
    ended = {"status": "True", "reason": "CompletionsReached", "message": "", "lastTransitionTime": now}
    conditions = [{"type": "SuccessCriteriaMet", **ended}, {"type": "Complete", **ended}]
    mirror(active=0, ready=0, succeeded=1, completedIndexes="0", completionTime=now, conditions=conditions)
    kubectl.wait("remote", "Complete")
    assert "in another cluster" in kubectl.condition("remote", "Complete")["message"]


def test_a_taken_job_name_is_a_name_conflict(kubectl: Kubectl, apply_task: Apply) -> None:
    name = eventually("a Job's name", lambda: kubectl.status("taken").get("jobName"))
    eventually("Suspended", lambda: kubectl.condition("taken", "Suspended").get("status") == "True")
    assert kubectl.jobs("taken") == [], "the queue would start a Job"
    pod = {"restartPolicy": "Never", "containers": [{"name": "a", "image": "a"}]}
    foreign = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {"suspend": True, "template": {"spec": pod}},
    }
    kubectl.apply(foreign)
    kubectl("patch", "trainingtask", "taken", "--type=merge", "--patch", '{"spec": {"runPolicy": {"suspend": false}}}')
    assert name in wait_for_reason(kubectl, "taken", "NameConflict", "Accepted")
    assert (kubectl.status("taken")["state"], kubectl.status("taken")["reason"]) == ("Pending", "NameConflict")
    kubectl("delete", "job", name)
    wait_for_reason(kubectl, "taken", "WaitingForQuota")


def test_a_silent_trainer_is_reported_stale_and_keeps_running(kubectl: Kubectl, apply_task: Apply) -> None:
    message = wait_for_reason(kubectl, "hangs", "ProgressStale")
    status = kubectl.status("hangs")
    assert (status["state"], status["progressStale"]) == ("Running", True)
    (pod,) = kubectl.pods("hangs")
    assert f"kubectl logs {pod['metadata']['name']}" in message

    report = {"attempt": 1, "phase": "Training", "reportTime": datetime.now().astimezone().isoformat()}
    patch = json.dumps({"status": {"training": report}})
    kubectl("patch", "trainingtask", "hangs", "--subresource=status", "--type=merge", "--patch", patch)
    wait_for_reason(kubectl, "hangs", "TrainerRunning")
    assert "progressStale" not in kubectl.status("hangs")


def test_a_gpu_task_is_scheduled_waits_for_a_gpu_and_is_preempted(kubectl: Kubectl, apply_task: Apply) -> None:
    eventually("Running", lambda: kubectl.status("preempted").get("state") == "Running")
    (pod,) = kubectl.pods("preempted")
    assert pod["spec"]["nodeName"] == "fake-gpu"
    assert pod["spec"]["containers"][0]["resources"]["limits"][GPU] == "1"

    apply_task("gpu-waits", specs.changed(GPU_TASK, runPolicy={"priorityClassName": LOW}))
    assert GPU in wait_for_reason(kubectl, "gpu-waits", "Unschedulable")
    assert measure_event_delay(kubectl, "gpu-waits", "Unschedulable", GPU) < WITHIN
    (pod,) = kubectl.pods("gpu-waits")
    assert "nodeName" not in pod["spec"], "not on a CPU node either"

    apply_task("preempts", specs.changed(GPU_TASK, runPolicy={"priorityClassName": HIGH}))
    eventually("Running", lambda: kubectl.status("preempts").get("state") == "Running")
    eventually("preempted", lambda: attempts(kubectl, "preempted") == [(1, "Preempted")])
    assert kubectl.status("preempts")["node"] == "fake-gpu"
    wait_for_reason(kubectl, "preempted", "Unschedulable")
    assert kubectl.condition("preempted", "Interrupted")["reason"] == "Preempted"


def test_an_evicted_pod_is_replaced_without_counting_as_failure(kubectl: Kubectl, apply_task: Apply) -> None:
    eventually("Running", lambda: kubectl.status("evicted").get("state") == "Running")
    (pod,) = kubectl.pods("evicted")
    name = pod["metadata"]["name"]
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
    path = f"/api/v1/namespaces/{kubectl.namespace}/pods/{name}/eviction"
    kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction))
    eventually("the next attempt", lambda: attempts(kubectl, "evicted") == [(1, "Evicted"), (2, None)])
    first = kubectl.status("evicted")["attempts"][0]
    assert (first["exitCode"], first["node"]) == (143, "fake-cpu")
    assert first["startTime"] <= first["finishTime"]


def test_a_lost_node_is_reported(kubectl: Kubectl, apply_task: Apply) -> None:
    # The pod garbage collector waits for 40 s and runs every 20 s.
    eventually("NodeLost", lambda: attempts(kubectl, "node-lost") == [(1, "NodeLost")])
    wait_for_reason(kubectl, "node-lost", "Unschedulable")
    assert kubectl.condition("node-lost", "Interrupted")["reason"] == "NodeLost"


@pytest.mark.parametrize(
    ("task", "reason", "part"),
    [
        ("invalid-data", "InvalidData", "no column 'text'"),
        ("no-model", "ModelUnavailable", "not/here"),
        ("no-dataset", "DatasetUnavailable", "nobody/nothing"),
        ("no-number", "NonFiniteLoss", "the loss is nan"),
        ("crashed", "TrainerCrashed", "exit code 1. Last it said: "),
        ("hog", "OOMKilled", "memory limit of 600Mi; at "),
    ],
)
def test_a_failed_trainer_has_its_reason(
    kubectl: Kubectl, apply_task: Apply, final_row: Callable[..., Row], task: str, reason: str, part: str
) -> None:
    kubectl.wait(task, "Failed")
    failed = kubectl.condition(task, "Failed")
    assert (failed["reason"], part in failed["message"]) == (reason, True), failed
    assert attempts(kubectl, task) == [(1, reason)]
    row = final_row(task)
    assert (row["status"], row["error_reason"], row["error_message"]) == ("Failed", reason, failed["message"])


def test_an_oom_kill_reports_the_memory_limit_and_the_peak(kubectl: Kubectl, apply_task: Apply) -> None:
    kubectl.wait("hog", "Failed")
    peak = re.search(r"had reported a peak of (\d+) MiB", kubectl.condition("hog", "Failed")["message"])
    assert peak is not None
    assert int(peak[1]) > 300, "more than at its start"
    assert kubectl.status("hog")["attempts"][0]["exitCode"] == 137


def test_the_log_outlives_the_pod(kubectl: Kubectl, apply_task: Apply, rows: Callable[[str], list[Row]]) -> None:
    kubectl.wait("crashed", "Failed")
    task = kubectl.get("trainingtask", "crashed")
    kept = eventually("a log", lambda: (found := rows(task["metadata"]["uid"])) and found[0]["log_tail"])
    (pod,) = kubectl.pods("crashed")
    assert kept == kubectl("logs", pod["metadata"]["name"])
    assert "No module named" in kept


def test_kubectl_get_shows_the_reasons(kubectl: Kubectl, apply_task: Apply) -> None:
    lines = kubectl("get", "tt", "-o", "wide").splitlines()  # some change between this and the next reading
    column = lines[0].index("REASON")
    shown = {line.split()[0]: line[column:].split()[0] for line in lines[1:]}
    print("\n".join(lines))  # shown by pytest -s
    for task, reason in shown.items():
        messages = [c["message"] for c in kubectl.status(task)["conditions"] if c["reason"] == reason]
        print(f"{task}: {messages}")
    for task, reason in {
        "no-volume": "VolumeNotFound",
        "gpu-waits": "Unschedulable",
        "crashed": "TrainerCrashed",
    }.items():
        assert shown[task] == reason
