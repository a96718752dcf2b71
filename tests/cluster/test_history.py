"""The history of a task that trained in a pod, as the installed web app shows it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from support import specs
from support.kubectl import Kubectl, eventually
from support.tiny_models import write_tiny_models

LABELS = {"team": "nlp"}
SPEC = {
    "dataset": {"name": "support_tickets", "sampleSize": 300},
    "model": {"name": "distilbert", "checkpoint": "distilbert", "volumeClaim": "tiny-for-history"},
    "training": {"epochs": 3, "batchSize": 16, "warmupFraction": 0.1},
    "resources": {"cpu": "500m"},
}


@pytest.fixture(scope="module")
def make_client(web: str, kubectl: Kubectl) -> Iterator[Callable[[str], httpx.Client]]:
    """Return a function from a ServiceAccount to a client with its token; only `reader` may list and create tasks."""
    rules = [{"apiGroups": ["trainingtask.dev"], "resources": ["trainingtasks"], "verbs": ["list", "create"]}]
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"}
    subjects = [{"kind": "ServiceAccount", "name": "reader", "namespace": kubectl.namespace}]
    rbac = "rbac.authorization.k8s.io/v1"
    kubectl.apply(
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "reader"}},
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "stranger"}},
        {"apiVersion": rbac, "kind": "Role", "metadata": {"name": "reader"}, "rules": rules},
        {"apiVersion": rbac, "kind": "RoleBinding", "metadata": {"name": "reader"}, "roleRef": role, "subjects": subjects},
    )  # fmt: skip
    clients = []

    def client(account: str) -> httpx.Client:
        token = kubectl("create", "token", account).strip()
        clients.append(httpx.Client(base_url=web, headers={"Authorization": f"Bearer {token}"}, timeout=120))
        return clients[-1]

    yield client
    for made in clients:
        made.close()


@pytest.fixture(scope="module")
def uid(kubectl: Kubectl, mount_folder: Callable[[str, Path], str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """Train a task; return its uid."""
    mount_folder("tiny-for-history", write_tiny_models(tmp_path_factory.mktemp("models")))
    task = specs.task("recorded", SPEC, kubectl.namespace)
    task["metadata"]["labels"] = LABELS
    kubectl.apply(task)
    kubectl.wait("recorded", "Complete", timeout=300)
    task_uid: str = kubectl.get("trainingtask", "recorded")["metadata"]["uid"]
    return task_uid


def find_run(client: httpx.Client, uid: str) -> dict[str, Any]:
    def found() -> list[dict[str, Any]]:
        listed = client.get("/api/v1/runs", params={"label": "team=nlp", "state": "Succeeded"})
        assert listed.status_code == 200, listed.text
        return [run for run in listed.json()["items"] if run["task_uid"] == uid]

    # The web app caches access for half a minute.
    (run,) = eventually("the run in the list", found)
    return run


def test_a_run_is_shown_with_curves_and_phases_after_its_task_is_deleted(
    kubectl: Kubectl, make_client: Callable[[str], httpx.Client], uid: str
) -> None:
    results = kubectl.status("recorded")["training"]["results"]
    kubectl("delete", "trainingtask", "recorded", "--wait")
    client = make_client("reader")
    key = find_run(client, uid)["id"]

    run = client.get(f"/api/v1/runs/{key}").json()
    assert (run["name"], run["namespace"], run["labels"]) == ("recorded", kubectl.namespace, LABELS)
    assert (run["score"], run["step"]) == (results["evaluation"]["micro"]["f1"], results["globalStep"])
    assert run["spec"]["model"]["name"] == "distilbert"

    def events() -> list[dict[str, Any]] | None:
        found: list[dict[str, Any]] = client.get(f"/api/v1/runs/{key}/events").json()["items"]
        return found if {"Accepted", "TrainerRunning", "Succeeded"} <= {event["reason"] for event in found} else None

    # The trainer records the end at once, the operator its events in the next batch.
    recorded = eventually("the operator's events", events)
    phases = [event["reason"] for event in recorded if event["type"] == "Phase"]
    assert phases == ["Starting", "Loading", "Preprocessing", "Training", "Evaluating", "Saving", "Done"]
    curves = client.get(f"/api/v1/runs/{key}/metrics").json()
    assert {"training_loss", "learning_rate", "validation_loss", "mean_average_precision"} <= set(
        str(curves).split("'")
    )


def test_forbidden_runs_look_like_missing_ones(make_client: Callable[[str], httpx.Client], uid: str) -> None:
    key = find_run(make_client("reader"), uid)["id"]
    stranger = make_client("stranger")
    assert stranger.get("/api/v1/runs").json()["items"] == []
    absent = "00000000-0000-0000-0000-000000000000"
    for path in ("", "/metrics", "/events"):
        forbidden, missing = (stranger.get(f"/api/v1/runs/{run}{path}") for run in (key, absent))
        assert forbidden.status_code == missing.status_code == 404
        assert forbidden.text == missing.text.replace(absent, key)


def test_a_legacy_request_creates_a_task_that_trains(
    kubectl: Kubectl, make_client: Callable[[str], httpx.Client]
) -> None:
    request = {
        "DATASET_NAME": "support_tickets",
        "MODEL_NAME": "logistic_regression",
        "N_SAMPLE": 300,
        "IS_TRAINER": True,
        "EPOCH": 3,
        "BATCH_SIZE": 8,
        "WEIGHT_DECAY": 0.01,
    }
    where = {"namespace": kubectl.namespace}
    refused = make_client("stranger").post("/", json=request, params=where)
    assert refused.status_code == 403
    assert "stranger" in refused.json()["detail"]
    reader = make_client("reader")
    created = reader.post("/", json=request, params=where)
    assert created.status_code == 201, created.text
    record = created.json()
    kubectl.wait(record["name"], "Complete")

    def ended() -> dict[str, Any] | None:
        answer = reader.get(f"/{record['id']}")
        found: dict[str, Any] = answer.json()
        return found if answer.status_code == 200 and found["finish_time"] else None

    found = eventually("the record of its end", ended)
    assert (found["status"], found["N_SAMPLE"], found["MODEL_NAME"]) == ("Succeeded", 300, "logistic_regression")
    assert found["evaluate_result"]["micro"]["f1"] > 0.5
    assert record["id"] in {item["id"] for item in reader.get("/").json()}
    kubectl("delete", "trainingtask", record["name"])


def test_the_api_requires_a_token(web: str) -> None:
    assert httpx.get(f"{web}/api/v1/runs").status_code == 401
    assert httpx.get(f"{web}/readyz").status_code == 200
