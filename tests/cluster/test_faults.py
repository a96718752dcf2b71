"""What must hold when things break: named by the fault. Killed means SIGKILL."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import specs
from kubectl import Kubectl, Refused, eventually
from tiny_models import tiny_bert

from .conftest import OPERATOR, POSTGRES

Apply = Callable[..., str]
FinalRow = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def slow_spec(offer: Callable[[str, Path], str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A task that trains for as long as a test may need, on a model that needs no memory to speak of."""
    folder = tmp_path_factory.mktemp("checkpoints")
    tiny_bert(folder / "tiny")
    for path in (*tmp_path_factory.getbasetemp().parents, tmp_path_factory.getbasetemp(), folder):
        if path.owner() == Path.home().owner() and path.name.startswith("pytest"):
            path.chmod(0o755)  # pytest's own folders are closed to others, and the trainer is another user
    claim = offer("tiny-checkpoints", folder)
    return specs.changed(
        specs.CLASSICAL,
        model={"name": "bert", "volumeClaim": claim, "checkpoint": "tiny"},
        training={"epochs": 1000, "batchSize": 8},
        runPolicy__retries=0,
    )


@pytest.fixture
def slow_task(kubectl: Kubectl, task: Apply, slow_spec: dict[str, Any]) -> str:
    """A task that is training."""
    name = task("slow", slow_spec)
    eventually("training", lambda: kubectl.status(name).get("training", {}).get("phase") == "Training", 180)
    return name


def kill_operator(system: Kubectl) -> None:
    """SIGKILL the operator's process; the kubelet starts it again. (A pod's first process cannot be killed from inside.)"""
    system("delete", "pod", "--selector=app.kubernetes.io/component=operator", "--grace-period=0", "--force")


def scale(system: Kubectl, what: str, replicas: int) -> None:
    system("scale", what, f"--replicas={replicas}")
    component = "operator" if what == OPERATOR else "history"
    selector = f"app.kubernetes.io/component={component}"

    def settled() -> bool:
        pods = system.find("pods", selector)
        ready = [
            c
            for pod in pods
            for c in pod["status"].get("conditions", [])
            if c["type"] == "Ready" and c["status"] == "True"
        ]
        return len(pods) == len(ready) == replicas

    eventually(f"{what} at {replicas}", settled, 120)


def test_operator_killed_while_a_task_runs(kubectl: Kubectl, system: Kubectl, task: Apply, slow_task: str) -> None:
    before = kubectl.jobs(slow_task)
    kill_operator(system)
    # Meanwhile another task comes and the running one ends: both are the next operator's to notice.
    task("meanwhile", specs.CLASSICAL)
    kubectl.wait("meanwhile", "Complete")
    assert [job["metadata"]["uid"] for job in kubectl.jobs(slow_task)] == [job["metadata"]["uid"] for job in before]
    assert kubectl.status(slow_task)["state"] == "Running"
    assert len(kubectl.pods(slow_task)) == 1


def test_operator_killed_between_the_tasks_creation_and_its_jobs(
    kubectl: Kubectl, system: Kubectl, task: Apply, final_row: FinalRow
) -> None:
    for number in range(3):
        name = task(f"between-{number}", specs.CLASSICAL)
        # The status that names the Job is written just before the Job: kill at its first sight.
        eventually("a Job's name", lambda name=name: kubectl.status(name).get("jobName"))
        kill_operator(system)
        kubectl.wait(name, "Complete")
        assert len(kubectl.jobs(name)) == 1
        assert final_row(name)["status"] == "Succeeded"


def test_operator_away_while_a_task_is_created_named_and_finished(
    kubectl: Kubectl, system: Kubectl, task: Apply, final_row: FinalRow
) -> None:
    """The state of a kill exactly between the status and the Job, made by hand."""
    scale(system, OPERATOR, 0)
    try:
        name = task("orphan", specs.CLASSICAL)
        manifest = json.dumps({"status": {"jobName": "orphan-0123456789", "state": "Pending"}})
        kubectl(
            "patch",
            "trainingtask",
            name,
            "--subresource=status",
            "--type=merge",
            "--patch",
            manifest,
            "--field-manager=trainingtask-operator",
        )
    finally:
        scale(system, OPERATOR, 1)
    kubectl.wait(name, "Complete")
    assert len(kubectl.jobs(name)) == 1
    assert final_row(name)["status"] == "Succeeded"


def test_postgres_stopped_during_a_run(kubectl: Kubectl, system: Kubectl, task: Apply, final_row: FinalRow) -> None:
    scale(system, POSTGRES, 0)
    try:
        name = task("no-database", specs.CLASSICAL)
        kubectl.wait(name, "Complete")
    finally:
        scale(system, POSTGRES, 1)
    row = final_row(name, timeout=60)
    assert row["status"] == "Succeeded"
    assert (
        row["evaluate_result"]["micro"]["f1"]
        == kubectl.status(name)["training"]["results"]["evaluation"]["micro"]["f1"]
    )


