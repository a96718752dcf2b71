"""Why a task waits and why it ended: each reason provoked on the cluster, and read as a person reads it.

The scenes are set all at once, by the first test, and play side by side; test_life.py and test_faults.py provoke the
reasons that are not here. What needs a GPU, or a node to lose, plays on nodes that are no machines.
"""

import json
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import specs
from fake_nodes import GPU, fake_nodes, node
from kubectl import Kubectl, eventually
from release import OPERATOR
from tiny_models import write_tiny_models

Apply = Callable[[str, dict[str, Any]], None]
Row = dict[str, Any]

WITHIN = timedelta(seconds=5)
LOW, HIGH, UNWELCOME = (f"trainingtask-test-{name}" for name in ("low", "high", "unwelcome"))
GPU_TASK = specs.changed(specs.TRANSFORMER, device="gpu", resources={"gpus": 1, "cpu": "1", "memory": "1Gi"})
FAKE = specs.changed(specs.CLASSICAL, resources={"profile": "fake"})


def priority(name: str, value: int) -> dict[str, Any]:
    return {
        "apiVersion": "scheduling.k8s.io/v1",
        "kind": "PriorityClass",
        "metadata": {"name": name},
        "value": value,
        "description": "For tests.",
    }


def quota() -> dict[str, Any]:
    """No pod of this one priority: the other tests' pods are not meant."""
    scope = {"scopeName": "PriorityClass", "operator": "In", "values": [UNWELCOME]}
    spec = {"hard": {"pods": "0"}, "scopeSelector": {"matchExpressions": [scope]}}
    return {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "unwelcome"}, "spec": spec}


def workloads() -> dict[str, Any]:
    """Kueue's Workload as far as it matters here; no Kueue comes with it."""
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


