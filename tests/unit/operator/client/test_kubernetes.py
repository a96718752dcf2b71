"""The requests of the client, to a server that responds as a test defines."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import unquote

import kopf
import pytest
from aiohttp import web
from hypothesis import example, given
from hypothesis import strategies as st
from yarl import URL

from support.ports import free_port
from trainingtask_api import names
from trainingtask_operator.client import kubernetes
from trainingtask_operator.client.errors import ClusterError
from trainingtask_operator.client.kubernetes import LOG_BYTES, LOG_LINES, KubernetesClient, connect
from trainingtask_operator.handlers import login

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Token:
    """Credentials of a plain HTTP server."""

    def __init__(self, server: str) -> None:
        self.server = server
        self.token = "first"

    def as_http_headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    def as_ssl_context(self) -> ssl.SSLContext:
        return ssl.create_default_context()


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[tuple[KubernetesClient, Token]]:
    """Serve every request with this handler; yield a client and its credentials."""
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    token = Token(f"http://127.0.0.1:{port}")
    try:
        async with connect(lambda: token) as client:
            yield client, token
    finally:
        await runner.cleanup()


async def test_a_log_tail_is_bounded_in_lines_and_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainingtask_operator.client.kubernetes.LOG_TIMEOUT_SECONDS", 120.0)
    requested: list[str] = []

    async def log(request: web.Request) -> web.Response:
        requested.append(request.query["tailLines"])
        return web.Response(text="é" * 100_000 + "the end")

    async with serving(log) as (client, _):
        tail = await client.read_log_tail("n", "p")
    assert requested == [str(LOG_LINES)]
    assert tail.endswith("éthe end")
    assert LOG_BYTES - 2 <= len(tail.encode()) <= LOG_BYTES


@pytest.mark.parametrize(
    ("text", "message"),
    [('{"kind": "Status", "message": "jobs is forbidden"}', "jobs is forbidden"), ("<html>", "403")],
)
async def test_an_error_has_the_api_servers_message(text: str, message: str) -> None:
    async def refuse(_: web.Request) -> web.Response:
        return web.Response(status=403, text=text)

    async with serving(refuse) as (client, _):
        with pytest.raises(ClusterError, match=message) as error:
            await client.get_workload("Job", "n", "j")
    assert (error.value.status, error.value.is_rejected, error.value.is_not_found) == (403, True, False)


async def test_no_answer_has_status_0() -> None:
    async def break_off(request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async with serving(break_off) as (client, _):
        with pytest.raises(ClusterError, match="does not answer") as error:
            await client.get_workload("Job", "n", "j")
    assert (error.value.status, error.value.is_rejected) == (0, False)


async def test_no_proxy_of_the_environment_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)

    async def answer(_: web.Request) -> web.Response:
        return web.json_response({"metadata": {"uid": "u"}})

    async with serving(answer) as (client, _):
        assert await client.get_namespace("n") == {"metadata": {"uid": "u"}}
    assert kopf.OperatorSettings().networking.trust_env is False


async def test_all_pages_of_a_list_are_read() -> None:
    async def page(request: web.Request) -> web.Response:
        number = int(request.query.get("continue", "0"))
        more = {"continue": str(number + 1)} if number < 2 else {}
        return web.json_response({"items": [{"number": number}], "metadata": {"resourceVersion": "1", **more}})

    async with serving(page) as (client, _):
        assert [items[0]["number"] async for items, _ in client.list_objects("tasks")] == [0, 1, 2]


async def test_pages_of_large_objects_are_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 600 objects every one but the first 500 has 3,000 bytes; a page may have 10,000."""
    monkeypatch.setattr(kubernetes, "MAX_PAGE_BYTES", 10_000)
    limits: list[int] = []

    async def page(request: web.Request) -> web.Response:
        limits.append(int(request.query["limit"]))
        first = int(request.query.get("continue", "0"))
        last = min(first + limits[-1], 600)
        items = [{"n": number, **({"x": "x" * 3000} if number >= 500 else {})} for number in range(first, last)]
        more = {"continue": str(last)} if last < 600 else {}
        return web.json_response({"items": items, "metadata": {"resourceVersion": "1", **more}})

    async with serving(page) as (client, _):
        listed = [item["n"] async for items, _ in client.list_objects("tasks") for item in items]
    assert listed == list(range(600))
    assert limits[:4] == [500, 500, 62, 7]
    assert set(limits[4:]) == {1}, "7 of them are too large as well"


