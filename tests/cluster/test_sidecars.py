"""Trainers in pods with a container that a webhook injects, as service meshes do.

The first test applies all tasks, so that they run in parallel.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from support import specs
from support.kubectl import Kubectl, eventually
from support.release import OPERATOR
from support.sidecars import CLASSIC, NATIVE, SIDECAR, inject_sidecars

Row = dict[str, Any]
SIZE = {"cpu": "250m", "memory": "1Gi"}
SIDECARS = {"native": NATIVE, "beside": CLASSIC, "refused": CLASSIC, "crashes": CLASSIC}


@pytest.fixture(scope="module")
def tasks(
    kubectl: Kubectl, system: Kubectl, empty_claim: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """Apply all tasks at once, each with a sidecar."""
    operator = json.loads(system("get", OPERATOR, "--output=json"))
    no_trainer = operator["spec"]["template"]["spec"]["containers"][0]["image"]
    certificate = tmp_path_factory.mktemp("webhook") / "webhook.pem"
    with inject_sidecars(kubectl, no_trainer, SIDECARS, certificate):
        changes: dict[str, dict[str, Any]] = {
            "native": {},
            "beside": {},
            "refused": {"dataset": {"name": "table", "volumeClaim": empty_claim, "path": "none.csv"}},
            "crashes": {"image": no_trainer, "runPolicy__retries": 1},
        }
        for name, changed in changes.items():
            kubectl.apply(
                specs.task(name, specs.changed(specs.CLASSICAL, resources=SIZE, **changed), kubectl.namespace)
            )
        yield
        kubectl("delete", "trainingtask", *SIDECARS, "--ignore-not-found", "--wait=false")


def wait_for_sidecar(kubectl: Kubectl, task: str) -> str:
    """Wait until the status of a task names the sidecar; return the message."""

    def running() -> dict[str, Any] | None:
        found = kubectl.condition(task, "Running")
        return found if found.get("reason") == "SidecarRunning" else None

    return str(eventually(f"{task}: SidecarRunning", running)["message"])


@pytest.mark.full
def test_a_native_sidecar_ends_with_the_trainer(kubectl: Kubectl, tasks: None, final_row: Callable[..., Row]) -> None:
    kubectl.wait("native", "Complete")
    (pod,) = kubectl.pods("native")
    assert [c["name"] for c in pod["spec"]["initContainers"]] == [SIDECAR]
    assert pod["status"]["phase"] == "Succeeded"
    (job,) = kubectl.jobs("native")
    assert job["status"]["succeeded"] == 1
    assert final_row("native")["status"] == "Succeeded"


def test_a_success_beside_a_classic_sidecar_completes_the_task(
    kubectl: Kubectl, tasks: None, final_row: Callable[..., Row]
) -> None:
    message = wait_for_sidecar(kubectl, "beside")
    assert f"{SIDECAR!r}" in message
    assert "trainer.podAnnotations" in message
    (pod,) = kubectl.pods("beside")
    assert pod["status"]["phase"] == "Running"
    kubectl.wait("beside", "Complete")
    status, row = kubectl.status("beside"), final_row("beside")
    assert (status["attempts"][0]["exitCode"], len(status["attempts"])) == (0, 1)
    assert status["training"]["results"]["evaluation"]["micro"]["f1"] == row["evaluate_result"]["micro"]["f1"]
    assert row["status"] == "Succeeded"
    eventually("its log", lambda: final_row("beside")["log_tail"])  # the trainer's own row is final before it
    eventually("neither Job nor pod is left", lambda: not kubectl.jobs("beside") and not kubectl.pods("beside"))


def test_a_users_error_beside_a_classic_sidecar_is_not_tried_again(
    kubectl: Kubectl, tasks: None, final_row: Callable[..., Row]
) -> None:
    kubectl.wait("refused", "Failed")
    failed, (attempt,) = kubectl.condition("refused", "Failed"), kubectl.status("refused")["attempts"]
    assert (attempt["exitCode"], attempt["reason"], failed["reason"]) == (64, *["DatasetNotFound"] * 2)
    (job,) = kubectl.jobs("refused")
    assert "PodFailurePolicy" in [condition["reason"] for condition in job["status"]["conditions"]]
    row = final_row("refused")
    assert (row["status"], row["error_reason"]) == ("Failed", failed["reason"])


def test_a_crash_beside_a_classic_sidecar_is_tried_again_and_counted(
    kubectl: Kubectl, tasks: None, final_row: Callable[..., Row], rows: Callable[[str], list[Row]]
) -> None:
    kubectl.wait("crashes", "Failed")
    attempts = kubectl.status("crashes")["attempts"]
    assert [(a["number"], a["exitCode"], a["reason"]) for a in attempts] == [
        (1, 1, "TrainerCrashed"),
        (2, 1, "TrainerCrashed"),
    ]
    assert kubectl.condition("crashes", "Failed")["reason"] == "RetriesExhausted"
    final_row("crashes")
    found = rows(kubectl.get("trainingtask", "crashes")["metadata"]["uid"])
    assert [(row["attempt"], row["status"], bool(row["log_tail"])) for row in found] == [
        (1, "Failed", True),
        (2, "Failed", True),
    ]
