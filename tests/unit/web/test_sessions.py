"""A browser's session: how it begins and ends, and that no other site can use it."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from httpx import Response
from sqlalchemy import Engine

from small_kubernetes import SmallKubernetes
from trainingtask_web.sessions import SESSION_SECONDS
from trainingtask_web.settings import BadSettings, load_settings, session_key

Client = Callable[..., TestClient]
API = "/api/v1/runs"
HERE = {"Origin": "https://runs.example.com"}
BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
TASK = {"DATASET_NAME": "go_emotions", "MODEL_NAME": "random_forest"}


@pytest.fixture
def engine(sqlite: Engine) -> Engine:
    return sqlite


def sign_in(
    client: TestClient, token: str = "token-of-ann", headers: Mapping[str, str] = HERE, **form: str
) -> Response:
    return client.post("/session", data={"token": token, **form}, headers=headers)  # type: ignore[return-value]


def test_a_token_that_was_pasted_once_becomes_a_session(client: Client, history: Engine) -> None:
    browser = client(history)
    answer = sign_in(browser, token=" token-of-ann\n", next="/runs?state=Failed")
    assert (answer.status_code, answer.headers["Location"]) == (303, "/runs?state=Failed")
    cookie = answer.headers["Set-Cookie"]
    assert cookie.startswith("__Host-trainingtask=")
    assert {"HttpOnly", "SameSite=strict", "Secure", "Path=/"} <= set(cookie.split("; "))
    assert "token-of-ann" not in cookie
    assert len(browser.get(API).json()["items"]) == 5
    ended = browser.post("/session/end", headers=HERE)
    assert (ended.status_code, ended.headers["Location"]) == (303, "/session")
    assert browser.get(API).status_code == 401


def test_on_plain_http_the_cookie_can_be_had_by_a_setting(client: Client, history: Engine) -> None:
    cookie = sign_in(client(history, TRAININGTASK_WEB_SECURE_COOKIE="false")).headers["Set-Cookie"]
    assert cookie.startswith("trainingtask=")
    assert "Secure" not in cookie


def test_a_session_ends_by_itself(client: Client, history: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time is inside the sealed cookie: a browser that keeps it longer gains nothing."""
    browser = client(history)
    sign_in(browser)
    now = time.time()
    monkeypatch.setattr("time.time", lambda: now + SESSION_SECONDS - 5)
    assert browser.get(API).status_code == 200
    monkeypatch.setattr("time.time", lambda: now + SESSION_SECONDS + 5)
    assert browser.get(API).status_code == 401


def test_replicas_with_one_key_share_sessions_and_others_do_not(
    client: Client, history: Engine, tmp_path: Path
) -> None:
    (tmp_path / "key").write_text("k" * 64)
    file = str(tmp_path / "key")
    first = client(history, TRAININGTASK_WEB_SESSION_KEY_FILE=file)
    sign_in(first)
    cookies = {"Cookie": f"__Host-trainingtask={first.cookies['__Host-trainingtask']}"}
    assert client(history, TRAININGTASK_WEB_SESSION_KEY_FILE=file).get(API, headers=cookies).status_code == 200
    assert client(history).get(API, headers=cookies).status_code == 401


@pytest.mark.parametrize("content", [None, b"", b"short"])
def test_a_bad_key_is_refused_at_the_start(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)
    settings = load_settings(
        {"TRAININGTASK_HISTORY_URL": "sqlite:///x", "TRAININGTASK_WEB_SESSION_KEY_FILE": str(file)}
    )
    with pytest.raises(BadSettings, match="the session key"):
        session_key(settings)


@pytest.mark.parametrize(("token", "problem"), [("token-of-nobody", "unknown"), ("", "unknown"), ("long", "long")])
def test_a_token_that_does_not_do_leads_back(
    client: Client, history: Engine, kubernetes: SmallKubernetes, token: str, problem: str
) -> None:
    if problem == "long":
        token = kubernetes.knows("x" * 4000, "ann")
    answer = sign_in(client(history), token)
    assert answer.headers["Location"] == f"/session?problem={problem}&next=%2Fruns"
    assert "Set-Cookie" not in answer.headers


@pytest.mark.parametrize("target", ["https://evil.example", "//evil.example", "/\\evil.example", "runs", "/a\nb", ""])
def test_it_leads_to_no_other_site(client: Client, history: Engine, target: str) -> None:
    assert sign_in(client(history), next=target).headers["Location"] == "/runs"


def test_a_browser_without_a_session_is_sent_to_sign_in(client: Client, history: Engine) -> None:
    browser = client(history)
    answer = browser.get("/runs?state=Failed", headers=BROWSER)
    assert (answer.status_code, answer.headers["Location"]) == (303, "/session?next=%2Fruns%3Fstate%3DFailed")
    assert browser.get(API, headers=BROWSER).status_code == 401
    assert browser.get("/runs", headers={"Accept": "application/json, text/html;q=0.5"}).status_code == 401


FROM_ELSEWHERE = [
    {},
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "https://runs.example.com.evil.example"},
    {"Origin": "https://runs.example.com", "Sec-Fetch-Site": "cross-site"},
    {"Origin": "https://runs.example.com", "Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "none"},
]


@pytest.mark.parametrize("headers", FROM_ELSEWHERE)
def test_another_site_can_do_nothing_with_a_session(
    client: Client, history: Engine, kubernetes: SmallKubernetes, headers: dict[str, str]
) -> None:
    browser = client(history)
    sign_in(browser)
    assert browser.post("/", json=TASK, headers=headers).status_code == 403
    assert browser.post("/session/end", headers=headers).status_code == 403
    assert sign_in(browser, "token-of-bob", headers).status_code == 403
    assert kubernetes.created == []
    assert len(browser.get(API).json()["items"]) == 5


@pytest.mark.parametrize("headers", [HERE, {"Sec-Fetch-Site": "same-origin", "Origin": "null"}])
def test_a_page_of_this_site_can(
    client: Client, history: Engine, kubernetes: SmallKubernetes, headers: dict[str, str]
) -> None:
    browser = client(history, TRAININGTASK_WEB_NAMESPACE="team-a")
    sign_in(browser, headers=headers)
    assert browser.post("/", json=TASK, headers=headers).status_code == 201
    assert len(kubernetes.created) == 1


def test_a_programs_token_needs_no_origin(client: Client, history: Engine) -> None:
    ann = client(history, "token-of-ann", TRAININGTASK_WEB_NAMESPACE="team-a")
    assert ann.post("/", json=TASK, headers={"Origin": "https://evil.example"}).status_code == 201
