"""A task on a real cluster: trained, failed, suspended, retried, deleted."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support import specs
from support.kubectl import Kubectl, eventually

ROOT = Path(__file__).parents[2]
Apply = Callable[..., str]
FinalRow = Callable[..., dict[str, Any]]


def test_the_quickstart_ends_with_a_model_scores_and_a_row(kubectl: Kubectl, final_row: FinalRow) -> None:
    kubectl("delete", "trainingtask", "quickstart", "--ignore-not-found")
    kubectl("apply", "-f", str(ROOT / "examples" / "quickstart.yaml"))
    kubectl.wait("quickstart", "Complete")

    status = kubectl.status("quickstart")
    evaluation = status["training"]["results"]["evaluation"]
    assert evaluation["micro"]["f1"] > evaluation["labelPrior"]["microF1"]
    assert status["training"]["score"] == f"{evaluation['micro']['f1']:.3f}"

    header, line = kubectl("get", "tt", "quickstart").splitlines()
    assert header.split() == ["NAME", "STATE", "DATASET", "MODEL", "DEVICE", "PROGRESS", "SCORE", "AGE"]
    assert line.split()[:7] == [
        "quickstart",
        "Succeeded",
        "support_tickets",
        "logistic_regression",
        "cpu",
        "100%",
        status["training"]["score"],
    ]
    assert {"LOSS", "ETA", "REASON", "JOB", "NODE"} < set(
        kubectl("get", "tt", "quickstart", "-o", "wide").splitlines()[0].split()
    )
    assert "quickstart" in kubectl("get", "all")

    row = final_row("quickstart")
    assert (row["status"], row["attempt"], row["namespace"], row["name"]) == (
        "Succeeded",
        1,
        kubectl.namespace,
        "quickstart",
    )
    assert row["evaluate_result"]["micro"]["f1"] == evaluation["micro"]["f1"]
    assert row["total_time"] > 0
    assert row["node"] == status["node"]
    assert row["error_reason"] is None


PREDICT = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "predict"},
    "spec": {
        "restartPolicy": "Never",
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 1000,
            "fsGroup": 1000,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "name": "predict",
                "command": ["trainingtask-trainer", "predict", "/models/quickstart"],
                "args": ["The invoice charges my card twice and I want the money back", "--json"],
                "env": [{"name": "HOME", "value": "/tmp"}],
                "volumeMounts": [{"name": "models", "mountPath": "/models", "readOnly": True}],
                "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
            }
        ],
        "volumes": [{"name": "models", "persistentVolumeClaim": {"claimName": "models"}}],
    },
}


def test_the_trained_model_predicts_from_its_claim(kubectl: Kubectl) -> None:
    kubectl("apply", "-f", str(ROOT / "examples" / "quickstart.yaml"))
    kubectl.wait("quickstart", "Complete")
    (job,) = kubectl.jobs("quickstart")
    pod = json.loads(json.dumps(PREDICT))
    pod["spec"]["containers"][0]["image"] = job["spec"]["template"]["spec"]["containers"][0]["image"]
    kubectl("delete", "pod", "predict", "--ignore-not-found")
    kubectl.apply(pod)
    eventually(
        "predict has ended", lambda: kubectl.get("pod", "predict")["status"]["phase"] in ("Succeeded", "Failed"), 120
    )
    output = kubectl("logs", "predict")
    assert "billing" in json.dumps(json.loads(output.splitlines()[-1])), output
    kubectl("delete", "pod", "predict", "--wait=false")


def test_a_users_mistake_has_one_message_everywhere_and_is_not_retried(
    kubectl: Kubectl, task: Apply, empty_claim: str, final_row: FinalRow
) -> None:
    task("no-such-data", specs.changed(specs.TABLE, dataset__volumeClaim=empty_claim, dataset__path="no/such.csv"))
    kubectl.wait("no-such-data", "Failed")
    failed = kubectl.condition("no-such-data", "Failed")
    assert failed["reason"] == "DatasetNotFound"
    assert "no/such.csv" in failed["message"]
    assert failed["message"] in kubectl("describe", "trainingtask", "no-such-data")
    row = final_row("no-such-data")
    assert (row["status"], row["error_reason"], row["error_message"]) == ("Failed", failed["reason"], failed["message"])
    assert len(kubectl.pods("no-such-data")) == 1
    notes = [
        event["note"] for event in kubectl.find("events.events.k8s.io") if event.get("reason") == "DatasetNotFound"
    ]
    assert notes == [failed["message"]]


def test_data_that_the_trainer_may_not_read_is_named(
    kubectl: Kubectl, task: Apply, mount_folder: Callable[[str, Path], str], tmp_path: Path
) -> None:
    closed = tmp_path / "closed.csv"
    closed.write_text("text,labels\na,b\n", encoding="utf-8")
    claim = mount_folder("closed", tmp_path)
    closed.chmod(0o600)
    task("closed-data", specs.changed(specs.TABLE, dataset__volumeClaim=claim, dataset__path="closed.csv"))
    kubectl.wait("closed-data", "Failed")
    assert "closed.csv may not be read by user 1000" in kubectl.condition("closed-data", "Failed")["message"]


def test_out_of_memory_is_retried_named_and_each_attempt_has_a_row(
    kubectl: Kubectl, task: Apply, final_row: FinalRow, rows: Callable[[str], list[dict[str, Any]]]
) -> None:
    task("too-small", specs.changed(specs.CLASSICAL, resources={"memory": "48Mi"}, runPolicy__retries=1))
    kubectl.wait("too-small", "Failed")
    failed = kubectl.condition("too-small", "Failed")
    assert failed["reason"] == "RetriesExhausted"
    assert "The last failure was OOMKilled" in failed["message"]
    assert "48Mi" in failed["message"]
    assert "spec.resources.memory" in failed["message"]
    final_row("too-small")
    found = rows(kubectl.get("trainingtask", "too-small")["metadata"]["uid"])
    assert [(row["attempt"], row["status"], row["error_reason"]) for row in found] == [
        (1, "Failed", "OOMKilled"),
        (2, "Failed", "OOMKilled"),
    ]


def test_a_gpu_task_on_a_cluster_without_gpus_is_unschedulable(kubectl: Kubectl, task: Apply) -> None:
    task(
        "wants-gpu",
        specs.changed(specs.TRANSFORMER, device="gpu", resources={"gpus": 1, "memory": "1Gi", "cpu": "100m"}),
    )
    reason = eventually(
        "a reason", lambda: (c := kubectl.condition("wants-gpu", "Running")).get("reason") == "Unschedulable" and c
    )
    assert "nvidia.com/gpu" in reason["message"]
    assert "nvidia.com/gpu" in kubectl("describe", "trainingtask", "wants-gpu")


def test_a_suspended_task_runs_when_it_is_resumed(kubectl: Kubectl, task: Apply) -> None:
    task("later", specs.changed(specs.CLASSICAL, runPolicy__suspend=True))
    eventually("Suspended", lambda: kubectl.condition("later", "Suspended").get("status") == "True")
    assert kubectl.pods("later") == []
    kubectl("patch", "trainingtask", "later", "--type=merge", "--patch", '{"spec": {"runPolicy": {"suspend": false}}}')
    kubectl.wait("later", "Complete")
    assert kubectl.condition("later", "Suspended")["status"] == "False"


def test_the_ttl_removes_the_job_and_the_task_only_if_it_says_so(
    kubectl: Kubectl, task: Apply, rows: Callable[[str], list[dict[str, Any]]]
) -> None:
    task("tidy", specs.changed(specs.CLASSICAL, runPolicy__ttlSecondsAfterFinished=1))
    kubectl.wait("tidy", "Complete")
    eventually("no Job", lambda: not kubectl.jobs("tidy"))
    eventually("no pods", lambda: not kubectl.pods("tidy"))
    found = kubectl.get("trainingtask", "tidy")
    assert (found["status"]["state"], found["status"]["training"]["phase"]) == ("Succeeded", "Done")
    kubectl("patch", "trainingtask", "tidy", "--type=merge", "--patch", '{"spec": {"runPolicy": {"deleteTask": true}}}')
    eventually("no task", lambda: not kubectl("get", "trainingtask", "tidy", "--ignore-not-found"))
    assert [row["status"] for row in rows(found["metadata"]["uid"])] == ["Succeeded"]


def test_a_deleted_task_leaves_no_job_and_a_cancelled_row(
    kubectl: Kubectl, task: Apply, rows: Callable[[str], list[dict[str, Any]]]
) -> None:
    task("gone", specs.changed(specs.CLASSICAL, runPolicy__queueName="nowhere"))
    eventually("a Job", lambda: kubectl.jobs("gone"))
    uid = kubectl.get("trainingtask", "gone")["metadata"]["uid"]
    kubectl("delete", "trainingtask", "gone")
    eventually("no Job", lambda: not kubectl.jobs("gone"))
    eventually("a Cancelled row", lambda: [row["status"] for row in rows(uid)] == ["Cancelled"])