@pytest.mark.parametrize(
    ("kind", "namespace", "path"),
    [
        ("jobs", None, "/apis/batch/v1/jobs"),
        ("jobs", "a", "/apis/batch/v1/namespaces/a/jobs"),
        ("tasks", "a", f"/apis/{names.API_VERSION}/namespaces/a/{names.PLURAL}"),
        ("job events", "a", "/api/v1/namespaces/a/events"),
        ("pod events", "a", "/apis/events.k8s.io/v1/namespaces/a/events"),
    ],
)
async def test_a_list_and_its_watch_are_of_one_collection(kind: str, namespace: str | None, path: str) -> None:
    requested: list[tuple[str, dict[str, str]]] = []

    async def answer(request: web.Request) -> web.Response:
        selectors = {key: value for key, value in request.query.items() if key.endswith("Selector")}
        requested.append((request.path, selectors))
        return web.json_response({"items": [], "metadata": {"resourceVersion": "1"}, "type": "BOOKMARK", "object": {}})

    async with serving(answer) as (client, _):
        assert [items async for items, _ in client.list_objects(kind, namespace)] == [[]]
        assert [event async for event in client.watch_objects(kind, "1", namespace)] == []
    listed, watched = requested
    assert listed == watched
    assert listed[0] == path


async def test_a_token_that_was_renewed_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens: list[str] = []

    async def record(request: web.Request) -> web.Response:
        tokens.append(request.headers["Authorization"])
        return web.json_response({})

    async with serving(record) as (client, token):
        await client.get_workload("Job", "n", "j")
        token.token = "second"
        monkeypatch.setattr(kubernetes, "LOGIN_REFRESH_SECONDS", -1.0)
        await client.get_workload("Job", "n", "j")
    assert tokens == ["Bearer first", "Bearer second"]


async def test_a_watch_is_read_line_by_line_however_the_bytes_come() -> None:
    async def watch(request: web.Request) -> web.StreamResponse:
        assert request.query["resourceVersion"] == "7"
        response = web.StreamResponse()
        await response.prepare(request)
        for part in (
            b'{"type": "ADDED", "object": {"a"',
            b': 1}}\n{"type": "BOOKMARK", "object": {}}\n{"type"',
            b': "X"',
        ):
            await response.write(part)
        return response

    async with serving(watch) as (client, _):
        events = [event async for event in client.watch_objects("pods", "7")]
    assert events == [{"type": "ADDED", "object": {"a": 1}}, {"type": "BOOKMARK", "object": {}}]


@pytest.mark.parametrize("late", [False, True])
async def test_an_expired_version_raises_410_from_the_response_or_the_stream(late: bool) -> None:
    status = {"kind": "Status", "code": 410, "message": "too old resource version"}

    async def refuse(_: web.Request) -> web.Response:
        if late:
            return web.json_response({"type": "ERROR", "object": status}, dumps=lambda event: f"{json.dumps(event)}\n")
        return web.json_response(status, status=410)

    async with serving(refuse) as (client, _):
        with pytest.raises(ClusterError, match="too old") as error:
            await anext(client.watch_objects("jobs", "1"))
    assert error.value.status == 410


