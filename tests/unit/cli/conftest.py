"""A small HTTP server that answers as the API server does, and the command line that talks to it."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import yaml
from typer.testing import CliRunner

from support import specs
from support.results import RESULTS
from trainingtask_api import names
from trainingtask_cli.__main__ import app

Object = dict[str, Any]
Answer = tuple[int, Any]  # text is sent as it is, everything else as JSON

TASKS = f"/apis/{names.GROUP}/{names.VERSION}"
TOKEN = "the-users-token"


def status(code: int, reason: str, message: str, **details: str) -> Object:
    """Return an error as the API server says it."""
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "details": details,
        "code": code,
    }


class ApiServer:
    """Holds tasks, pods and logs; a test may let it refuse what it likes."""

    def __init__(self) -> None:
        self.tasks: dict[tuple[str, str], Object] = {}
        self.pods: list[Object] = []
        self.logs: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.bodies: list[Object] = []
        self.tokens: set[str | None] = set()
        self.page = 500
        self.refuse: Callable[[str, str], Answer | None] = lambda method, path: None
        # What the next watches say: each a list of events; then watches stay silent.
        self.watches: Queue[list[Object]] = Queue()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                server._serve(self, "GET")

            def do_POST(self) -> None:
                server._serve(self, "POST")

            def do_DELETE(self) -> None:
                server._serve(self, "DELETE")

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def add(self, task: Object) -> Object:
        self.tasks[task["metadata"]["namespace"], task["metadata"]["name"]] = task
        return task

    def _serve(self, handler: BaseHTTPRequestHandler, method: str) -> None:
        length = int(handler.headers.get("Content-Length", 0))
        body = json.loads(handler.rfile.read(length)) if length else None
        self.requests.append((method, handler.path))
        self.tokens.add(handler.headers.get("Authorization"))
        if body is not None:
            self.bodies.append(body)
        url = urlsplit(handler.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        refused = self.refuse(method, handler.path)
        if refused is None and query.get("watch"):
            self._watch(handler)
            return
        code, answer = refused or self._answer(method, url.path, query, body)
        data = (
            answer
            if isinstance(answer, bytes)
            else answer.encode()
            if isinstance(answer, str)
            else json.dumps(answer).encode()
        )
        handler.send_response(code)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    def _watch(self, handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for event in self.watches.get(timeout=10):
            data = json.dumps(event).encode() + b"\n"
            # In two pieces: a line of a watch is not a piece of the network's.
            for piece in (data[:7], data[7:]):
                handler.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
                handler.wfile.flush()
            if event["type"] == "DELETED":
                metadata = event["object"]["metadata"]
                self.tasks.pop((metadata["namespace"], metadata["name"]), None)
            elif event["type"] != "ERROR":
                self.add(event["object"])
        handler.wfile.write(b"0\r\n\r\n")

    def _answer(self, method: str, path: str, query: dict[str, str], body: Any) -> Answer:
        parts = [unquote(part) for part in path.removeprefix(TASKS).strip("/").split("/")]
        if path.startswith("/api/v1/namespaces/"):
            return self._pods(path, query)
        namespace = parts[1] if parts[0] == "namespaces" else None
        name = parts[3] if len(parts) > 3 else None
        if method == "POST":
            if (namespace, body["metadata"]["name"]) in self.tasks:
                return 409, status(409, "AlreadyExists", "already exists", name=body["metadata"]["name"])
            made = {**body, "metadata": {**body["metadata"], "namespace": namespace, "uid": "new"}}
            return 201, self.add(made)
        if name is not None:
            task = self.tasks.get((str(namespace), name))
            if task is None:
                message = f'{names.PLURAL}.{names.GROUP} "{name}" not found'
                return 404, status(404, "NotFound", message, name=name, kind=names.PLURAL)
            if method == "DELETE":
                del self.tasks[task["metadata"]["namespace"], name]
            return 200, task
        # As the real one: the items of a list do not say what they are.
        items = [
            {key: value for key, value in task.items() if key not in ("apiVersion", "kind")}
            for (where, _), task in sorted(self.tasks.items())
            if namespace in (None, where)
        ]
        start = int(query.get("continue", 0))
        end = start + min(self.page, int(query["limit"]))
        more = {"continue": str(end)} if end < len(items) else {}
        listed = {"kind": f"{names.KIND}List", "metadata": {"resourceVersion": "7", **more}, "items": items[start:end]}
        return 200, listed

    def _pods(self, path: str, query: dict[str, str]) -> Answer:
        if path.endswith("/log"):
            return 200, self.logs[path.split("/")[-2]]
        label, _, value = query["labelSelector"].partition("=")
        return 200, {"items": [pod for pod in self.pods if pod["metadata"]["labels"].get(label) == value]}


@pytest.fixture
def server() -> Iterator[ApiServer]:
    running = ApiServer()
    yield running
    running.stop()


def kubeconfig_of(url: str, **cluster: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me", "namespace": "team-a"}}],
        "clusters": [{"name": "here", "cluster": {"server": url, **cluster}}],
        "users": [{"name": "me", "user": {"token": TOKEN}}],
    }


@pytest.fixture
def kubeconfig(server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The kubeconfig of the server, which is the current one."""
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(kubeconfig_of(server.url)))
    monkeypatch.setenv("KUBECONFIG", str(path))
    return path


