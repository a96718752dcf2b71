"""Authentication and authorization: results, caching, and failures of the API server."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine

from support.fake_api_server import FakeApiServer
from trainingtask_history.tables import run_id
from trainingtask_web.auth.authorization import CACHE_SECONDS, UNKNOWN_CACHE_SECONDS, Authenticator
from trainingtask_web.auth.errors import ApiServerError
from trainingtask_web.auth.kubernetes import ApiServer

Client = Callable[..., TestClient]
API = "/api/v1/runs"
PATHS = [
    API,
    f"{API}/export",
    f"{API}/compare?ids={run_id('uid-1', 1)}",
    f"{API}/{run_id('uid-1', 1)}",
    f"{API}/{run_id('uid-1', 1)}/metrics",
    f"{API}/{run_id('uid-1', 1)}/events",
    "/",
    f"/{run_id('uid-1', 1)}",
    "/runs",
]


@pytest.mark.parametrize("path", PATHS)
def test_unauthenticated_requests_get_401_on_every_path(client: Client, history: Engine, path: str) -> None:
    for headers in (
        {},
        {"Authorization": "Bearer token-of-nobody"},
        {"Authorization": "Bearer "},
        {"Authorization": "Basic YW5uOnRva2VuLW9mLWFubg=="},
        {"Authorization": "token-of-ann"},
        {"Cookie": "__Host-trainingtask=token-of-ann"},
    ):
        answer = client(history).get(path, headers=headers)
        assert answer.status_code == 401, headers
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert "task-" not in answer.text


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("failing", ["", "tokenreviews", "subjectaccessreviews", "namespaces"])
def test_a_failing_api_server_means_503_on_every_path(
    client: Client, history: Engine, kubernetes: FakeApiServer, path: str, failing: str
) -> None:
    kubernetes.fail(failing)
    answer = client(history, "token-of-ann").get(path)
    assert answer.status_code == 503
    assert answer.json() == {"detail": "Kubernetes cannot say now what you may see: try again in a moment."}
    kubernetes.fail(None)
    assert client(history, "token-of-ann").get(path).status_code in (200, 303)


def test_an_unreachable_api_server_means_503(client: Client, history: Engine, kubernetes: FakeApiServer) -> None:
    kubernetes.url = "http://127.0.0.1:1"
    assert client(history, "token-of-ann").get(API).status_code == 503


def test_reviews_are_cached_for_half_a_minute(history: Engine, api: ApiServer, kubernetes: FakeApiServer) -> None:
    now = 0.0
    authenticator = Authenticator(history, api, clock=lambda: now)

    def seen() -> frozenset[str] | None:
        found = authenticator.authenticate("token-of-ann")
        assert found is not None
        return found.scope.namespace_uids

    assert seen() == {"uid-of-team-a"}
    asked = len(kubernetes.requests)
    kubernetes.allowed.add(("ann", "list", "team-b"))
    now = CACHE_SECONDS - 0.1
    assert seen() == {"uid-of-team-a"}
    assert len(kubernetes.requests) == asked
    now = CACHE_SECONDS
    assert seen() == {"uid-of-team-a", "uid-of-team-b"}
    del kubernetes.users["token-of-ann"]
    now = 2 * CACHE_SECONDS
    assert authenticator.authenticate("token-of-ann") is None


def test_failures_are_not_cached_and_unknown_tokens_only_briefly(
    history: Engine, api: ApiServer, kubernetes: FakeApiServer
) -> None:
    now = 0.0
    authenticator = Authenticator(history, api, clock=lambda: now)
    kubernetes.fail("subjectaccessreviews")
    with pytest.raises(ApiServerError):
        authenticator.authenticate("token-of-ann")
    kubernetes.fail(None)
    assert authenticator.authenticate("token-of-ann") is not None
    assert authenticator.authenticate("new") is None
    kubernetes.add_user("new", "ann")
    now = UNKNOWN_CACHE_SECONDS
    assert authenticator.authenticate("new") is not None


def test_concurrent_requests_with_one_token_cause_one_review(
    history: Engine, api: ApiServer, kubernetes: FakeApiServer
) -> None:
    authenticator = Authenticator(history, api, clock=lambda: 0.0)
    together = threading.Barrier(8)

    def authenticate() -> str:
        together.wait()
        found = authenticator.authenticate("token-of-ann")
        assert found is not None
        return found.name

    with ThreadPoolExecutor(8) as pool:
        assert {future.result() for future in [pool.submit(authenticate) for _ in range(8)]} == {"ann"}
    assert kubernetes.count("tokenreviews") == 1


def test_access_is_reviewed_for_namespaces_with_runs_and_the_default_one(
    history: Engine, api: ApiServer, kubernetes: FakeApiServer
) -> None:
    kubernetes.namespaces["team-d"] = "uid-of-team-d"
    Authenticator(history, api, "team-d").authenticate("token-of-ann")
    asked = [body["spec"]["resourceAttributes"]["namespace"] for body in kubernetes.get_bodies("subjectaccessreviews")]
    assert sorted(asked) == ["", "team-a", "team-b", "team-d"]


def test_an_access_review_has_name_uid_groups_and_extra(
    history: Engine, api: ApiServer, kubernetes: FakeApiServer
) -> None:
    extra = {"authentication.kubernetes.io/pod-name": ["p"]}
    kubernetes.add_user("sa", "system:serviceaccount:x:y", groups=["system:serviceaccounts"], extra=extra)
    Authenticator(history, api).authenticate("sa")
    spec = kubernetes.get_bodies("subjectaccessreviews")[0]["spec"]
    assert (spec["user"], spec["uid"], spec["groups"], spec["extra"]) == (
        "system:serviceaccount:x:y",
        "uid-of-system:serviceaccount:x:y",
        ["system:serviceaccounts"],
        extra,
    )


def test_the_repr_of_a_principal_has_no_token(history: Engine, api: ApiServer) -> None:
    assert "token-of-ann" not in repr(Authenticator(history, api).authenticate("token-of-ann"))
