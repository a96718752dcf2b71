"""Browser sessions: begin, end, limits, and cross-site requests."""

from collections.abc import Callable, Mapping

import pytest
import starlette.responses
from fastapi import Request
from fastapi.testclient import TestClient
from httpx import Response
from sqlalchemy import Engine

from support.fake_api_server import FakeApiServer
from trainingtask_web.auth.sessions import (
    MAX_SESSIONS_PER_NAMESPACE,
    MAX_SESSIONS_PER_USER,
    SESSION_SECONDS,
    SessionStore,
)

Client = Callable[..., TestClient]
API = "/api/v1/runs"
HERE = {"Origin": "https://runs.example.com"}
BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
TASK = {"DATASET_NAME": "go_emotions", "MODEL_NAME": "random_forest"}


def sign_in(
    client: TestClient, token: str = "token-of-ann", headers: Mapping[str, str] = HERE, **form: str
) -> Response:
    return client.post("/session", data={"token": token, **form}, headers=headers)  # type: ignore[return-value]


def test_a_pasted_token_becomes_a_session(client: Client, history: Engine) -> None:
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


def test_a_setting_allows_the_cookie_over_plain_http(client: Client, history: Engine) -> None:
    cookie = sign_in(client(history, TRAININGTASK_WEB_SECURE_COOKIE="false")).headers["Set-Cookie"]
    assert cookie.startswith("trainingtask=")
    assert "Secure" not in cookie


def cookie_of(browser: TestClient) -> dict[str, str]:
    return {"Cookie": f"__Host-trainingtask={browser.cookies['__Host-trainingtask']}"}


def test_a_session_expires(client: Client, history: Engine) -> None:
    browser = client(history)
    now = 0.0
    browser.app.state.sessions = SessionStore(secure=True, clock=lambda: now)  # type: ignore[attr-defined]
    sign_in(browser)
    now = SESSION_SECONDS - 5
    assert browser.get(API).status_code == 200
    now = SESSION_SECONDS + 5
    assert browser.get(API).status_code == 401


def test_a_session_is_not_shared_between_processes(client: Client, history: Engine) -> None:
    browser = client(history)
    sign_in(browser)
    assert client(history).get(API, headers=cookie_of(browser)).status_code == 401


def test_signing_out_invalidates_every_copy_of_the_cookie(client: Client, history: Engine) -> None:
    browser = client(history)
    sign_in(browser)
    copied = cookie_of(browser)
    assert browser.get(API, headers=copied).status_code == 200
    browser.post("/session/end", headers=HERE)
    assert browser.get(API, headers=copied).status_code == 401


def test_signing_in_again_ends_the_previous_session(client: Client, history: Engine) -> None:
    browser = client(history)
    sign_in(browser)
    copied = cookie_of(browser)
    sign_in(browser, "token-of-bob")
    new = cookie_of(browser)
    browser.cookies.clear()
    assert browser.get(API, headers=copied).status_code == 401
    assert browser.get(API, headers=new).status_code == 200


def test_the_oldest_session_ends_above_the_limit_per_user(client: Client, history: Engine) -> None:
    browser = client(history)
    cookies = []
    for _ in range(MAX_SESSIONS_PER_USER + 2):
        sign_in(browser)
        cookies.append(cookie_of(browser))
        browser.cookies.clear()
    statuses = [browser.get(API, headers=cookie).status_code for cookie in cookies]
    assert statuses == [401] * 2 + [200] * MAX_SESSIONS_PER_USER


def test_the_service_accounts_of_a_namespace_share_a_limit() -> None:
    sessions = SessionStore(secure=False)
    request = Request({"type": "http", "headers": []})
    for user in [
        "bob",
        *(f"system:serviceaccount:team-a:{number}" for number in range(500)),
        "system:serviceaccount:b:a",
    ]:
        sessions.begin(request, starlette.responses.Response(), user, "token")
    users = [user for user, _ in sessions._sessions.values()]
    assert len(users) == MAX_SESSIONS_PER_NAMESPACE + 2
    assert {"bob", "system:serviceaccount:b:a", "system:serviceaccount:team-a:499"} < set(users)


def test_a_forged_cookie_is_no_session(client: Client, history: Engine) -> None:
    browser = client(history)
    sign_in(browser)
    browser.cookies.clear()
    for value in ("", "x", "token-of-ann", "a" * 43):
        assert browser.get(API, headers={"Cookie": f"__Host-trainingtask={value}"}).status_code == 401


@pytest.mark.parametrize("token", ["token-of-nobody", "", "x" * 20_000])
def test_an_unknown_token_redirects_to_the_sign_in_page(client: Client, history: Engine, token: str) -> None:
    answer = sign_in(client(history), token)
    assert answer.headers["Location"] == "/session?problem=unknown&next=%2Fruns"
    assert "Set-Cookie" not in answer.headers


def test_a_long_token_fits_into_a_session(client: Client, history: Engine, kubernetes: FakeApiServer) -> None:
    browser = client(history)
    assert sign_in(browser, kubernetes.add_user("x" * 16_000, "ann")).headers["Location"] == "/runs"
    assert browser.get(API).status_code == 200


@pytest.mark.parametrize("target", ["https://evil.example", "//evil.example", "/\\evil.example", "runs", "/a\nb", ""])
def test_signing_in_redirects_to_no_other_site(client: Client, history: Engine, target: str) -> None:
    assert sign_in(client(history), next=target).headers["Location"] == "/runs"


def test_a_browser_without_a_session_is_redirected_to_sign_in(client: Client, history: Engine) -> None:
    browser = client(history)
    answer = browser.get("/runs?state=Failed", headers=BROWSER)
    assert (answer.status_code, answer.headers["Location"]) == (303, "/session?next=%2Fruns%3Fstate%3DFailed")
    assert browser.get(API, headers=BROWSER).status_code == 401
    assert browser.get("/runs", headers={"Accept": "application/json, text/html;q=0.5"}).status_code == 401


CROSS_SITE_HEADERS = [
    {},
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://["},
    {"Origin": "https://runs.example.com.evil.example"},
    {"Origin": "https://runs.example.com", "Sec-Fetch-Site": "cross-site"},
    {"Origin": "https://runs.example.com", "Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "none"},
]


@pytest.mark.parametrize("headers", CROSS_SITE_HEADERS)
def test_cross_site_requests_with_a_session_are_refused(
    client: Client, history: Engine, kubernetes: FakeApiServer, headers: dict[str, str]
) -> None:
    browser = client(history)
    sign_in(browser)
    assert browser.post("/", json=TASK, headers=headers).status_code == 403
    assert browser.post("/session/end", headers=headers).status_code == 403
    assert sign_in(browser, "token-of-bob", headers).status_code == 403
    assert kubernetes.created == []
    assert len(browser.get(API).json()["items"]) == 5


@pytest.mark.parametrize("headers", [HERE, {"Sec-Fetch-Site": "same-origin", "Origin": "null"}])
def test_same_origin_requests_with_a_session_are_accepted(
    client: Client, history: Engine, kubernetes: FakeApiServer, headers: dict[str, str]
) -> None:
    browser = client(history, TRAININGTASK_WEB_NAMESPACE="team-a")
    sign_in(browser, headers=headers)
    assert browser.post("/", json=TASK, headers=headers).status_code == 201
    assert len(kubernetes.created) == 1


def test_a_bearer_token_needs_no_origin(client: Client, history: Engine) -> None:
    ann = client(history, "token-of-ann", TRAININGTASK_WEB_NAMESPACE="team-a")
    assert ann.post("/", json=TASK, headers={"Origin": "https://evil.example"}).status_code == 201