@pytest.fixture(scope="module")
def nodes(kubectl: Kubectl, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    log = tmp_path_factory.mktemp("kwok") / "kwok.log"
    with fake_nodes(kubectl, node("cpu"), node("doomed"), node("gpu", gpus=1), log=log):
        yield


@pytest.fixture(scope="module")
def broken(offer: Callable[[str, Path], str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """A claim with a checkpoint `bert` whose weights are no numbers, and a table without texts."""
    import torch
    from transformers import BertModel

    folder = write_tiny_models(tmp_path_factory.mktemp("broken"))
    model = BertModel.from_pretrained(folder / "bert")
    with torch.no_grad():
        model.embeddings.word_embeddings.weight.fill_(float("nan"))
    model.save_pretrained(folder / "bert")
    (folder / "tickets.csv").write_text("number,labels\n1,a\n", encoding="utf-8")
    base = tmp_path_factory.getbasetemp()
    for part in (folder, base, base.parent):
        part.chmod(0o755)
    for file in (item for item in folder.rglob("*") if item.is_file()):
        file.chmod(0o644)
    return offer("broken", folder)


class EmptyHub(BaseHTTPRequestHandler):
    """A hub of data sets and models that has none."""

    def do_GET(self) -> None:
        """Answer as the hub does for a repository that it does not have."""
        self.send_response(404)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_POST = do_GET  # noqa: N815 - the library calls them so

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet."""


@pytest.fixture(scope="module")
def empty_hub(kubectl: Kubectl) -> Iterator[dict[str, Any]]:
    """The variable that sends a trainer to an empty hub on this machine."""
    addresses = [address for one in kubectl.find("nodes") for address in one["status"].get("addresses", [])]
    host = next(address["address"] for address in addresses if address["type"] == "InternalIP")
    server = ThreadingHTTPServer((host, 0), EmptyHub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        url = f"http://{host}:{server.server_port}"
        kubectl.apply(
            {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "empty-hub"}, "stringData": {"url": url}}
        )
        yield {"name": "HF_ENDPOINT", "secretKeyRef": {"name": "empty-hub", "key": "url"}}
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def scenes(
    kubectl: Kubectl, system: Kubectl, a_claim: str, broken: str, empty_hub: dict[str, Any], nodes: None
) -> Iterator[Apply]:
    """Everything that a test here waits for, begun at once."""
    kubectl.apply(priority(LOW, -1000), priority(HIGH, 1000), priority(UNWELCOME, -10), quota())
    applied: list[str] = []

    def play(name: str, spec: dict[str, Any]) -> None:
        applied.append(name)
        kubectl.apply(specs.task(name, spec, kubectl.namespace))

    # An image without a trainer in it.
    operator = json.loads(system("get", OPERATOR, "--output=json"))
    no_trainer = operator["spec"]["template"]["spec"]["containers"][0]["image"]

    def trainer(spec: dict[str, Any], **changes: Any) -> dict[str, Any]:
        return specs.changed(spec, resources={"cpu": "250m", "memory": "1Gi"}, runPolicy__retries=0, **changes)

    parts = {
        "no-volume": trainer(specs.TABLE, dataset__volumeClaim="nowhere"),
        "no-code": trainer(specs.CLASSICAL, code={"configMap": "no-such-code"}),
        "over-quota": specs.changed(specs.CLASSICAL, runPolicy={"priorityClassName": UNWELCOME}),
        "no-priority": specs.changed(specs.CLASSICAL, runPolicy={"priorityClassName": "no-such-class"}),
        "queued": specs.changed(FAKE, runPolicy={"queueName": "team-a"}),
        "taken": specs.changed(FAKE, runPolicy={"queueName": "team-a", "suspend": True}),
        "no-profile": specs.changed(specs.CLASSICAL, resources={"profile": "no-such-profile"}),
        "evicted": FAKE,
        "node-lost": specs.changed(FAKE, resources__profile="doomed"),
        "hangs": FAKE,
        "preempted": specs.changed(GPU_TASK, runPolicy={"priorityClassName": LOW}),
        "invalid-data": trainer(specs.TABLE, dataset__volumeClaim=broken, dataset__path="tickets.csv"),
        "no-model": trainer(specs.CLASSICAL, model={"name": "bert", "volumeClaim": a_claim, "checkpoint": "not/here"}),
        "no-number": trainer(specs.CLASSICAL, model={"name": "bert", "volumeClaim": broken, "checkpoint": "bert"}),
        "no-dataset": trainer(
            specs.CLASSICAL, dataset={"name": "go_emotions", "hub": {"id": "nobody/nothing"}}, env=[empty_hub]
        ),
        "crashed": trainer(specs.CLASSICAL, image=no_trainer),
    }
    try:
        for name, spec in parts.items():
            play(name, spec)
        eventually("Running", lambda: kubectl.status("node-lost").get("state") == "Running")
        kubectl("delete", "node", "fake-doomed")  # now: it takes the longest to be noticed
        yield play
    finally:
        kubectl("delete", "trainingtask", *applied, "--ignore-not-found", "--wait=false")
        kubectl("delete", "resourcequota", "unwelcome", "--ignore-not-found")
        kubectl("delete", "priorityclass", LOW, HIGH, UNWELCOME, "--ignore-not-found")


def said(kubectl: Kubectl, task: str, reason: str, kind: str = "Running", timeout: float = 90) -> str:
    """Wait for a condition's reason; return its message."""

    def condition() -> dict[str, Any] | None:
        found = kubectl.condition(task, kind)
        return found if found.get("reason") == reason else None

    message: str = eventually(f"{task}: {kind} for {reason}", condition, timeout)["message"]
    return message


def told_after(kubectl: Kubectl, task: str, reason: str) -> timedelta:
    """Return how long after the task's creation its Warning with this reason came."""
    created = kubectl.get("trainingtask", task)["metadata"]["creationTimestamp"]
    events = kubectl.find("events.events.k8s.io")
    times = [e["eventTime"] for e in events if (e["regarding"]["name"], e.get("reason")) == (task, reason)]
    return datetime.fromisoformat(min(times)) - datetime.fromisoformat(created)


def attempts(kubectl: Kubectl, task: str) -> list[tuple[int, str | None]]:
    return [(a["number"], a.get("reason")) for a in kubectl.status(task).get("attempts", [])]


def test_a_claim_that_is_not_there(kubectl: Kubectl, scenes: Apply) -> None:
    message = said(kubectl, "no-volume", "VolumeNotFound")
    assert "PersistentVolumeClaim 'nowhere'" in message
    assert told_after(kubectl, "no-volume", "VolumeNotFound") < WITHIN


def test_a_config_map_that_is_not_there(kubectl: Kubectl, scenes: Apply) -> None:
    message = said(kubectl, "no-code", "VolumeNotFound")
    assert "ConfigMap 'no-such-code'" in message
    assert told_after(kubectl, "no-code", "VolumeNotFound") < WITHIN


def test_a_quota_that_is_used_up(kubectl: Kubectl, scenes: Apply) -> None:
    message = said(kubectl, "over-quota", "QuotaExceeded")
    assert "exceeded quota: unwelcome" in message
    assert told_after(kubectl, "over-quota", "QuotaExceeded") < WITHIN
    kubectl("delete", "resourcequota", "unwelcome")
    # The Job controller tries again by itself, and the task says so.
    eventually("a pod", lambda: kubectl.pods("over-quota"), 120)
    eventually(
        "no more talk of a quota", lambda: kubectl.condition("over-quota", "Running")["reason"] != "QuotaExceeded"
    )


def test_a_priority_class_that_is_not_there(kubectl: Kubectl, scenes: Apply) -> None:
    assert "no-such-class" in said(kubectl, "no-priority", "PodRefused")


def test_a_profile_that_is_not_offered(kubectl: Kubectl, scenes: Apply) -> None:
    message = said(kubectl, "no-profile", "ProfileNotOffered", "Accepted")
    assert "doomed, fake" in message
    assert kubectl.jobs("no-profile") == []


def test_a_queued_task_waits_for_its_queue_and_is_suspended_through_it(kubectl: Kubectl, scenes: Apply) -> None:
    """Kueue's part is played by hand: it starts and stops the Job by its suspend field, which nobody else writes."""

    def job() -> dict[str, Any]:
        (found,) = kubectl.jobs("queued")
        return found

    def kueue_suspends(value: bool) -> None:
        patch = json.dumps({"spec": {"suspend": value}})
        kubectl("patch", "job", job()["metadata"]["name"], "--type=merge", "--patch", patch, "--field-manager=kueue")

    def user_suspends(value: bool) -> None:
        patch = json.dumps({"spec": {"runPolicy": {"suspend": value}}})
        kubectl("patch", "trainingtask", "queued", "--type=merge", "--patch", patch)

    assert "'team-a'" in said(kubectl, "queued", "WaitingForQuota")
    assert job()["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team-a"
    assert job()["spec"]["suspend"] is True
    kueue_suspends(False)
    said(kubectl, "queued", "TrainerRunning")

    user_suspends(True)
    assert "Workload" in said(kubectl, "queued", "QueueUnavailable", "Suspended")
    assert kubectl.status("queued")["state"] == "Running", "what cannot be stopped is not called so"
    kubectl.apply(workloads())
    try:
        kubectl("wait", "crd/workloads.kueue.x-k8s.io", "--for=condition=Established")
        labels = {"kueue.x-k8s.io/job-uid": job()["metadata"]["uid"]}
        kind = {"apiVersion": "kueue.x-k8s.io/v1beta1", "kind": "Workload"}
        kubectl.apply({**kind, "metadata": {"name": "queued", "labels": labels}, "spec": {"active": True}})
        eventually("Kueue is told", lambda: kubectl.get("workload", "queued")["spec"]["active"] is False)
        said(kubectl, "queued", "SuspendedByUser", "Suspended")
        assert job()["spec"]["suspend"] is False, "the operator left the Job to Kueue"
        kueue_suspends(True)
        eventually("no pod", lambda: not kubectl.pods("queued"))

        user_suspends(False)
        eventually("Kueue is told", lambda: kubectl.get("workload", "queued")["spec"]["active"] is True)
        said(kubectl, "queued", "WaitingForQuota")
        assert job()["spec"]["suspend"] is True
    finally:
        kubectl("delete", "crd", "workloads.kueue.x-k8s.io")


def test_a_jobs_name_that_is_taken(kubectl: Kubectl, scenes: Apply) -> None:
    name = eventually("a Job's name", lambda: kubectl.status("taken").get("jobName"))
    eventually("Suspended", lambda: kubectl.condition("taken", "Suspended").get("status") == "True")
    assert kubectl.jobs("taken") == [], "a Job would be the queue's to start"
    pod = {"restartPolicy": "Never", "containers": [{"name": "a", "image": "a"}]}
    foreign = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {"suspend": True, "template": {"spec": pod}},
    }
    kubectl.apply(foreign)
    kubectl("patch", "trainingtask", "taken", "--type=merge", "--patch", '{"spec": {"runPolicy": {"suspend": false}}}')
    assert name in said(kubectl, "taken", "NameConflict", "Accepted")
    assert (kubectl.status("taken")["state"], kubectl.status("taken")["reason"]) == ("Pending", "NameConflict")
    kubectl("delete", "job", name)
    said(kubectl, "taken", "WaitingForQuota")


def test_a_trainer_that_is_silent_is_said_to_be_and_left_alone(kubectl: Kubectl, scenes: Apply) -> None:
    message = said(kubectl, "hangs", "ProgressStale")
    status = kubectl.status("hangs")
    assert (status["state"], status["progressStale"]) == ("Running", True)
    (pod,) = kubectl.pods("hangs")
    assert f"kubectl logs {pod['metadata']['name']}" in message

    report = {"attempt": 1, "phase": "Training", "reportTime": datetime.now().astimezone().isoformat()}
    patch = json.dumps({"status": {"training": report}})
    kubectl("patch", "trainingtask", "hangs", "--subresource=status", "--type=merge", "--patch", patch)
    said(kubectl, "hangs", "TrainerRunning")
    assert "progressStale" not in kubectl.status("hangs")


def test_a_gpu_task_runs_where_a_gpu_is_waits_when_it_is_taken_and_yields_it_to_a_higher_priority(
    kubectl: Kubectl, scenes: Apply
) -> None:
    eventually("Running", lambda: kubectl.status("preempted").get("state") == "Running")
    (pod,) = kubectl.pods("preempted")
    assert pod["spec"]["nodeName"] == "fake-gpu"
    assert pod["spec"]["containers"][0]["resources"]["limits"][GPU] == "1"

    scenes("gpu-waits", specs.changed(GPU_TASK, runPolicy={"priorityClassName": LOW}))
    assert GPU in said(kubectl, "gpu-waits", "Unschedulable")
    assert told_after(kubectl, "gpu-waits", "Unschedulable") < WITHIN
    (pod,) = kubectl.pods("gpu-waits")
    assert "nodeName" not in pod["spec"], "not on a CPU node either"

    scenes("preempts", specs.changed(GPU_TASK, runPolicy={"priorityClassName": HIGH}))
    eventually("Running", lambda: kubectl.status("preempts").get("state") == "Running")
    eventually("preempted", lambda: attempts(kubectl, "preempted") == [(1, "Preempted")])
    assert kubectl.status("preempts")["node"] == "fake-gpu"
    said(kubectl, "preempted", "Unschedulable")
    assert kubectl.condition("preempted", "Interrupted")["reason"] == "Preempted"


def test_an_evicted_pod_is_replaced_and_is_no_failure_of_the_task(kubectl: Kubectl, scenes: Apply) -> None:
    eventually("Running", lambda: kubectl.status("evicted").get("state") == "Running")
    (pod,) = kubectl.pods("evicted")
    name = pod["metadata"]["name"]
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
    path = f"/api/v1/namespaces/{kubectl.namespace}/pods/{name}/eviction"
    kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction))
    eventually("the next attempt", lambda: attempts(kubectl, "evicted") == [(1, "Evicted"), (2, None)], 90)
    (job,) = kubectl.jobs("evicted")
    assert job["status"].get("failedIndexes", "") == ""
    first = kubectl.status("evicted")["attempts"][0]
    assert (first["exitCode"], first["node"]) == (143, "fake-cpu")
    assert first["startTime"] <= first["finishTime"]


def test_a_node_that_is_gone(kubectl: Kubectl, scenes: Apply) -> None:
    # The pod garbage collector waits for 40 s, and looks every 20 s.
    eventually("NodeLost", lambda: attempts(kubectl, "node-lost") == [(1, "NodeLost")], 120)
    said(kubectl, "node-lost", "Unschedulable")
    assert kubectl.condition("node-lost", "Interrupted")["reason"] == "NodeLost"


@pytest.mark.parametrize(
    ("task", "reason", "part"),
    [
        ("invalid-data", "InvalidData", "no column 'text'"),
        ("no-model", "ModelUnavailable", "not/here"),
        ("no-dataset", "DatasetUnavailable", "nobody/nothing"),
        ("no-number", "NonFiniteLoss", "the loss is nan"),
        ("crashed", "TrainerCrashed", "exit code 1. Last it said: "),
    ],
)
def test_what_the_trainer_says_at_its_end(
    kubectl: Kubectl, scenes: Apply, final_row: Callable[..., Row], task: str, reason: str, part: str
) -> None:
    kubectl.wait(task, "Failed")
    failed = kubectl.condition(task, "Failed")
    assert (failed["reason"], part in failed["message"]) == (reason, True), failed
    assert attempts(kubectl, task) == [(1, reason)]
    row = final_row(task)
    assert (row["status"], row["error_reason"], row["error_message"]) == ("Failed", reason, failed["message"])


def test_the_log_outlives_the_pod(kubectl: Kubectl, scenes: Apply, rows: Callable[[str], list[Row]]) -> None:
    kubectl.wait("crashed", "Failed")
    task = kubectl.get("trainingtask", "crashed")
    kept = eventually("a log", lambda: (found := rows(task["metadata"]["uid"])) and found[0]["log_tail"])
    (pod,) = kubectl.pods("crashed")
    assert kept == kubectl("logs", pod["metadata"]["name"])
    assert "No module named" in kept


def test_the_table_of_reasons_as_kubectl_shows_it(kubectl: Kubectl, scenes: Apply) -> None:
    lines = kubectl("get", "tt", "-o", "wide").splitlines()
    column = lines[0].index("REASON")
    shown = {line.split()[0]: line[column:].split()[0] for line in lines[1:]}
    print("\n".join(lines))  # pytest -s: for the record
    for task, reason in {
        "no-volume": "VolumeNotFound",
        "gpu-waits": "Unschedulable",
        "crashed": "TrainerCrashed",
    }.items():
        assert shown[task] == reason
