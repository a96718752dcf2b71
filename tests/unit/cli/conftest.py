"""A fake API server, the kubeconfig that names it, and tasks as it shows them."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from support import specs
from support.fake_api_server import FakeApiServer, Object, make_kubeconfig, serve_fake_api, status
from support.fake_kubectl import FakeKubectl, prepare_namespace
from support.results import RESULTS
from trainingtask_cli.__main__ import app

TOKEN = "the-users-token"


@pytest.fixture
def server() -> Iterator[FakeApiServer]:
    with serve_fake_api() as server:
        yield server


def kubeconfig_of(url: str) -> Object:
    return make_kubeconfig(url, TOKEN, "team-a")


@pytest.fixture
def kubeconfig(server: FakeApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The kubeconfig of the server, which is the current one."""
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(kubeconfig_of(server.url)))
    monkeypatch.setenv("KUBECONFIG", str(path))
    return path


@pytest.fixture
def cli(kubeconfig: Path) -> Callable[..., Any]:
    """Run a command; its result has `exit_code`, `stdout` and `stderr`."""

    def run(*arguments: str, stdin: str | None = None) -> Any:
        result = CliRunner().invoke(app, list(arguments), input=stdin, prog_name="kubectl trainingtask")
        # No command may end with a traceback.
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
        return result

    return run


@pytest.fixture
def kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: FakeApiServer) -> FakeKubectl:
    """A kubectl on the PATH, and a namespace in which helper pods may run; the working directory is the test's."""
    fake = FakeKubectl(tmp_path / "kubectl")
    monkeypatch.setenv("PATH", f"{fake.folder}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    prepare_namespace(server)
    return fake


def at_time(minutes: float) -> str:
    """Return a time on the tests' day, as the API server writes it."""
    return f"2026-05-04T10:{int(minutes):02d}:{round(minutes % 1 * 60):02d}Z"


def make_task(name: str, state: str = "", *, namespace: str = "team-a", reason: str = "", **more: Any) -> Object:
    """Return a task as the API server returns it; `more` are fields of its status, `spec` changes its spec."""
    spec = specs.changed(specs.CLASSICAL, **{"device": "cpu", "training__seed": 42, **more.pop("spec", {})})
    kinds = {"Running": "Running", "Succeeded": "Complete", "Failed": "Failed", "Pending": "Running"}
    conditions = [make_condition("Accepted", "True", "Accepted", "The task is valid; its Job is created.", 0)]
    if state:
        value = "False" if state == "Pending" else "True"
        conditions.append(make_condition(kinds[state], value, reason or state, f"{name} is {state}.", 1))
    state_fields = {"state": state, "reason": reason or state, "conditions": conditions} if state else {}
    metadata = {
        "name": name,
        "namespace": namespace,
        "uid": f"uid-{namespace}-{name}",
        "creationTimestamp": at_time(0),
        "managedFields": [{"manager": "kubectl"}],
    }
    task = specs.task(name, spec, namespace) | {"metadata": metadata, "status": state_fields | more}
    return task if task["status"] else {key: value for key, value in task.items() if key != "status"}


def make_condition(kind: str, value: str, reason: str, message: str, minute: float) -> Object:
    return {
        "type": kind,
        "status": value,
        "reason": reason,
        "message": message,
        "lastTransitionTime": at_time(minute),
        "observedGeneration": 1,
    }


def make_report(phase: str = "Training", **more: Any) -> Object:
    """Return the report of a running trainer."""
    report = {"attempt": 1, "phase": phase, "epoch": 2, "epochs": 3, "step": 42, "totalSteps": 100, "progress": "42%"}
    return {**report, "loss": 0.21, "samplesPerSecond": 12.5, "eta": "2m10s", **more}


def make_result(f1: float = 0.5454, **more: Any) -> Object:
    """Return the report of a finished trainer."""
    results = RESULTS.to_json()
    results["evaluation"]["micro"]["f1"] = f1
    done = {"attempt": 1, "phase": "Done", "progress": "100%", "score": f"{f1:.3f}"}
    return {**done, "results": results | {"warnings": ["rare labels were not learnt"], **more}}


@pytest.fixture
def make() -> SimpleNamespace:
    """Factories of tasks, conditions and reports."""
    return SimpleNamespace(
        task=make_task,
        condition=make_condition,
        report=make_report,
        result=make_result,
        status=status,
        kubeconfig=kubeconfig_of,
    )