async def test_a_silent_watch_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubernetes, "WATCH_IDLE_SECONDS", 0.05)
    ended = asyncio.Event()

    async def send_nothing(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await ended.wait()
        return response

    async with serving(send_nothing) as (client, _):
        with pytest.raises(ClusterError, match="does not answer") as error:
            await anext(client.watch_objects("jobs", "1"))
        ended.set()
    assert error.value.status == 0


@pytest.mark.parametrize("served", [["v1beta1"], ["v1beta1", "v1beta2"], ["v1"]])
async def test_workloads_are_read_and_changed_in_the_newest_served_version(served: list[str]) -> None:
    requests: list[tuple[str, str]] = []

    async def respond(request: web.Request) -> web.Response:
        if request.path == "/apis/kueue.x-k8s.io":
            return web.json_response({"versions": [{"version": version} for version in served]})
        requests.append((request.method, request.path))
        assert request.method == "PATCH" or request.query["labelSelector"] == "kueue.x-k8s.io/job-uid"
        return web.json_response({"items": [{}], "metadata": {"resourceVersion": "7"}})

    async with serving(respond) as (client, _):
        if served == ["v1"]:
            with pytest.raises(ClusterError, match="v1beta2, v1beta1") as error:
                await anext(client.list_objects("workloads"))
            assert error.value.is_not_served
            return
        assert await anext(client.list_objects("workloads")) == ([{"kind": "Workload"}], "7")
        await client.patch_kueue_workload("n", "w", {"spec": {"active": False}})
    api = f"/apis/kueue.x-k8s.io/{served[-1]}"
    assert requests == [("GET", f"{api}/workloads"), ("PATCH", f"{api}/namespaces/n/workloads/w")]


HOSTILE = "x/../../../../../api/v1/namespaces/kube-system/secrets/any?a="


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=80), st.text(max_size=80))
@example(HOSTILE, "t")
@example("n", "..")
@example("n", "%2e%2e")
@example("n?watch=true", "t#a")
@example("n", "t+&=;@:!\n")
def test_a_path_names_its_object_or_is_refused(namespace: str, name: str) -> None:
    if any(part in ("", ".", "..") or "/" in part or "%" in part for part in (namespace, name)):
        with pytest.raises(ClusterError):
            kubernetes._build_namespaced_path(kubernetes._TASKS, namespace, names.PLURAL, name)
        return
    path = kubernetes._build_namespaced_path(kubernetes._TASKS, namespace, names.PLURAL, name)
    url = URL(f"http://server{path}")  # as aiohttp reads it
    wanted = [
        "apis",
        names.GROUP,
        names.VERSION,
        "namespaces",
        namespace,
        names.PLURAL,
        name.encode("utf-8", "replace").decode(),
    ]
    assert [unquote(part) for part in url.raw_path.split("/")] == ["", *wanted]
    assert (url.query_string, url.fragment, url.host) == ("", "", "server")


@pytest.mark.parametrize("hostile", [HOSTILE, "", "..", "a/b"])
async def test_no_request_is_made_for_an_invalid_name(hostile: str) -> None:
    requested: list[str] = []

    async def record(request: web.Request) -> web.Response:
        requested.append(request.raw_path)
        return web.json_response({})

    async with serving(record) as (client, _):
        for namespace, name in ((hostile, "t"), ("n", hostile)):
            with pytest.raises(ClusterError, match="cannot be a part of a path"):
                await client.get_task(namespace, name)
            with pytest.raises(ClusterError, match="cannot be a part of a path"):
                await client.read_log_tail(namespace, name)
    assert requested == []


async def test_the_api_server_is_never_asked_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.json_response({"path": request.path})

    for variable in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(variable, f"http://127.0.0.1:{free_port()}")  # nobody listens there
    async with serving(answer) as (client, _):
        assert (await client.get_workload("Job", "n", "j"))["path"] == "/apis/batch/v1/namespaces/n/jobs/j"


async def test_a_jobset_has_the_paths_of_its_own_api() -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.json_response({"path": f"{request.method} {request.path}"})

    path = f"/apis/{names.JOBSET_API_VERSION}/namespaces/n/jobsets"
    jobset = {"kind": names.JOBSET_KIND, "metadata": {"namespace": "n"}}
    async with serving(answer) as (client, _):
        assert (await client.get_workload(names.JOBSET_KIND, "n", "j"))["path"] == f"GET {path}/j"
        assert (await client.create_workload(jobset))["path"] == f"POST {path}"
        assert (await client.patch_workload(names.JOBSET_KIND, "n", "j", {}))["path"] == f"PATCH {path}/j"
        claim = await client.get_claim("n", "c")
    assert claim["path"] == "GET /api/v1/namespaces/n/persistentvolumeclaims/c"


@pytest.mark.parametrize(
    ("message", "is_not_served"),
    [
        ("404 page not found", True),
        ("the server could not find the requested resource", True),
        ('jobsets.jobset.x-k8s.io "t" not found', False),
        ('namespaces "n" not found', False),
    ],
)
def test_a_404_that_names_no_object_is_about_the_kind(message: str, is_not_served: bool) -> None:
    assert ClusterError(404, message).is_not_served == is_not_served
    assert not ClusterError(500, message).is_not_served


def test_kopf_reads_no_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = {
        "current-context": "a",
        "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
        "clusters": [{"name": "a", "cluster": {"server": "http://api.example.com"}}],
        "users": [{"name": "a", "user": {}}],
    }
    (tmp_path / "kubeconfig").write_text(json.dumps(config))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    credentials = login(settings=kopf.OperatorSettings())
    assert (credentials.server, credentials.trust_env) == ("http://api.example.com", False)
