"""A small HTTP server that answers the web app's questions as the Kubernetes API server does."""

import json
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from trainingtask_web.auth.kubernetes import Address, ApiServer

Json = dict[str, Any]
OWN_TOKEN = "token-of-the-web-app"
_TASKS = "/apis/trainingtask.dev/v1alpha1/namespaces/"


class SmallKubernetes:
    """Who is known, what they may, and which namespaces live; tests change it as they like."""

    def __init__(self) -> None:
        self.users: dict[str, Json] = {}
        """Token -> user, as a TokenReview's status has it."""
        self.may: set[tuple[str, str, str]] = set()
        """User's name, verb, and namespace ('' for all of them)."""
        self.namespaces: dict[str, str] = {}
        """Name -> uid."""
        self.refusal: tuple[int, str] | None = None
        """A refusal of every task, as a CEL rule's; None: whoever may create one does."""
        self.failing: str | None = None
        """A path that is answered with a fault; '' for all of them."""
        self.asked: list[tuple[str, Json]] = []
        """Path and body of every request."""
        self.created: list[Json] = []
        self.page = 2
        """Namespaces of one answer: so that a few take several."""
        self.url = ""

    def knows(self, token: str, name: str, **more: Any) -> str:
        """Make a token known; return it."""
        self.users[token] = {"username": name, "uid": f"uid-of-{name}", "groups": ["system:authenticated"], **more}
        return token

    def count(self, part: str) -> int:
        """Return how often a path with this part was asked."""
        return sum(part in path for path, _ in self.asked)

    def client(self) -> ApiServer:
        return ApiServer(Address(self.url, token=OWN_TOKEN))

    def answer(self, method: str, path: str, token: str, body: Json) -> tuple[int, Json]:
        url = urlsplit(path)
        self.asked.append((url.path, body))
        if self.failing is not None and self.failing in url.path:
            return 500, _status(500, "etcdserver: request timed out")
        if url.path.startswith(_TASKS):
            return self._create(url.path.removeprefix(_TASKS).partition("/")[0], token, body)
        if token != OWN_TOKEN:
            return 401, _status(401, "Unauthorized")
        spec = body.get("spec", {})
        if url.path.endswith("/tokenreviews"):
            user = self.users.get(spec["token"])
            known = {"authenticated": True, "user": user} if user else {"error": "[invalid bearer token]"}
            return 201, body | {"status": known}
        if url.path.endswith("/subjectaccessreviews"):
            asked = spec["resourceAttributes"]
            assert (asked["group"], asked["resource"]) == ("trainingtask.dev", "trainingtasks")
            allowed = (spec["user"], asked["verb"], asked["namespace"]) in self.may
            return 201, body | {"status": {"allowed": allowed}}
        assert (method, url.path) == ("GET", "/api/v1/namespaces")
        start = int(parse_qs(url.query).get("continue", ["0"])[0])
        every = [{"metadata": {"name": name, "uid": uid}} for name, uid in self.namespaces.items()]
        following = {"continue": str(start + self.page)} if start + self.page < len(every) else {}
        return 200, {"metadata": following, "items": every[start : start + self.page]}

    def _create(self, namespace: str, token: str, task: Json) -> tuple[int, Json]:
        user = self.users.get(token)
        if user is None:
            return 401, _status(401, "Unauthorized")
        if (user["username"], "create", namespace) not in self.may:
            what = 'cannot create resource "trainingtasks" in API group "trainingtask.dev"'
            words = f'User "{user["username"]}" {what} in the namespace "{namespace}"'
            return 403, _status(403, f"trainingtasks.trainingtask.dev is forbidden: {words}")
        if self.refusal is not None:
            return self.refusal[0], _status(*self.refusal)
        given = {"namespace": namespace, "uid": str(uuid.uuid4()), "creationTimestamp": "2026-05-04T12:00:00Z"}
        made = task | {"metadata": task["metadata"] | given}
        self.created.append(made)
        return 201, made


def _status(code: int, message: str) -> Json:
    return {"kind": "Status", "status": "Failure", "code": code, "message": message}


@contextmanager
def small_kubernetes() -> Iterator[SmallKubernetes]:
    """Serve one while the block runs."""
    kubernetes = SmallKubernetes()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # head and body in one packet: else the second waits for the first one's acknowledgement

        def log_message(self, *_: Any) -> None:
            pass

        def _go(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            body = json.loads(self.rfile.read(length) or b"{}")
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            status, answer = kubernetes.answer(self.command, self.path, token, body)
            text = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = _go  # noqa: N815 - the library's names

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    kubernetes.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield kubernetes
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
