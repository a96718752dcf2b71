"""An HTTP server that answers as the Kubernetes API server does: reviews, namespaces, tasks, pods, logs and watches."""

import json
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Queue
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from trainingtask_api import names

Object = dict[str, Any]
Answer = tuple[int, Any]  # status and body: text and bytes are sent as they are, everything else as JSON

OWN_TOKEN = "token-of-the-web-app"
TASKS = f"/apis/{names.GROUP}/{names.VERSION}"


@dataclass(frozen=True)
class Request:
    """A request as it was received."""

    method: str
    path: str
    """Quoted, with the query."""
    token: str
    body: Object | None


class FakeApiServer:
    """Who is authenticated, what they may do, and which objects exist; a test changes it as it needs."""

    def __init__(self) -> None:
        self.users: dict[str, Object] = {}
        """Token -> user, as in a TokenReview's status. Without any, every token may do everything with tasks and pods."""
        self.allowed: set[tuple[str, str, str]] = set()
        """User's name, verb, and namespace ('' for all of them)."""
        self.namespaces: dict[str, str] = {}
        """Name -> uid."""
        self.tasks: dict[tuple[str, str], Object] = {}
        """Namespace and name -> task, in the order of creation."""
        self.pods: list[Object] = []
        self.objects: dict[tuple[str, str], Object] = {}
        """Plural and name -> Job, or object of the core API group, that is created, read or deleted by its name."""
        self.events: list[Object] = []
        self.new_pod_status: Object = {}
        """The status of pods that are created."""
        self.logs: dict[str, bytes] = {}
        self.watches: Queue[list[Object]] = Queue()
        """Lists of events: a watch sends the next list, waits for it up to 10 s, and ends."""
        self.page_size = 500
        self.requests: list[Request] = []
        self.respond: Callable[[str, str], Answer | None] = lambda method, path: None
        """Method and path -> the answer, None for the usual one."""
        self.url = ""

    def add_user(self, token: str, name: str, **more: Any) -> str:
        """Let a token authenticate as a user; return the token."""
        self.users[token] = {"username": name, "uid": f"uid-of-{name}", "groups": ["system:authenticated"], **more}
        return token

    def add(self, task: Object) -> Object:
        """Store a task; return it."""
        self.tasks[task["metadata"]["namespace"], task["metadata"]["name"]] = task
        return task

    @property
    def created(self) -> list[Object]:
        """The stored tasks, oldest first."""
        return list(self.tasks.values())

    def fail(self, part: str | None) -> None:
        """Answer paths with this part, '' for all, with status 500; None for none."""
        error = 500, status(500, "InternalError", "etcdserver: request timed out")
        self.respond = lambda _, path: error if part is not None and part in path else None

    def reject_tasks(self, code: int, message: str) -> None:
        """Refuse every creation of a task, as a validation rule does."""
        error = code, status(code, "Invalid", message)
        self.respond = lambda method, path: error if method == "POST" and path.startswith(TASKS) else None

    def count(self, part: str) -> int:
        """Return the number of requests whose path has this part."""
        return sum(part in request.path for request in self.requests)

    def get_bodies(self, part: str = "") -> list[Object]:
        """Return the bodies sent to paths with this part."""
        return [request.body for request in self.requests if part in request.path and request.body is not None]

    def answer(self, request: Request) -> Answer:
        """Return the answer to a request that is no watch."""
        url = urlsplit(request.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        if url.path.startswith(TASKS):
            return self._answer_tasks(request, url.path, query)
        if url.path.startswith(("/api/v1/namespaces/", "/apis/batch/v1/namespaces/")):
            return self._answer_core(request, url.path, query)
        if request.token != OWN_TOKEN:
            return 401, status(401, "Unauthorized", "Unauthorized")
        if url.path.endswith("reviews"):
            return self._review(url.path, request.body or {})
        assert (request.method, url.path) == ("GET", "/api/v1/namespaces")
        items = [{"metadata": {"name": name, "uid": uid}} for name, uid in self.namespaces.items()]
        return self._list_page("NamespaceList", items, query)

    def _review(self, path: str, body: Object) -> Answer:
        spec = body["spec"]
        if path.endswith("/tokenreviews"):
            user = self.users.get(spec["token"])
            result = {"authenticated": True, "user": user} if user else {"error": "[invalid bearer token]"}
            return 201, body | {"status": result}
        attributes = spec["resourceAttributes"]
        assert (attributes["group"], attributes["resource"]) == (names.GROUP, names.PLURAL)
        is_allowed = (spec["user"], attributes["verb"], attributes["namespace"]) in self.allowed
        return 201, body | {"status": {"allowed": is_allowed}}

    def _answer_tasks(self, request: Request, path: str, query: dict[str, str]) -> Answer:
        parts = [unquote(part) for part in path.removeprefix(TASKS).strip("/").split("/")]
        namespace = parts[1] if parts[0] == "namespaces" else None
        name = parts[3] if len(parts) > 3 else None
        if request.method == "POST":
            return self._create(str(namespace), request)
        if name is not None:
            task = self.tasks.get((str(namespace), name))
            if task is None:
                message = f'{names.PLURAL}.{names.GROUP} "{name}" not found'
                return 404, status(404, "NotFound", message, name=name, kind=names.PLURAL)
            if request.method == "DELETE":
                del self.tasks[task["metadata"]["namespace"], name]
            return 200, task
        # The items of a real list have neither apiVersion nor kind.
        items = [
            {key: value for key, value in task.items() if key not in ("apiVersion", "kind")}
            for (where, _), task in sorted(self.tasks.items())
            if namespace in (None, where)
        ]
        return self._list_page(f"{names.KIND}List", items, query)

    def _create(self, namespace: str, request: Request) -> Answer:
        task = request.body or {}
        if self.users:
            user = self.users.get(request.token)
            if user is None:
                return 401, status(401, "Unauthorized", "Unauthorized")
            if (user["username"], "create", namespace) not in self.allowed:
                what = f'cannot create resource "{names.PLURAL}" in API group "{names.GROUP}"'
                message = f'User "{user["username"]}" {what} in the namespace "{namespace}"'
                return 403, status(403, "Forbidden", f"{names.PLURAL}.{names.GROUP} is forbidden: {message}")
        if (namespace, task["metadata"]["name"]) in self.tasks:
            return 409, status(409, "AlreadyExists", "already exists", name=task["metadata"]["name"])
        given = {"namespace": namespace, "uid": str(uuid.uuid4()), "creationTimestamp": "2026-05-04T12:00:00Z"}
        return 201, self.add(task | {"metadata": task["metadata"] | given})

    def _answer_core(self, request: Request, path: str, query: dict[str, str]) -> Answer:
        plural, *names_ = [unquote(part) for part in path.partition("/namespaces/")[2].split("/")[1:]]
        if request.method == "POST":
            created: Object = {**(request.body or {}), **({"status": self.new_pod_status} if plural == "pods" else {})}
            created["metadata"]["uid"] = f"uid-{created['metadata']['name']}"
            self.objects[plural, created["metadata"]["name"]] = created
            return 201, created
        if not names_:
            return 200, {"items": self.events if plural == "events" else self._find_pods(query)}
        if names_[1:] == ["log"]:
            return 200, self.logs[names_[0]]
        key = plural, names_[0]
        if key not in self.objects:
            return 404, status(404, "NotFound", f'{plural} "{key[1]}" not found', name=key[1], kind=plural)
        return 200, self.objects.pop(key) if request.method == "DELETE" else self.objects[key]

    def _find_pods(self, query: dict[str, str]) -> list[Object]:
        label, _, value = query["labelSelector"].partition("=")
        return [pod for pod in self.pods if pod["metadata"]["labels"].get(label) == value]

    def _list_page(self, kind: str, items: list[Object], query: dict[str, str]) -> Answer:
        start = int(query.get("continue", 0))
        end = start + min(self.page_size, int(query["limit"]))
        more = {"continue": str(end)} if end < len(items) else {}
        return 200, {"kind": kind, "metadata": {"resourceVersion": "7", **more}, "items": items[start:end]}

    def apply_event(self, event: Object) -> None:
        """Change the stored tasks as an event of a watch reports it."""
        metadata = event["object"].get("metadata", {})
        if event["type"] == "DELETED":
            self.tasks.pop((metadata["namespace"], metadata["name"]), None)
        elif event["type"] != "ERROR":
            self.add(event["object"])


def status(code: int, reason: str, message: str, **details: str) -> Object:
    """Return an error as the API server writes it."""
    state = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
    return {**state, "message": message, "reason": reason, "details": details, "code": code}


def make_kubeconfig(url: str, token: str, namespace: str = "default") -> Object:
    """Return a kubeconfig whose one context 'here' names a server and a user with a token."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me", "namespace": namespace}}],
        "clusters": [{"name": "here", "cluster": {"server": url}}],
        "users": [{"name": "me", "user": {"token": token}}],
    }


@contextmanager
def serve_fake_api() -> Iterator[FakeApiServer]:
    """Serve one while the block runs."""
    api = FakeApiServer()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"api": api}))
    api.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield api
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    api: FakeApiServer
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet: else the second waits for the acknowledgement of the first

    def log_message(self, *_: object) -> None:
        pass

    def _handle(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        body = json.loads(self.rfile.read(length)) if length else None
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        request = Request(self.command, self.path, token, body)
        self.api.requests.append(request)
        answer = self.api.respond(request.method, request.path)
        if answer is None and "watch=true" in request.path:
            self._send_watch()
            return
        code, content = answer or self.api.answer(request)
        if not isinstance(content, str | bytes):
            content = json.dumps(content)
        data = content.encode() if isinstance(content, str) else content
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_DELETE = _handle  # noqa: N815 - the library's names

    def _send_watch(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for event in self.api.watches.get(timeout=10):
            data = json.dumps(event).encode() + b"\n"
            # In two chunks: a line of a watch may be split anywhere.
            for chunk in (data[:7], data[7:]):
                self.wfile.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
                self.wfile.flush()
            self.api.apply_event(event)
        self.wfile.write(b"0\r\n\r\n")
