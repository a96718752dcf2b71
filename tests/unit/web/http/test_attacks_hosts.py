"""A foreign `Host` is refused on every path, against DNS rebinding."""

from collections.abc import Callable

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine

Client = Callable[..., TestClient]
PATHS = ["/runs", "/api/v1/runs", "/", "/session", "/docs", "/openapi.json", "/static/states.css", "/nowhere"]
OTHERS = [
    "evil.example", "evil.example:8000", "localhost.evil.example", "evil.example@localhost", "localhost@evil.example",
    "localhost/evil", "10.0.0.7:8000", "[fd00::1]:8000", "", "localhost:", "xn--lcalhost-54a",
]  # fmt: skip
OWN = ["localhost", "LOCALHOST:8000", "127.0.0.1:43210", "[::1]:8000"]


@pytest.fixture(params=["none", "kubernetes"])
def anonymous(request: pytest.FixtureRequest, client: Client, history: Engine) -> TestClient:
    return client(history, TRAININGTASK_WEB_AUTH=request.param, TRAININGTASK_WEB_HOSTS="")


@pytest.mark.parametrize("host", OTHERS)
def test_another_host_is_refused_everywhere(anonymous: TestClient, host: str) -> None:
    for path in PATHS:
        answer = anonymous.get(path, headers={"Host": host})
        assert answer.status_code == 400, path
        assert "task-" not in answer.text
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert answer.json()["detail"] == f"Host {host!r} is refused: the admin names it in web.hosts (TRAININGTASK_WEB_HOSTS)."  # fmt: skip


@pytest.mark.parametrize("host", OWN)
def test_localhost_names_are_served(anonymous: TestClient, host: str) -> None:
    assert anonymous.get("/openapi.json", headers={"Host": host}).status_code == 200


def test_served_hosts_are_a_setting(client: Client, history: Engine) -> None:
    app = client(history, TRAININGTASK_WEB_AUTH="none", TRAININGTASK_WEB_HOSTS="Runs.Example.com, web.ml.svc,10.0.0.7")
    for host, status in (
        ("runs.example.com", 200),
        ("web.ml.svc", 200),
        ("10.0.0.7:8000", 200),
        ("localhost", 400),
        ("ml.svc", 400),
    ):
        assert app.get("/runs", headers={"Host": host}).status_code == status, host


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_health_checks_accept_any_host(anonymous: TestClient, path: str) -> None:
    assert anonymous.get(path, headers={"Host": "10.0.0.7:8000"}).text == "ok\n"


@pytest.mark.parametrize(
    ("url", "headers", "strict"),
    [
        ("http://localhost", {}, False),
        ("http://localhost", {"X-Forwarded-Proto": "http"}, False),
        ("http://localhost", {"X-Forwarded-Proto": "https"}, True),
        ("https://localhost", {}, True),
    ],
)
def test_hsts_is_sent_over_tls_only(anonymous: TestClient, url: str, headers: dict[str, str], strict: bool) -> None:
    for path in ("/runs", "/healthz", "/nowhere", "/static/states.css"):
        found = anonymous.get(f"{url}{path}", headers=headers).headers.get("Strict-Transport-Security")
        assert found == ("max-age=31536000" if strict else None), path
