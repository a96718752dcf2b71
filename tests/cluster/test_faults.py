"""Faults on the cluster, each test named by its fault. Killed means SIGKILL."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support import specs
from support.kubectl import Kubectl, Refused, eventually
from support.release import OPERATOR, POSTGRES
from support.tiny_models import write_tiny_models
from support.trainer_processes import kill_trainer
from support.trainer_tokens import ReportAs, bound_token

Apply = Callable[..., str]
FinalRow = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def slow_spec(
    mount_folder: Callable[[str, Path], str], empty_claim: str, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """Return the spec of a task that trains for longer than any test, on a tiny model."""
    folder = write_tiny_models(tmp_path_factory.mktemp("checkpoints"))
    claim = mount_folder("tiny-checkpoints", folder)
    return specs.changed(
        specs.CLASSICAL,
        model={"name": "bert", "volumeClaim": claim, "checkpoint": "bert"},
        training={"epochs": 1000, "batchSize": 8, "checkpointSteps": 5},
        output={"volumeClaim": empty_claim},
        runPolicy__retries=0,
    )


@pytest.fixture
def slow_task(kubectl: Kubectl, task: Apply, slow_spec: dict[str, Any]) -> str:
    """Start a task, wait until it trains, and return its name."""
    name = task("slow", slow_spec)
    kubectl.wait_for_training(name)
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

    eventually(f"{what} at {replicas}", settled)


def test_operator_killed_while_a_task_runs(kubectl: Kubectl, system: Kubectl, task: Apply, slow_task: str) -> None:
    before = kubectl.jobs(slow_task)
    kill_operator(system)
    # Without an operator a task is created and another ends: the next operator must notice both.
    task("meanwhile", specs.CLASSICAL)
    kubectl.wait("meanwhile", "Complete")
    assert [job["metadata"]["uid"] for job in kubectl.jobs(slow_task)] == [job["metadata"]["uid"] for job in before]
    assert kubectl.status(slow_task)["state"] == "Running"
    assert len(kubectl.pods(slow_task)) == 1


@pytest.mark.full
def test_operator_killed_as_soon_as_a_task_has_its_job(
    kubectl: Kubectl, system: Kubectl, task: Apply, final_row: FinalRow
) -> None:
    name = task("at-once", specs.CLASSICAL)
    eventually("a Job", lambda: kubectl.jobs(name))
    kill_operator(system)
    kubectl.wait(name, "Complete")
    assert len(kubectl.jobs(name)) == 1
    assert final_row(name)["status"] == "Succeeded"


@pytest.mark.full
def test_operator_away_while_a_task_is_created_named_and_finished(
    kubectl: Kubectl, system: Kubectl, task: Apply, final_row: FinalRow
) -> None:
    """Simulate a kill exactly between the write of the status and the creation of the Job."""
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
    assert kubectl.status(name)["training"]["phase"] == "Done", (
        "the trainer was let in, so its Job's name is right again"
    )
    assert final_row(name)["status"] == "Succeeded"


def test_postgres_stopped_during_a_run(kubectl: Kubectl, system: Kubectl, task: Apply, final_row: FinalRow) -> None:
    scale(system, POSTGRES, 0)
    try:
        name = task("no-database", specs.CLASSICAL)
        kubectl.wait(name, "Complete")
    finally:
        scale(system, POSTGRES, 1)
    row = final_row(name)
    assert row["status"] == "Succeeded"
    assert (
        row["evaluate_result"]["micro"]["f1"]
        == kubectl.status(name)["training"]["results"]["evaluation"]["micro"]["f1"]
    )


def test_trainer_killed_resumes_from_its_checkpoint(kubectl: Kubectl, task: Apply, slow_spec: dict[str, Any]) -> None:
    name = task("killed", specs.changed(slow_spec, runPolicy__retries=1))
    reached = kubectl.wait_for_step(name, 10)
    (pod,) = kubectl.pods(name)
    kill_trainer(pod["metadata"]["name"])
    resumed = eventually("resumes", lambda: kubectl.status(name)["training"].get("resumedFromStep"))
    assert resumed >= reached - 5
    status = kubectl.status(name)
    first, second = status["attempts"]
    assert (first["number"], first["reason"], first["exitCode"]) == (1, "TrainerCrashed", 137)
    assert first["startTime"] < first["finishTime"] < second["startTime"]
    assert (first["node"], second["node"]) == (status["node"], status["node"])
    assert (status["attempt"], status["training"]["attempt"], status["state"]) == (2, 2, "Running")


def test_task_deleted_while_it_trains(
    kubectl: Kubectl, slow_task: str, rows: Callable[[str], list[dict[str, Any]]]
) -> None:
    uid = kubectl.get("trainingtask", slow_task)["metadata"]["uid"]
    kubectl("delete", "trainingtask", slow_task)
    eventually("a Cancelled row", lambda: [row["status"] for row in rows(uid)] == ["Cancelled"])
    eventually("no pods", lambda: not kubectl.pods(slow_task))
    assert kubectl.jobs(slow_task) == []
    (row,) = rows(uid)
    assert (row["error_reason"], row["attempt"]) == ("Cancelled", 1)
    assert row["start_time"] < row["finish_time"]
    assert row["log_tail"], "the log is kept"


@pytest.mark.full
def test_job_deleted_by_hand_while_it_trains(kubectl: Kubectl, slow_task: str, final_row: FinalRow) -> None:
    kubectl("delete", "job", f"--selector=trainingtask.dev/task-name={slow_task}", "--wait=false")
    kubectl.wait(slow_task, "Failed")
    assert kubectl.condition(slow_task, "Failed")["reason"] == "JobDeleted"
    assert final_row(slow_task)["error_reason"] == "JobDeleted"
    eventually("no Job", lambda: not kubectl.jobs(slow_task))


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
    reached = kubectl.wait_for_step(slow_task, 10)
    suspend(True)
    eventually("no pods", lambda: not kubectl.pods(slow_task))
    assert kubectl.status(slow_task)["state"] == "Suspended"
    suspend(False)
    eventually("Running", lambda: kubectl.status(slow_task)["state"] == "Running")
    (second,) = kubectl.pods(slow_task)
    assert second["metadata"]["uid"] != first["metadata"]["uid"]
    assert kubectl.status(slow_task)["attempt"] == 1, "a suspension is no failure"
    resumed = eventually("resumes", lambda: kubectl.status(slow_task)["training"].get("resumedFromStep"))
    assert resumed >= reached, "the last step, written within the grace period"


@pytest.mark.full
def test_deadline_passed(kubectl: Kubectl, task: Apply, slow_spec: dict[str, Any], final_row: FinalRow) -> None:
    task("too-slow", specs.changed(slow_spec, runPolicy__activeDeadlineSeconds=15))
    kubectl.wait("too-slow", "Failed")
    assert kubectl.condition("too-slow", "Failed")["reason"] == "DeadlineExceeded"
    assert final_row("too-slow")["error_reason"] == "DeadlineExceeded"


def test_a_trainer_can_report_only_on_its_own_task(kubectl: Kubectl, task: Apply, report_as: ReportAs) -> None:
    for name in ("mine", "other"):
        task(name, specs.CLASSICAL)
        kubectl.wait(name, "Complete")
    (pod,) = kubectl.pods("mine")
    token = bound_token(kubectl, pod)
    report = {"attempt": 1, "phase": "Done"}

    flow = report_as(token, "mine", {"training": report})
    (schema,) = kubectl.find("flowschema", "app.kubernetes.io/component=trainer")
    assert flow == schema["metadata"]["uid"], "a thousand trainers must not crowd out others at the API server"
    with pytest.raises(Refused, match="its own pod belongs to"):
        report_as(token, "other", {"training": report})
    condition = {
        "type": "Complete",
        "status": "False",
        "reason": "X",
        "message": "x",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    for forged in ({"state": "Failed"}, {"conditions": [condition]}, {"jobName": "x"}):
        with pytest.raises(Refused, match=r"only write status\.training"):
            report_as(token, "mine", {"training": report, **forged})
    assert kubectl.status("mine")["state"] == "Succeeded"

    # A token of the same account without a pod may report on no task.
    with pytest.raises(Refused, match="its own pod belongs to"):
        report_as(kubectl("create", "token", "trainingtask-trainer").strip(), "mine", {"training": report})
    # The account has no other rights.
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
