"""Attacks on the installed web app: floods of bad tokens, half-open connections, copied cookies, other Hosts and audiences."""

import importlib.util
import json
import re
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import httpx
import pytest

from support.kubectl import Kubectl, eventually, run
from support.release import RELEASE, SYSTEM
from trainingtask_api.bounded_http import BoundedProtocol
from trainingtask_web.auth.rate_limit import MAX_FAILURES

API = "/api/v1/runs"
DEMO = Path(__file__).parents[2] / "hack" / "demo.py"
SUSPENDED = {
    "dataset": {"name": "support_tickets"},
    "model": {"name": "logistic_regression"},
    "runPolicy": {"suspend": True},
}


@pytest.fixture(scope="module")
def demo() -> ModuleType:
    """Return `hack/demo.py` as a module; it is in no package."""
    specification = importlib.util.spec_from_file_location("demo", DEMO)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def viewers(kubectl: Kubectl, demo: ModuleType) -> Iterator[tuple[str, str]]:
    """Yield tokens of the demo's viewer account, of the test namespace and of another."""
    other = f"web-attacks-{uuid.uuid4().hex[:6]}"
    run("kubectl", "create", "namespace", other)
    try:
        tokens = []
        for namespace in (kubectl.namespace, other):
            demo.create_viewer(demo.Kubernetes(None), namespace)
            tokens.append(Kubectl(namespace)("create", "token", demo.VIEWER).strip())
        yield tokens[0], tokens[1]
    finally:
        run("kubectl", "delete", "namespace", other, "--wait=false")


def get(web: str, token: str, path: str = API, **headers: str) -> httpx.Response:
    return httpx.get(web + path, headers={"Authorization": f"Bearer {token}", **headers}, timeout=120)


def count_reviews() -> int:
    """Return the number of TokenReviews that the API server has answered."""
    metrics = run("kubectl", "get", "--raw", "/metrics")
    lines = re.findall(r"^apiserver_request_total\{.*resource=\"tokenreviews\".*\} (\S+)$", metrics, re.MULTILINE)
    return round(sum(float(count) for count in lines))


def test_the_demos_account_sees_its_namespace_alone(
    web: str, viewers: tuple[str, str], kubectl: Kubectl, task: Callable[..., str], demo: ModuleType
) -> None:
    here, elsewhere = viewers
    name = task(f"seen-{uuid.uuid4().hex[:6]}", SUSPENDED)
    mine = eventually("the run", lambda: get(web, here, f"{API}?text={name}").json()["items"])
    assert [run["name"] for run in mine] == [name]
    assert {run["namespace"] for run in get(web, here).json()["items"]} == {kubectl.namespace}
    assert get(web, elsewhere).json()["items"] == []
    assert get(web, elsewhere, f"{API}/{mine[0]['id']}").status_code == 404
    account = f"--as=system:serviceaccount:{kubectl.namespace}:{demo.VIEWER}"
    for verb, resource, namespace in (
        ("create", "trainingtasks", kubectl.namespace), ("get", "secrets", kubectl.namespace),
        ("list", "trainingtasks", SYSTEM), ("get", "pods", SYSTEM),
    ):  # fmt: skip
        command = ["kubectl", "auth", "can-i", verb, resource, f"--namespace={namespace}", account]
        assert subprocess.run(command, capture_output=True, text=True, check=False).stdout == "no\n", command


def test_500_bad_tokens_cause_few_reviews_and_block_no_user(web: str, viewers: tuple[str, str]) -> None:
    assert get(web, viewers[0]).status_code == 200
    before = count_reviews()
    started = time.monotonic()
    with httpx.Client(base_url=web, timeout=120) as client:
        for number in range(500):
            headers = {"Authorization": f"Bearer {viewers[0][:-6]}{number:06}"}
            assert client.get(API, headers=headers).status_code in (401, 429)
    windows = 1 + int((time.monotonic() - started) // 60)
    assert count_reviews() - before <= (MAX_FAILURES + 5) * windows  # the kubelet sends some as well
    assert get(web, viewers[0]).status_code == 200


def test_half_open_connections_time_out_while_requests_are_answered(web: str, viewers: tuple[str, str]) -> None:
    halves = (b"GET /api", b"GET /api/v1/runs HTTP/1.1\r\nHost: localhost\r\n", b"")
    host, port = "127.0.0.1", int(web.rpartition(":")[2])
    connections = [socket.create_connection((host, port), timeout=60) for _ in range(200)]
    try:
        for number, connection in enumerate(connections):
            connection.sendall(halves[number % 3])
        assert get(web, viewers[0]).status_code == 200
        started = time.monotonic()
        for connection in connections:
            try:
                assert connection.recv(1) == b""
            except ConnectionResetError:
                continue
        assert time.monotonic() - started < BoundedProtocol.request_seconds + 120
    finally:
        for connection in connections:
            connection.close()
    assert get(web, viewers[0]).status_code == 200


def test_signing_out_invalidates_a_copied_cookie(web: str, viewers: tuple[str, str]) -> None:
    here = {"Origin": web}
    answer = httpx.post(f"{web}/session", data={"token": viewers[0]}, headers=here, timeout=120)
    cookie = {"Cookie": answer.headers["Set-Cookie"].partition(";")[0]}
    assert viewers[0] not in cookie["Cookie"]
    assert httpx.get(web + API, headers=cookie).status_code == 200
    assert httpx.post(f"{web}/session/end", headers=here | cookie).status_code == 303
    assert httpx.get(web + API, headers=cookie).status_code == 401
    log = run("kubectl", "logs", f"deployment/{RELEASE}-web", f"--namespace={SYSTEM}")
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    assert [line["event"] for line in lines if line["event"].startswith("sign-")][-2:] == ["sign-in", "sign-out"]
    assert lines[-1]["user"].endswith(":viewer")
    assert viewers[0] not in log


def test_another_host_and_another_audience_are_refused(web: str, viewers: tuple[str, str], kubectl: Kubectl) -> None:
    assert get(web, viewers[0], Host="evil.example").status_code == 400
    assert get(web, viewers[0], Host=f"{RELEASE}-web.{SYSTEM}.svc").status_code == 200
    token = kubectl("create", "token", "viewer", "--audience=vault").strip()
    eventually("the answer", lambda: get(web, token).status_code == 401)
