"""Access to the pages, and the error pages."""

import uuid
from collections.abc import Callable
from pathlib import Path

import lxml.html
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine

from support.fake_api_server import FakeApiServer
from support.html import get_page, get_text, select
from support.sample_history import SampleHistory
from support.web_client import HTML, start


@pytest.mark.parametrize("address", ["/runs/none", f"/runs/{uuid.UUID(int=1)}", "/nothing/here", "/static/none.css"])
def test_a_missing_page_is_a_404_page(browser: TestClient, address: str) -> None:
    tree = get_page(browser, address, 404)
    assert get_text(select(tree, "h1")[0]) == "Not found"
    assert select(tree, 'a.button[href="/runs"]')


def test_an_unavailable_history_is_an_error_page(tmp_path: Path) -> None:
    with start(f"sqlite:///{tmp_path}/no/such/folder.db") as client:
        tree = get_page(client, "/runs", 503)
    assert get_text(select(tree, "h1")[0]) == "Away for a moment"
    assert "The history does not answer now" in get_text(tree)
    assert str(tmp_path) not in get_text(tree)


def test_an_error_for_a_program_is_json(browser: TestClient) -> None:
    answer = browser.get("/runs/none", headers={"Accept": "application/json"})
    assert answer.status_code == 404
    assert answer.json()["detail"].startswith("There is no such run")


@pytest.fixture
def kubernetes_client(client: Callable[..., TestClient], engine: Engine, kubernetes: FakeApiServer) -> TestClient:
    kubernetes.namespaces = {name: f"uid-of-{name}" for name in ("ml-team", "research")}
    kubernetes.allowed = {("ann", "list", "research")}
    client_ = client(engine)
    client_.headers.update(HTML)
    return client_


def test_signing_in_returns_to_the_requested_page(kubernetes_client: TestClient, sample: SampleHistory) -> None:
    answer = kubernetes_client.get("/runs?state=Failed")
    assert (answer.status_code, answer.headers["location"]) == (303, "/session?next=%2Fruns%3Fstate%3DFailed")
    form = select(get_page(kubernetes_client, answer.headers["location"]), "form.sign-in")[0]
    assert (form.get("method"), form.get("action")) == ("post", "/session")
    assert dict(form.form_values())["next"] == "/runs?state=Failed"
    assert select(form, "#token")[0].get("type") == "password"
    site = {"Sec-Fetch-Site": "same-origin"}
    answer = kubernetes_client.post(
        "/session", data={"token": "token-of-ann", "next": "/runs?state=Failed"}, headers=site
    )
    assert (answer.status_code, answer.headers["location"]) == (303, "/runs?state=Failed")
    tree = get_page(kubernetes_client, "/runs?limit=200")
    assert {select(row, ".c-namespace")[0].text_content().strip() for row in select(tree, "tr[data-run]")} == {
        "research"
    }
    out = select(tree, "form.who")[0]
    assert get_text(out).startswith("ann")
    assert (out.get("method"), out.get("action")) == ("post", "/session/end")


def test_an_unknown_token_is_reported_on_the_sign_in_page(kubernetes_client: TestClient) -> None:
    tree = get_page(kubernetes_client, "/session?problem=unknown&next=/runs")
    assert "does not know this token" in get_text(select(tree, "[role=alert]")[0])
    assert select(tree, "#token")[0].get("aria-describedby") == "problem"
    assert not select(get_page(kubernetes_client, "/session?problem=<b>"), "[role=alert]")


def test_invisible_runs_look_like_missing_ones(client: Callable[..., TestClient], kubernetes: FakeApiServer, engine: Engine, sample: SampleHistory) -> None:  # fmt: skip
    kubernetes.namespaces = {name: f"uid-of-{name}" for name in ("ml-team", "research")}
    kubernetes.allowed = {("ann", "list", "research")}
    ann = client(engine, "token-of-ann")
    ann.headers.update(HTML)
    secret, mine = sample.get_run("emotions-bert-base", 2), sample.get_run("cv-tags-albert")
    absent = get_page(ann, f"/runs/{uuid.UUID(int=1)}", 404)
    assert get_text(get_page(ann, f"/runs/{secret.id}", 404)) == get_text(absent)
    assert (
        "emotions-bert-base"
        not in lxml.html.tostring(get_page(ann, f"/runs/compare?ids={mine.id},{secret.id}")).decode()
    )
