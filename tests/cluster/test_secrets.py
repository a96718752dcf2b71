"""No failure shows a secret: not in statuses, events, logs, settings or rows."""

import base64
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from support import specs
from support.kubectl import Kubectl, eventually
from support.release import OPERATOR, POSTGRES, RELEASE, SYSTEM
from trainingtask_api import names

# User code that fails with a traceback.
CRASH = """\
import os

class Crash:
    preprocessor, packages = "tfidf", ()

    def __init__(self, spec, places):
        pass

    def arguments(self):
        return {}

    def fit(self, rows, preprocessor, progress, checkpoints):
        client = {"token": os.environ["HF_TOKEN"]}
        raise RuntimeError("a defect beside a secret")

    predict = save = load = fit
"""
SMALL = {"resources": {"cpu": "250m", "memory": "1Gi"}, "runPolicy": {"retries": 0}}
TASKS = ("secret-dataset", "secret-model", "secret-crash", "secret-memory")


@pytest.fixture(scope="module")
def canaries() -> dict[str, str]:
    return {name: f"canary{uuid.uuid4().hex}" for name in ("hub token", "wrong database password")}


@pytest.fixture(scope="module")
def wrong_password(kubectl: Kubectl, canaries: dict[str, str]) -> Iterator[None]:
    """Give trainers a database URL with a wrong password."""
    url = read_secret(kubectl, names.HISTORY_SECRET)[names.HISTORY_SECRET_KEY]
    user, _, server = url.partition("@")
    wrong = f"{user.rpartition(':')[0]}:{canaries['wrong database password']}@{server}"
    write_secret(kubectl, names.HISTORY_SECRET, {names.HISTORY_SECRET_KEY: wrong})
    yield
    write_secret(kubectl, names.HISTORY_SECRET, {names.HISTORY_SECRET_KEY: url})


@pytest.fixture(scope="module")
def failed(
    kubectl: Kubectl, wrong_password: None, empty_hub: dict[str, Any], canaries: dict[str, str]
) -> Iterator[None]:
    """Run tasks into every failure of a trainer that has a token and a password."""
    kubectl.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "crash"}, "data": {"crash.py": CRASH}})
    kubectl.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "hub"}})
    write_secret(kubectl, "hub", {"token": canaries["hub token"]})
    env = [{"name": "HF_TOKEN", "secretKeyRef": {"name": "hub", "key": "token"}}, empty_hub]
    parts = {
        "dataset": specs.changed(specs.CLASSICAL, dataset={"name": "go_emotions", "hub": {"id": "nobody/nothing"}}),
        "model": specs.changed(specs.CLASSICAL, model={"name": "bert", "checkpoint": "nobody/nothing"}),
        "crash": specs.changed(specs.CLASSICAL, model={"name": "crash:Crash"}, code={"configMap": "crash"}),
        "memory": specs.CLASSICAL,
    }
    for name, spec in parts.items():
        task = specs.task(f"secret-{name}", spec | SMALL | {"env": env}, kubectl.namespace)
        if name == "memory":
            task["spec"]["resources"] = {"cpu": "250m", "memory": "48Mi"}
        kubectl.apply(task)
    for name in TASKS:
        eventually(f"{name} has failed", lambda name=name: kubectl.status(name).get("state") == "Failed", 300)
    yield
    kubectl("delete", "trainingtask", *TASKS, "--wait=false")


def read_secret(kubectl: Kubectl, secret: str) -> dict[str, str]:
    return {key: base64.b64decode(value).decode() for key, value in kubectl.get("secret", secret)["data"].items()}


def write_secret(kubectl: Kubectl, secret: str, values: dict[str, str]) -> None:
    """Write into a Secret without the annotation of the values that `kubectl apply` leaves."""
    data = ",".join(f'"{key}":"{base64.b64encode(value.encode()).decode()}"' for key, value in values.items())
    kubectl("patch", "secret", secret, "--type=merge", "--patch", f'{{"data":{{{data}}}}}')


def test_failures_are_reported_without_secrets(
    kubectl: Kubectl,
    system: Kubectl,
    failed: None,
    canaries: dict[str, str],
    rows: Callable[[str], list[dict[str, Any]]],
) -> None:
    reasons = {name: kubectl.condition(name, "Failed")["reason"] for name in TASKS}
    assert reasons == {
        "secret-dataset": "DatasetUnavailable",
        "secret-model": "ModelUnavailable",
        "secret-crash": "TrainerCrashed",
        "secret-memory": "OOMKilled",
    }
    uids = [kubectl.get("trainingtask", name)["metadata"]["uid"] for name in TASKS]
    eventually("rows with the ends of the logs", lambda: all(rows(u) and rows(u)[-1]["log_tail"] for u in uids[:3]))

    secrets = canaries | {
        f"{secret} {key}": value
        for secret in (f"{RELEASE}-postgres", f"{RELEASE}-postgres-tls")
        for key, value in read_secret(system, secret).items()
        if key not in ("ca.crt", "tls.crt")
    }
    tables = ("training_run", "run_event", "metric_point")
    query = "; ".join(f"select row_to_json(r) from {table} r" for table in tables)
    seen = {
        "tasks": kubectl("get", "trainingtasks", "--output=yaml"),
        "described": kubectl("describe", "trainingtasks"),
        "jobs and pods": kubectl("get", "jobs,pods", "--output=yaml"),
        "events": kubectl("get", "events", "--output=yaml"),
        "trainers' logs": "".join(kubectl("logs", f"--selector={names.TASK_NAME_LABEL}={name}", "--tail=-1") for name in TASKS),
        "operator's log": system("logs", OPERATOR, "--tail=-1"),
        "web app's log": system("logs", f"deployment/{RELEASE}-web", "--tail=-1"),
        "settings": system("get", "configmaps", "--output=yaml"),
        "rows": system("exec", POSTGRES, "--", "psql", "-U", "postgres", "-d", "trainingtask", "-Atc", query),
    }  # fmt: skip
    assert "a defect beside a secret" in seen["trainers' logs"]
    assert "a defect beside a secret" in seen["rows"]
    assert "did not answer" in seen["trainers' logs"] or "refused" in seen["trainers' logs"]
    leaks = [(place, secret) for place, text in seen.items() for secret, value in secrets.items() if value in text]
    assert leaks == []
    assert SYSTEM in seen["settings"]
