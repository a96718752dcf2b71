"""Floods of unknown tokens: few of them are reviewed, and known tokens keep working."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine

from support.fake_api_server import FakeApiServer
from trainingtask_web.auth.authorization import CACHE_SECONDS, Authenticator
from trainingtask_web.auth.errors import TooManyAttempts
from trainingtask_web.auth.kubernetes import ApiServer
from trainingtask_web.auth.rate_limit import MAX_FAILURES, MAX_FAILURES_IN_TOTAL, WINDOW_SECONDS

Client = Callable[..., TestClient]
API = "/api/v1/runs"


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def is_limited(authenticator: Authenticator, token: str, address: str) -> bool:
    """Return whether a token was refused without a review."""
    try:
        assert authenticator.authenticate(token, address) is None
    except TooManyAttempts:
        return True
    return False


@pytest.fixture
def long_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let failures be remembered for the whole test, however long a busy machine takes for its requests."""
    monkeypatch.setattr("trainingtask_web.auth.authorization.UNKNOWN_CACHE_SECONDS", 3600.0)
    monkeypatch.setattr("trainingtask_web.auth.authorization.CACHE_SECONDS", 3600.0)
    monkeypatch.setattr("trainingtask_web.auth.rate_limit.WINDOW_SECONDS", 3600.0)


@pytest.mark.usefixtures("long_memory")
def test_500_requests_with_one_unknown_token_cause_one_review(
    client: Client, history: Engine, kubernetes: FakeApiServer
) -> None:
    anonymous = client(history, "token-of-nobody")
    assert {anonymous.get(API).status_code for _ in range(500)} == {401}
    assert kubernetes.count("tokenreviews") == 1


def test_500_requests_without_a_token_cause_no_review(
    client: Client, history: Engine, kubernetes: FakeApiServer
) -> None:
    anonymous = client(history)
    assert {anonymous.get(API).status_code for _ in range(500)} == {401}
    assert kubernetes.requests == []


@pytest.mark.usefixtures("long_memory")
def test_500_unknown_tokens_cause_few_reviews_and_known_ones_work(
    client: Client, history: Engine, kubernetes: FakeApiServer
) -> None:
    app = client(history)
    assert app.get(API, headers=bearer("token-of-ann")).status_code == 200
    answers = [app.get(API, headers=bearer(f"bad-{number}")) for number in range(500)]
    assert [answer.status_code for answer in answers] == [401] * MAX_FAILURES + [429] * (500 - MAX_FAILURES)
    assert answers[-1].headers["Retry-After"] == "60"
    assert "try again in a minute" in answers[-1].json()["detail"]
    assert kubernetes.count("tokenreviews") == 1 + MAX_FAILURES
    assert app.get(API, headers=bearer("token-of-ann")).status_code == 200


@pytest.mark.usefixtures("long_memory")
def test_signing_in_with_500_unknown_tokens_is_limited(
    client: Client, history: Engine, kubernetes: FakeApiServer
) -> None:
    browser = client(history)
    here = {"Origin": "https://runs.example.com", "Accept": "text/html"}
    answers = [browser.post("/session", data={"token": f"bad-{number}"}, headers=here) for number in range(500)]
    assert kubernetes.count("tokenreviews") == MAX_FAILURES
    assert answers[-1].status_code == 429


def test_the_limit_ends_with_its_window(history: Engine, api: ApiServer) -> None:
    now = 0.0
    authenticator = Authenticator(history, api, clock=lambda: now)
    assert [is_limited(authenticator, f"bad-{number}", "a") for number in range(MAX_FAILURES + 1)] == [
        False
    ] * MAX_FAILURES + [True]
    assert not is_limited(authenticator, "bad", "b")
    with pytest.raises(TooManyAttempts):
        authenticator.authenticate("token-of-ann", "a")
    now = WINDOW_SECONDS
    assert authenticator.authenticate("token-of-ann", "a") is not None


def test_the_total_limit_does_not_apply_to_known_tokens(
    history: Engine, api: ApiServer, kubernetes: FakeApiServer
) -> None:
    now = 0.0
    authenticator = Authenticator(history, api, clock=lambda: now)
    assert authenticator.authenticate("token-of-ann", "10.0.0.1") is not None
    now = CACHE_SECONDS
    tried = [is_limited(authenticator, f"bad-{number}", f"10.1.{number % 200}.1") for number in range(2000)]
    assert tried.count(False) == MAX_FAILURES_IN_TOTAL
    assert authenticator.authenticate("token-of-ann", "10.0.0.1") is not None
    assert kubernetes.count("tokenreviews") == 2 + MAX_FAILURES_IN_TOTAL


@pytest.mark.parametrize("token", ["x" * 16_385, "a b", "a\x00b", "a\nb", "é", "\u202e"])
def test_a_malformed_token_is_not_reviewed(
    history: Engine, api: ApiServer, kubernetes: FakeApiServer, token: str
) -> None:
    assert Authenticator(history, api).authenticate(token) is None
    assert kubernetes.requests == []


def test_concurrent_requests_with_one_unknown_token_cause_one_review(
    history: Engine, api: ApiServer, kubernetes: FakeApiServer
) -> None:
    authenticator = Authenticator(history, api, clock=lambda: 0.0)
    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(authenticator.authenticate, ["bad"] * 200)) == {None}
    assert kubernetes.count("tokenreviews") == 1


def test_the_cache_of_unknown_tokens_is_bounded_and_holds_no_token(history: Engine, api: ApiServer) -> None:
    now = 0.0
    authenticator = Authenticator(history, api, clock=lambda: now)
    authenticator.authenticate("token-of-ann-misspelt", "a")
    kept = repr(
        [vars(authenticator), vars(authenticator._failures), list(authenticator._unknown), list(authenticator._known)]
    )
    assert "misspelt" not in kept
    assert authenticator._unknown.maxsize == 10_000
    assert authenticator._failures._counts.maxsize == 10_000
