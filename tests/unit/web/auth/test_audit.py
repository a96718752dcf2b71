"""The audit log: one line per event, which cannot be forged and holds no token."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from fastapi.testclient import TestClient
from pydantic import ValidationError
from sqlalchemy import Engine

from support.fake_api_server import OWN_TOKEN, FakeApiServer, make_kubeconfig
from support.kubectl import eventually
from support.ports import free_port
from trainingtask_web.auth.rate_limit import MAX_FAILURES

Client = Callable[..., TestClient]
Lines = Callable[[], list[dict[str, Any]]]
API = "/api/v1/runs"
HERE = {"Origin": "https://runs.example.com"}
TASK = {"DATASET_NAME": "go_emotions", "MODEL_NAME": "random_forest"}


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Lines:
    """Return a function that returns the lines so far, without their times."""
    caplog.set_level(logging.INFO, "trainingtask_web.auth.audit")

    def lines() -> list[dict[str, Any]]:
        messages = [record.getMessage() for record in caplog.records if record.name == "trainingtask_web.auth.audit"]
        assert not [message for message in messages if "token-of" in message or "\n" in message]
        found = [json.loads(message) for message in messages]
        for line in found:
            assert abs(datetime.now(UTC) - datetime.fromisoformat(line.pop("time"))) < timedelta(minutes=1)
        return found

    return lines


def line(event: str, result: str, user: str | None, **details: Any) -> dict[str, Any]:
    return {"event": event, "result": result, "user": user, "address": "testclient", **details}


def test_sign_in_and_sign_out_are_audited(client: Client, history: Engine, lines: Lines) -> None:
    browser = client(history)
    browser.post("/session", data={"token": "token-of-ann"}, headers=HERE)
    browser.get("/runs")
    browser.post("/session/end", headers=HERE)
    browser.post("/session/end", headers=HERE)
    assert lines() == [line("sign-in", "ok", "ann"), line("sign-out", "ok", "ann")]


def test_unknown_tokens_are_audited_up_to_the_limit(client: Client, history: Engine, lines: Lines) -> None:
    app = client(history)
    app.post("/session", data={"token": "token-of-nobody"}, headers=HERE)
    for number in range(100):
        app.get(API, headers={"Authorization": f"Bearer token-of-nobody-{number}"})
    assert lines() == [line("authenticate", "refused", None)] * (MAX_FAILURES - 1) + [
        line("authenticate", "limited", None)
    ]


def test_created_and_refused_tasks_are_audited(
    client: Client, history: Engine, kubernetes: FakeApiServer, lines: Lines
) -> None:
    ann, bob = client(history, "token-of-ann"), client(history, "token-of-bob")
    name = ann.post("/?namespace=team-a", json=TASK).json()["name"]
    bob.post("/?namespace=team-a", json=TASK)
    kubernetes.reject_tasks(422, 'spec.model: "\nevil" is refused' + "x" * 1000)
    ann.post("/?namespace=team-a", json=TASK)
    created, forbidden, refused = lines()
    assert created == line("create", "ok", "ann", namespace="team-a", name=name)
    assert (forbidden["user"], forbidden["result"], forbidden["status"]) == ("bob", "refused", 403)
    assert "cannot create resource" in forbidden["reason"]
    assert (refused["status"], len(refused["reason"])) == (422, 300)


def test_a_creation_of_unknown_outcome_is_audited(
    client: Client, history: Engine, kubernetes: FakeApiServer, lines: Lines
) -> None:
    ann = client(history, "token-of-ann")
    ann.get(API)
    kubernetes.fail("trainingtasks")
    assert ann.post("/?namespace=team-a", json=TASK).status_code == 503
    (unknown,) = lines()
    assert (unknown["event"], unknown["result"], unknown["user"]) == ("create", "unknown", "ann")
    assert unknown["name"].startswith("random-forest-")
    assert "failed to create a task" in unknown["reason"]


def test_a_created_task_is_audited_before_the_answer_is_parsed(
    client: Client, history: Engine, kubernetes: FakeApiServer, lines: Lines
) -> None:
    ann = client(history, "token-of-ann")
    kubernetes.reject_tasks(201, "an answer that is no task")
    with pytest.raises(ValidationError):
        ann.post("/?namespace=team-a", json=TASK)
    assert [(line["event"], line["result"]) for line in lines()] == [("create", "ok")]


def test_a_cross_site_creation_is_audited(client: Client, history: Engine, lines: Lines) -> None:
    browser = client(history)
    browser.post("/session", data={"token": "token-of-ann"}, headers=HERE)
    browser.post("/?namespace=team-a", json=TASK, headers={"Origin": "https://evil.example"})
    refused = lines()[-1]
    assert (refused["event"], refused["result"], refused["user"], refused["status"]) == (
        "create",
        "refused",
        "ann",
        403,
    )


def test_a_user_name_cannot_forge_an_audit_line(
    client: Client, history: Engine, kubernetes: FakeApiServer, caplog: pytest.LogCaptureFixture, lines: Lines
) -> None:
    name = 'eve\n{"event": "sign-in", "user": "admin"}\r\x1b[2J\u2028\u202e"' + "x" * 1000
    kubernetes.add_user("token-of-hostile", name)
    client(history).post("/session", data={"token": "token-of-hostile"}, headers=HERE)
    assert lines() == [line("sign-in", "ok", name[:300])]
    (message,) = [record.getMessage() for record in caplog.records if record.name == "trainingtask_web.auth.audit"]
    assert message.isascii()
    assert message.isprintable()


@pytest.mark.parametrize(("proxies", "address"), [("", "127.0.0.1"), ("10.0.0.0/8,127.0.0.1", "192.0.2.7")])
def test_standard_output_holds_only_the_audit_log(
    history: Engine, kubernetes: FakeApiServer, tmp_path: Path, proxies: str, address: str
) -> None:
    """As a process: X-Forwarded-For counts from a trusted proxy alone, and its last untrusted address is used."""
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(make_kubeconfig(kubernetes.url, OWN_TOKEN)))
    port = free_port()
    environment = {
        **{name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ},
        "KUBECONFIG": str(tmp_path / "kubeconfig"),
        "TRAININGTASK_HISTORY_URL": str(history.url),
        "TRAININGTASK_WEB_PORT": str(port),
        "TRAININGTASK_WEB_TRUSTED_PROXIES": proxies,
    }
    command = [sys.executable, "-m", "trainingtask_web"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as web:
        address_of_web = f"http://127.0.0.1:{port}"

        def answers() -> bool:
            assert web.poll() is None
            try:
                return httpx.get(f"{address_of_web}/readyz").is_success
            except httpx.TransportError:
                return False

        try:
            eventually("the web app answers", answers)
            here = {"Origin": address_of_web, "X-Forwarded-For": "198.51.100.1, 192.0.2.7, 10.1.2.3"}
            httpx.post(f"{address_of_web}/session", data={"token": "token-of-ann"}, headers=here, timeout=120)
            httpx.post(f"{address_of_web}/session", data={"token": "token-of-nobody"}, headers=here, timeout=120)
        finally:
            web.terminate()
        output, errors = web.communicate(timeout=120)
    first, second = [json.loads(line) for line in output.splitlines()]
    assert (first["event"], first["user"], first["address"]) == ("sign-in", "ann", address)
    assert (second["event"], second["result"], second["address"]) == ("authenticate", "refused", address)
    assert "token-of" not in output + errors
    assert "audit" not in errors