@pytest.fixture
def cli(kubeconfig: Path) -> Callable[..., Any]:
    """Run a command; its result has `exit_code`, `stdout` and `stderr`."""

    def run(*arguments: str, stdin: str | None = None) -> Any:
        result = CliRunner().invoke(app, list(arguments), input=stdin, prog_name="kubectl trainingtask")
        # A traceback is never an answer.
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
        return result

    return run


def at_time(minutes: float) -> str:
    """Return a time on the tests' day, as the API server writes it."""
    return f"2026-05-04T10:{int(minutes):02d}:{round(minutes % 1 * 60):02d}Z"


def a_task(name: str, state: str = "", *, namespace: str = "team-a", reason: str = "", **more: Any) -> Object:
    """Return a task as the API server shows it; `more` are fields of its status, `spec` is laid over the usual one."""
    spec = specs.changed(specs.CLASSICAL, **{"device": "cpu", "training__seed": 42, **more.pop("spec", {})})
    kinds = {"Running": "Running", "Succeeded": "Complete", "Failed": "Failed", "Pending": "Running"}
    conditions = [a_condition("Accepted", "True", "Accepted", "The task is valid; its Job is created.", 0)]
    if state:
        value = "False" if state == "Pending" else "True"
        conditions.append(a_condition(kinds[state], value, reason or state, f"{name} is {state}.", 1))
    told = {"state": state, "reason": reason or state, "conditions": conditions} if state else {}
    metadata = {
        "name": name,
        "namespace": namespace,
        "uid": f"uid-{namespace}-{name}",
        "creationTimestamp": at_time(0),
        "managedFields": [{"manager": "kubectl"}],
    }
    task = specs.task(name, spec, namespace) | {"metadata": metadata, "status": told | more}
    return task if task["status"] else {key: value for key, value in task.items() if key != "status"}


def a_condition(kind: str, value: str, reason: str, message: str, minute: float) -> Object:
    return {
        "type": kind,
        "status": value,
        "reason": reason,
        "message": message,
        "lastTransitionTime": at_time(minute),
        "observedGeneration": 1,
    }


def a_report(phase: str = "Training", **more: Any) -> Object:
    """Return what a trainer says while it trains."""
    report = {"attempt": 1, "phase": phase, "epoch": 2, "epochs": 3, "step": 42, "totalSteps": 100, "progress": "42%"}
    return {**report, "loss": 0.21, "samplesPerSecond": 12.5, "eta": "2m10s", **more}


def a_result(f1: float = 0.5454, **more: Any) -> Object:
    """Return what a trainer says when it is done."""
    results = RESULTS.to_json()
    results["evaluation"]["micro"]["f1"] = f1
    done = {"attempt": 1, "phase": "Done", "progress": "100%", "score": f"{f1:.3f}"}
    return {**done, "results": results | {"warnings": ["rare labels were not learnt"], **more}}


@pytest.fixture
def make() -> SimpleNamespace:
    """The makers of what the API server shows."""
    return SimpleNamespace(
        task=a_task, condition=a_condition, report=a_report, result=a_result, status=status, kubeconfig=kubeconfig_of
    )
