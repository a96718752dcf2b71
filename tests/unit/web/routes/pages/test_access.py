"""Who looks, and what they are told when they cannot."""

import uuid
from collections.abc import Callable
from pathlib import Path

import lxml.html
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine

from support.fake_api_server import FakeApiServer
from support.html import every, page, text
from support.sample_history import Scene
from support.web_client import HTML, start


@pytest.mark.parametrize("address", ["/runs/none", f"/runs/{uuid.UUID(int=1)}", "/nothing/here", "/static/none.css"])
def test_what_is_not_there(browser: TestClient, address: str) -> None:
    tree = page(browser, address, 404)
    assert text(every(tree, "h1")[0]) == "Not found"
    assert every(tree, 'a.button[href="/runs"]')


def test_a_history_that_is_away_is_one_sentence_and_what_to_do(tmp_path: Path) -> None:
    with start(f"sqlite:///{tmp_path}/no/such/folder.db") as client:
        tree = page(client, "/runs", 503)
    assert text(every(tree, "h1")[0]) == "Away for a moment"
    assert "The history does not answer now" in text(tree)
    assert str(tmp_path) not in text(tree)


def test_a_program_that_asks_for_a_page_of_an_error_gets_json(browser: TestClient) -> None:
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


def test_who_is_not_known_is_asked_to_sign_in_and_comes_back(kubernetes_client: TestClient, scene: Scene) -> None:
    answer = kubernetes_client.get("/runs?state=Failed")
    assert (answer.status_code, answer.headers["location"]) == (303, "/session?next=%2Fruns%3Fstate%3DFailed")
    form = every(page(kubernetes_client, answer.headers["location"]), "form.sign-in")[0]
    assert (form.get("method"), form.get("action")) == ("post", "/session")
    assert dict(form.form_values())["next"] == "/runs?state=Failed"
    assert every(form, "#token")[0].get("type") == "password"
    site = {"Sec-Fetch-Site": "same-origin"}
    answer = kubernetes_client.post(
        "/session", data={"token": "token-of-ann", "next": "/runs?state=Failed"}, headers=site
    )
    assert (answer.status_code, answer.headers["location"]) == (303, "/runs?state=Failed")
    tree = page(kubernetes_client, "/runs?limit=200")
    assert {every(row, ".c-namespace")[0].text_content().strip() for row in every(tree, "tr[data-run]")} == {"research"}
    out = every(tree, "form.who")[0]
    assert text(out).startswith("ann")
    assert (out.get("method"), out.get("action")) == ("post", "/session/end")


def test_a_token_that_is_not_known_is_told_so(kubernetes_client: TestClient) -> None:
    tree = page(kubernetes_client, "/session?problem=unknown&next=/runs")
    assert "does not know this token" in text(every(tree, "[role=alert]")[0])
    assert every(tree, "#token")[0].get("aria-describedby") == "problem"
    assert not every(page(kubernetes_client, "/session?problem=<b>"), "[role=alert]")


def test_others_runs_look_like_none(client: Callable[..., TestClient], kubernetes: FakeApiServer, engine: Engine, scene: Scene) -> None:  # fmt: skip
    kubernetes.namespaces = {name: f"uid-of-{name}" for name in ("ml-team", "research")}
    kubernetes.allowed = {("ann", "list", "research")}
    ann = client(engine, "token-of-ann")
    ann.headers.update(HTML)
    secret, mine = scene.named("emotions-bert-base", 2), scene.named("cv-tags-albert")
    absent = page(ann, f"/runs/{uuid.UUID(int=1)}", 404)
    assert text(page(ann, f"/runs/{secret.id}", 404)) == text(absent)
    assert (
        "emotions-bert-base" not in lxml.html.tostring(page(ann, f"/runs/compare?ids={mine.id},{secret.id}")).decode()
    )