def test_job_deleted_by_hand_while_it_trains(kubectl: Kubectl, slow_task: str, final_row: FinalRow) -> None:
    kubectl("delete", "job", f"--selector=trainingtask.dev/task-name={slow_task}", "--wait=false")
    kubectl.wait(slow_task, "Failed")
    assert kubectl.condition(slow_task, "Failed")["reason"] == "JobDeleted"
    assert final_row(slow_task)["error_reason"] == "JobDeleted"
    eventually("no Job", lambda: not kubectl.jobs(slow_task), 120)


def test_suspended_while_it_trains_and_resumed(kubectl: Kubectl, slow_task: str) -> None:
    def suspend(value: bool) -> None:
        kubectl(
            "patch",
            "trainingtask",
            slow_task,
            "--type=merge",
            "--patch",
            json.dumps({"spec": {"runPolicy": {"suspend": value}}}),
        )

    (first,) = kubectl.pods(slow_task)
    suspend(True)
    eventually("no pods", lambda: not kubectl.pods(slow_task), 120)
    assert kubectl.status(slow_task)["state"] == "Suspended"
    suspend(False)
    eventually("Running", lambda: kubectl.status(slow_task)["state"] == "Running", 120)
    (second,) = kubectl.pods(slow_task)
    assert second["metadata"]["uid"] != first["metadata"]["uid"]
    assert kubectl.status(slow_task)["attempt"] == 1, "a pause is no failure"


def test_deadline_passed(kubectl: Kubectl, task: Apply, slow_spec: dict[str, Any], final_row: FinalRow) -> None:
    task("too-slow", specs.changed(slow_spec, runPolicy__activeDeadlineSeconds=15))
    kubectl.wait("too-slow", "Failed")
    assert kubectl.condition("too-slow", "Failed")["reason"] == "DeadlineExceeded"
    assert final_row("too-slow")["error_reason"] == "DeadlineExceeded"


def bound_token(kubectl: Kubectl, pod: dict[str, Any]) -> str:
    """Return a token such as the one mounted into `pod`: it names the pod it was made for."""
    return kubectl(
        "create", "token", "trainingtask-trainer", "--bound-object-kind=Pod",
        f"--bound-object-name={pod['metadata']['name']}", f"--bound-object-uid={pod['metadata']['uid']}",
    ).strip()  # fmt: skip


def apply_status(kubectl: Kubectl, token: str, task: str, status: dict[str, Any]) -> None:
    """Apply a status as a trainer would, with nothing but its token."""
    manifest = {
        "apiVersion": "trainingtask.dev/v1alpha1",
        "kind": "TrainingTask",
        "metadata": {"name": task},
        "status": status,
    }
    kubectl(
        "apply", "--server-side", "--force-conflicts", "--subresource=status", "--field-manager=trainingtask-trainer",
        f"--token={token}", "--kubeconfig=" + anonymous_kubeconfig(), "-f", "-", stdin=json.dumps(manifest),
    )  # fmt: skip


def anonymous_kubeconfig() -> str:
    """Return a kubeconfig with the cluster's address and no credentials, so that only the token speaks."""
    config = json.loads(
        subprocess.run(
            ["kubectl", "config", "view", "--raw", "--minify", "--output=json"], capture_output=True, check=True
        ).stdout
    )
    config["users"] = [{"name": user["name"], "user": {}} for user in config["users"]]
    path = Path(pytest_tmp()) / "anonymous.kubeconfig"
    path.write_text(json.dumps(config), encoding="utf-8")
    return str(path)


def test_a_trainer_speaks_only_for_itself(kubectl: Kubectl, task: Apply) -> None:
    for name in ("mine", "other"):
        task(name, specs.CLASSICAL)
        kubectl.wait(name, "Complete")
    (pod,) = kubectl.pods("mine")
    token = bound_token(kubectl, pod)
    report = {"attempt": 1, "phase": "Done"}

    apply_status(kubectl, token, "mine", {"training": report})
    with pytest.raises(Refused, match="its own pod belongs to"):
        apply_status(kubectl, token, "other", {"training": report})
    condition = {
        "type": "Complete",
        "status": "False",
        "reason": "X",
        "message": "x",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    for lie in ({"state": "Failed"}, {"conditions": [condition]}, {"jobName": "x"}):
        with pytest.raises(Refused, match=r"only write status\.training"):
            apply_status(kubectl, token, "mine", {"training": report, **lie})
    assert kubectl.status("mine")["state"] == "Succeeded"

    # A token of the same account that names no pod speaks for nobody.
    with pytest.raises(Refused, match="its own pod belongs to"):
        apply_status(kubectl, kubectl("create", "token", "trainingtask-trainer").strip(), "mine", {"training": report})
    # And it may do nothing else.
    account = f"--as=system:serviceaccount:{kubectl.namespace}:trainingtask-trainer"
    for verb, kind in (
        ("get", "secrets"),
        ("get", "trainingtasks"),
        ("patch", "trainingtasks"),
        ("create", "pods"),
        ("list", "pods"),
    ):
        with pytest.raises(Refused):
            kubectl("auth", "can-i", verb, kind, account)
