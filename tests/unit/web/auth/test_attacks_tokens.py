"""Floods of tokens that Kubernetes does not know: few reviews are asked for, and whoever is known still gets in."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine

from support.fake_api_server import SmallKubernetes
from trainingtask_web.auth.authorization import CACHE_SECONDS, Access
from trainingtask_web.auth.kubernetes import ApiServer
from trainingtask_web.auth.rate_limit import MOST_FAILED, MOST_FAILED_IN_ALL, WINDOW_SECONDS
from trainingtask_web.http.errors import TooManyAttempts

Client = Callable[..., TestClient]
API = "/api/v1/runs"


@pytest.fixture
def engine(sqlite: Engine) -> Engine:
    return sqlite


@pytest.fixture
def api(kubernetes: SmallKubernetes) -> Iterator[ApiServer]:
    api = kubernetes.client()
    yield api
    api.close()


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def refused(access: Access, token: str, address: str) -> bool:
    """Return whether a token was refused without a look at it."""
    try:
        assert access.look(token, address) is None
    except TooManyAttempts:
        return True
    return False


def test_500_requests_with_one_bad_token_are_one_review(
    client: Client, history: Engine, kubernetes: SmallKubernetes
) -> None:
    anybody = client(history, "token-of-nobody")
    assert {anybody.get(API).status_code for _ in range(500)} == {401}
    assert kubernetes.count("tokenreviews") == 1


def test_500_requests_without_a_token_are_no_review(
    client: Client, history: Engine, kubernetes: SmallKubernetes
) -> None:
    anybody = client(history)
    assert {anybody.get(API).status_code for _ in range(500)} == {401}
    assert kubernetes.asked == []


def test_500_bad_tokens_are_few_reviews_and_keep_nobody_out(
    client: Client, history: Engine, kubernetes: SmallKubernetes
) -> None:
    app = client(history)
    assert app.get(API, headers=bearer("token-of-ann")).status_code == 200
    answers = [app.get(API, headers=bearer(f"bad-{number}")) for number in range(500)]
    assert [answer.status_code for answer in answers] == [401] * MOST_FAILED + [429] * (500 - MOST_FAILED)
    assert answers[-1].headers["Retry-After"] == "60"
    assert "try again in a minute" in answers[-1].json()["detail"]
    assert kubernetes.count("tokenreviews") == 1 + MOST_FAILED
    assert app.get(API, headers=bearer("token-of-ann")).status_code == 200


def test_signing_in_with_500_bad_tokens_is_limited_as_well(
    client: Client, history: Engine, kubernetes: SmallKubernetes
) -> None:
    browser = client(history)
    here = {"Origin": "https://runs.example.com", "Accept": "text/html"}
    answers = [browser.post("/session", data={"token": f"bad-{number}"}, headers=here) for number in range(500)]
    assert kubernetes.count("tokenreviews") == MOST_FAILED
    assert answers[-1].status_code == 429


def test_the_limit_ends_with_its_window(history: Engine, api: ApiServer) -> None:
    now = 0.0
    access = Access(history, api, clock=lambda: now)
    assert [refused(access, f"bad-{number}", "a") for number in range(MOST_FAILED + 1)] == [False] * MOST_FAILED + [
        True
    ]
    assert not refused(access, "bad", "b")
    with pytest.raises(TooManyAttempts):
        access.look("token-of-ann", "a")
    now = WINDOW_SECONDS
    assert access.look("token-of-ann", "a") is not None


def test_many_addresses_together_are_limited_but_whoever_was_known_gets_in(
    history: Engine, api: ApiServer, kubernetes: SmallKubernetes
) -> None:
    now = 0.0
    access = Access(history, api, clock=lambda: now)
    assert access.look("token-of-ann", "10.0.0.1") is not None
    now = CACHE_SECONDS
    tried = [refused(access, f"bad-{number}", f"10.1.{number % 200}.1") for number in range(2000)]
    assert tried.count(False) == MOST_FAILED_IN_ALL
    assert access.look("token-of-ann", "10.0.0.1") is not None
    assert kubernetes.count("tokenreviews") == 2 + MOST_FAILED_IN_ALL


@pytest.mark.parametrize("token", ["x" * 16_385, "a b", "a\x00b", "a\nb", "é", "\u202e"])
def test_what_no_token_looks_like_is_not_reviewed(
    history: Engine, api: ApiServer, kubernetes: SmallKubernetes, token: str
) -> None:
    assert Access(history, api).look(token) is None
    assert kubernetes.asked == []


def test_one_bad_token_many_times_at_once_is_one_review(
    history: Engine, api: ApiServer, kubernetes: SmallKubernetes
) -> None:
    access = Access(history, api)
    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(access.look, ["bad"] * 200)) == {None}
    assert kubernetes.count("tokenreviews") == 1


def test_what_is_remembered_of_a_bad_token_is_bounded_and_not_the_token(history: Engine, api: ApiServer) -> None:
    now = 0.0
    access = Access(history, api, clock=lambda: now)
    access.look("token-of-ann-misspelt", "a")
    kept = repr([vars(access), vars(access._failed), list(access._unknown), list(access._known)])
    assert "misspelt" not in kept
    assert access._unknown.maxsize == 10_000
    assert access._failed._counts.maxsize == 10_000
