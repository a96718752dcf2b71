"""Security headers on every response, and no secret in any."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine

from support.fake_api_server import FakeApiServer
from trainingtask_history.tables import run_id
from trainingtask_web.app import create_app
from trainingtask_web.settings import SettingsError, load_settings

Client = Callable[..., TestClient]
API = "/api/v1/runs"
CANARIES = ("canary-of-the-database", "canary-of-a-person", "token-of-the-web-app")
PATHS = [API, f"{API}/export", f"{API}/{run_id('uid-1', 1)}", "/", "/runs", f"/runs/{run_id('uid-1', 1)}", "/nowhere"]


ANSWERS = [
    ("GET", "/runs", 200),
    ("GET", "/session", 200),
    ("GET", "/docs", 200),
    ("GET", "/openapi.json", 200),
    ("GET", "/healthz", 200),
    ("GET", API, 200),
    ("GET", f"{API}/export", 200),
    ("GET", f"{API}?limit=0", 422),
    ("GET", f"{API}/{run_id('absent', 1)}", 404),
    ("GET", "/nowhere", 404),
    ("PUT", API, 405),
    ("POST", "/", 415),
    ("POST", "/session", 403),
]


@pytest.mark.parametrize(("method", "path", "status"), ANSWERS)
def test_every_response_has_the_security_headers(
    client: Client, history: Engine, method: str, path: str, status: int
) -> None:
    answer = client(history, "token-of-ann").request(method, path)
    assert answer.status_code == status
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["Content-Security-Policy"].split(";"))
    expected = {"default-src": "'none'", "form-action": "'self'", "frame-ancestors": "'none'", "base-uri": "'none'"}
    assert policy == policy | expected
    assert policy["script-src"] == policy["connect-src"] == policy["font-src"] == "'self'"
    if path != "/docs":
        assert policy["style-src"] == policy["img-src"] == "'self'"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "same-origin"
    assert answer.headers["Cache-Control"] == "no-store"


def test_an_internal_error_has_the_security_headers(
    kubernetes: FakeApiServer, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("canary-of-the-database")

    monkeypatch.setattr("trainingtask_history.queries.get_run", broken)
    url = engine.url.render_as_string(hide_password=False)
    app = create_app(load_settings({"TRAININGTASK_HISTORY_URL": url, "TRAININGTASK_WEB_AUTH": "none"}))
    with TestClient(app, "http://localhost", raise_server_exceptions=False) as client:
        answer = client.get(f"{API}/{run_id('uid-1', 1)}")
    assert answer.status_code == 500
    assert answer.json() == {"detail": "This is a fault of the web app: the admin finds why in the log."}
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]


def test_static_files_are_revalidated(client: Client, history: Engine) -> None:
    anonymous = client(history)
    answer = anonymous.get("/docs/files/swagger-ui.css")
    assert answer.headers["Cache-Control"] == "no-cache"
    again = anonymous.get("/docs/files/swagger-ui.css", headers={"If-None-Match": answer.headers["ETag"]})
    assert again.status_code == 304


@pytest.mark.parametrize("failing", [None, "", "tokenreviews", "trainingtasks"])
@pytest.mark.parametrize("accept", ["application/json", "text/html"])
def test_no_secret_is_in_any_log_or_response(
    client: Client,
    history: Engine,
    kubernetes: FakeApiServer,
    caplog: pytest.LogCaptureFixture,
    failing: str | None,
    accept: str,
) -> None:
    """The database's password and users' tokens, through every failure."""
    caplog.set_level(logging.DEBUG)
    known = kubernetes.add_user("canary-of-a-person-who-is-known", "ann")
    away = "postgresql://reader:canary-of-the-database@127.0.0.1:1/trainingtask"
    texts = []
    for url in (history.url.render_as_string(hide_password=False), away):
        app = client(history, TRAININGTASK_HISTORY_URL=url)
        kubernetes.fail(failing)
        for token in (known, "canary-of-a-person-who-is-not", "canary-of-a-person\u00e9"):
            bearer = {"Authorization": f"Bearer {token}".encode(), "Accept": accept}
            for path in (*PATHS, "/readyz", f"{API}?limit=0&text=x"):
                texts.append(app.get(path, headers=bearer))
            for body in ({"DATASET_NAME": "go_emotions", "MODEL_NAME": "knn"}, {"MODEL_NAME": 1}):
                texts.append(app.post("/", json=body, headers=bearer))
            form = {"token": token, "next": "/runs"}
            texts.append(app.post("/session", data=form, headers={"Sec-Fetch-Site": "same-origin", "Accept": accept}))
            texts.append(app.get(API, headers={"Accept": accept}))
            app.cookies.clear()
        kubernetes.fail(None)
    seen = {answer.status_code for answer in texts}
    assert seen >= ({401, 404, 503} if failing in ("", "tokenreviews") else {200, 401, 404, 422, 503})
    for canary in CANARIES:
        assert not [answer for answer in texts if canary in answer.text + str(answer.headers)]
        assert canary not in caplog.text


def test_no_secret_is_in_a_settings_error(tmp_path: Path) -> None:
    secret = "canary-of-the-database"
    for environment in (
        {"TRAININGTASK_HISTORY_URL": f"mysql://u:{secret}@h/d", "TRAININGTASK_WEB_AUTH": "all"},
        {"TRAININGTASK_WEB_PORT": "0", "TRAININGTASK_HISTORY_URL": secret},
    ):
        with pytest.raises(SettingsError) as refused:
            load_settings(environment)
        assert secret not in str(refused.value)
    settings = load_settings({"TRAININGTASK_HISTORY_URL": f"postgresql://u:{secret}@h/d"})
    assert secret not in repr(settings)


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({}, "TRAININGTASK_HISTORY_URL: Field required"),
        ({"TRAININGTASK_WEB_AUTH": "all"}, "TRAININGTASK_WEB_AUTH: 'all' is refused"),
        ({"TRAININGTASK_WEB_NAMESPACE": "A_b"}, "TRAININGTASK_WEB_NAMESPACE: 'A_b' is refused"),
        ({"TRAININGTASK_WEB_THREADS": "0"}, "TRAININGTASK_WEB_THREADS: '0' is refused"),
    ],
)
def test_a_wrong_setting_is_named(environment: dict[str, str], sentence: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load_settings(environment)
    assert sentence in str(refused.value)
