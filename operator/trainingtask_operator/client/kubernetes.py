"""The client of the API server: requests, lists and watches as plain JSON over one aiohttp session."""

import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Protocol
from urllib.parse import quote

import aiohttp
from pydantic_core import to_json

from trainingtask_api import names
from trainingtask_api.bounded_json import parse_json
from trainingtask_operator import metrics
from trainingtask_operator.client.errors import ClusterError
from trainingtask_operator.kube_objects import Object

REQUEST_TIMEOUT_SECONDS = 20.0
LEASE_TIMEOUT_SECONDS = 5.0
PAGE_SIZE = 500
MAX_PAGE_BYTES = 16 * 2**20  # parsed, they take up to ten times as much memory
WATCH_SECONDS = 300
WATCH_IDLE_SECONDS = 70.0
MAX_CONNECTIONS = 64
LOGIN_REFRESH_SECONDS = 60.0
LOG_LINES = 100
LOG_BYTES = 16 * 1024
LOG_TIMEOUT_SECONDS = 3.0  # so that an unreachable node delays no other rows for long


class Credentials(Protocol):
    """Address and credentials of the API server; kopf's `ConnectionInfo` is one."""

    server: str

    def as_http_headers(self) -> dict[str, str]:
        """Return the authorization header."""

    def as_ssl_context(self) -> ssl.SSLContext:
        """Return the TLS context, with certificate authority and client certificate."""


@asynccontextmanager
async def connect(login: Callable[[], Credentials]) -> AsyncIterator["KubernetesClient"]:
    """Connect with the credentials that `login` returns; it is called every minute, for a pod's token is renewed within the hour."""
    connector = aiohttp.TCPConnector(ssl=login().as_ssl_context(), limit=MAX_CONNECTIONS)
    async with aiohttp.ClientSession(connector=connector) as session:
        yield KubernetesClient(session, login)


class _TooLargeError(Exception):
    """A response has more bytes than its reader takes."""


async def _read_at_most(response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    content = bytearray()
    async for chunk in response.content.iter_any():
        content += chunk
        if len(content) > max_bytes:
            raise _TooLargeError
    return bytes(content)


def _parse(content: bytes) -> Object:
    try:
        parsed: Object = parse_json(content)
    except ValueError as error:
        raise ClusterError(0, f"the API server answers with something that is no JSON: {error}") from None
    return parsed


def _read_message(content: bytes, fallback: str) -> str:
    """Return the message of the API server's Status object."""
    try:
        return str(parse_json(content)["message"])
    except (ValueError, KeyError, TypeError):
        return fallback


def _build_path(api: str, *segments: str) -> str:
    """Return the path of a resource under an API such as ``api/v1``, each segment quoted.

    Raises
    ------
    ClusterError
        When a segment is no valid name: the API server decodes a quoted slash, and clients resolve dots.
    """
    for segment in segments:
        if segment in ("", ".", "..") or "/" in segment or "%" in segment:
            raise ClusterError(400, f"{segment[:64]!r} cannot be a part of a path")
    # A lone surrogate, which UTF-8 cannot encode, becomes "?", which no object has in its name.
    return "/".join(["", api, *(quote(segment, safe="", errors="replace") for segment in segments)])


def _build_namespaced_path(api: str, namespace: str, *segments: str) -> str:
    return _build_path(api, "namespaces", namespace, *segments)


def _build_workload_path(kind: str, namespace: str, *name: str) -> str:
    api, plural = _WORKLOADS[kind]
    return _build_namespaced_path(api, namespace, plural, *name)


_CORE = "api/v1"
_TASKS = f"apis/{names.API_VERSION}"
_JOBS = "apis/batch/v1"
_EVENTS = "apis/events.k8s.io/v1"
_LEASES = "apis/coordination.k8s.io/v1"
_JOBSETS = f"apis/{names.JOBSET_API_VERSION}"
# Each kind of Event is in another of the two Event APIs: a watch has one field selector, which has no "or".
JOB_EVENTS = "reason=FailedCreate,involvedObject.kind=Job"
# Of pods there are several reasons, see kube_objects.EVENT_REASONS: the most frequent others are left out.
_USUAL_REASONS = ",".join(f"reason!={reason}" for reason in ("BackOff", "Failed", "FailedScheduling", "Unhealthy"))
POD_EVENTS = f"regarding.kind=Pod,type=Warning,{_USUAL_REASONS}"
# An empty value is nobody's: the admission policy takes it for no label.
_OF_TASKS = {"labelSelector": f"{names.TASK_UID_LABEL},{names.TASK_UID_LABEL}!="}
_COLLECTIONS: dict[str, tuple[str, str, str, dict[str, str]]] = {  # API, plural, kind and selectors
    "namespaces": (_CORE, "namespaces", "Namespace", {}),
    "tasks": (_TASKS, names.PLURAL, names.KIND, {}),
    "jobs": (_JOBS, "jobs", "Job", _OF_TASKS),
    "jobsets": (_JOBSETS, "jobsets", names.JOBSET_KIND, _OF_TASKS),
    "pods": (_CORE, "pods", "Pod", _OF_TASKS),
    "job events": (_CORE, "events", "Event", {"fieldSelector": JOB_EVENTS}),
    "pod events": (_EVENTS, "events", "Event", {"fieldSelector": POD_EVENTS}),
}
_WORKLOADS = {"Job": (_JOBS, "jobs"), names.JOBSET_KIND: (_JOBSETS, "jobsets")}
_FIELD_MANAGER = {"fieldManager": names.OPERATOR_FIELD_MANAGER}
_JSON, _MERGE, _APPLY = "application/json", "application/merge-patch+json", "application/apply-patch+yaml"


class KubernetesClient:
    """`Cluster` on a real API server. Objects stay plain JSON: parsing them into models would cost more than the requests."""

    def __init__(self, session: aiohttp.ClientSession, login: Callable[[], Credentials]) -> None:
        self._session = session
        self._login = login
        self._credentials = login()
        self._login_time = time.monotonic()

    async def apply_status(self, namespace: str, name: str, uid: str, status: Object, *, manager: str) -> Object:
        """See `Cluster`."""
        written = await self._apply_status(namespace, name, uid, status, manager)
        if written["metadata"]["uid"] != uid:
            # The API server compares no uid for a status: the write landed on another task of this name. Reset it.
            await self._apply_status(namespace, name, uid, {"state": "Pending"}, manager)  # null would be refused
            raise ClusterError(409, f"TrainingTask {namespace}/{name} was deleted and created again")
        return written

    async def _apply_status(self, namespace: str, name: str, uid: str, status: Object, manager: str) -> Object:
        body = {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            "metadata": {"namespace": namespace, "name": name, "uid": uid},
            "status": status,
        }
        path = _build_namespaced_path(_TASKS, namespace, names.PLURAL, name, "status")
        return await self._request_json("PATCH", path, body, _APPLY, params={"fieldManager": manager, "force": "true"})

    async def get_workload(self, kind: str, namespace: str, name: str) -> Object:
        """See `Cluster`."""
        return await self._request_json("GET", _build_workload_path(kind, namespace, name))

    async def create_workload(self, workload: Object) -> Object:
        """See `Cluster`."""
        path = _build_workload_path(workload["kind"], workload["metadata"]["namespace"])
        return await self._request_json("POST", path, workload, params=_FIELD_MANAGER)

    async def patch_workload(self, kind: str, namespace: str, name: str, patch: Object) -> Object:
        """See `Cluster`."""
        path = _build_workload_path(kind, namespace, name)
        return await self._request_json("PATCH", path, patch, _MERGE, params=_FIELD_MANAGER)

    async def delete_workload(self, kind: str, namespace: str, name: str) -> None:
        """See `Cluster`."""
        path = _build_workload_path(kind, namespace, name)
        await self._request_json("DELETE", path, {"propagationPolicy": "Background"})

    async def delete_pod(self, namespace: str, name: str, uid: str) -> None:
        """See `Cluster`."""
        path = _build_namespaced_path(_CORE, namespace, "pods", name)
        await self._request_json("DELETE", path, {"preconditions": {"uid": uid}})

    async def get_claim(self, namespace: str, name: str) -> Object:
        """See `Cluster`."""
        path = _build_namespaced_path(_CORE, namespace, "persistentvolumeclaims", name)
        return await self._request_json("GET", path)

    async def is_namespace_terminating(self, namespace: str) -> bool:
        """See `Cluster`."""
        found = await self.get_namespace(namespace)
        return (found.get("status") or {}).get("phase") == "Terminating"

    async def get_namespace(self, name: str) -> Object:
        """Return the namespace."""
        return await self._request_json("GET", _build_namespaced_path(_CORE, name))

    async def create_event(self, event: Object) -> None:
        """See `Cluster`."""
        await self._request_json(
            "POST", _build_namespaced_path(_EVENTS, event["metadata"]["namespace"], "events"), event
        )

    async def get_task(self, namespace: str, name: str) -> Object:
        """See `Cluster`."""
        return await self._request_json("GET", _build_namespaced_path(_TASKS, namespace, names.PLURAL, name))

    async def delete_task(self, namespace: str, name: str, uid: str, version: str) -> None:
        """See `Cluster`."""
        path = _build_namespaced_path(_TASKS, namespace, names.PLURAL, name)
        preconditions = {"uid": uid, "resourceVersion": version}
        await self._request_json("DELETE", path, {"preconditions": preconditions, "propagationPolicy": "Background"})

    async def list_pods(self, namespace: str, task_uid: str) -> list[Object]:
        """See `Cluster`."""
        path = _build_namespaced_path(_CORE, namespace, "pods")
        pages = self._list_pages(path, labelSelector=f"{names.TASK_UID_LABEL}={task_uid}")
        return [pod async for page in pages for pod in page["items"]]

    async def read_log_tail(self, namespace: str, pod: str) -> str:
        """Return the last lines of the trainer container's log, at most LOG_LINES and LOG_BYTES."""
        log = await self._request(
            "GET",
            _build_namespaced_path(_CORE, namespace, "pods", pod, "log"),
            timeout=LOG_TIMEOUT_SECONDS,
            params={
                "container": names.TRAINER_CONTAINER,
                "tailLines": str(LOG_LINES),
                # The limit counts from the first of these lines: generous here, exact below.
                "limitBytes": str(16 * LOG_BYTES),
            },
        )
        return log[-LOG_BYTES:].decode(errors="ignore")

    async def patch_kueue_workload(self, namespace: str, name: str, patch: Object) -> None:
        """See `Cluster`."""
        path = _build_namespaced_path(await self._find_kueue_api(), namespace, "workloads", name)
        await self._request_json("PATCH", path, patch, _MERGE, params=_FIELD_MANAGER)

    async def _find_kueue_api(self) -> str:
        """Return Kueue's API in the newest version that is served; raise a 404 when none is."""
        group = await self._request_json("GET", f"/apis/{names.KUEUE_GROUP}")
        served = {version["version"] for version in group["versions"]}
        for version in names.KUEUE_VERSIONS:
            if version in served:
                return f"apis/{names.KUEUE_GROUP}/{version}"
        raise ClusterError(404, f"{names.KUEUE_GROUP} is served in no version of {', '.join(names.KUEUE_VERSIONS)}")

    async def list_objects(self, kind: str, namespace: str | None = None) -> AsyncIterator[tuple[list[Object], str]]:
        """Iterate over live objects, page by page, each with the version of the whole list.

        Parameters
        ----------
        kind
            "namespaces"; "tasks", or their "jobs", "jobsets" or "pods"; "job events" and "pod events"; Kueue's "workloads", which have
            no label of their task, of all Jobs.
        namespace
            None for all namespaces.
        """
        path, singular, selectors = await self._find_collection(kind, namespace)
        async for page in self._list_pages(path, **selectors):
            # The items of a list have no kind.
            yield [{**item, "kind": singular} for item in page["items"]], page["metadata"]["resourceVersion"]

    async def watch_objects(self, kind: str, version: str, namespace: str | None = None) -> AsyncGenerator[Object]:
        """Yield the watch events of what `list_objects` lists after a version, until the connection ends."""
        path, _, selectors = await self._find_collection(kind, namespace)
        params = {"watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": str(WATCH_SECONDS)}
        params |= {"resourceVersion": version, **selectors}
        # The server sends a bookmark every minute: a connection without bytes for longer is dead.
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=REQUEST_TIMEOUT_SECONDS, sock_read=WATCH_IDLE_SECONDS)
        try:
            async with self._session.get(
                self._credentials.server + path, params=params, headers=self._build_headers(_JSON), timeout=timeout
            ) as response:
                if response.status >= 400:
                    raise ClusterError(response.status, _read_message(await response.read(), response.reason or ""))
                rest = b""
                async for chunk in response.content.iter_any():
                    *lines, rest = (rest + chunk).split(b"\n")
                    for line in lines:
                        event = _parse(line)
                        if event["type"] == "ERROR":
                            raise ClusterError(event["object"]["code"], event["object"]["message"])
                        yield event
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise ClusterError(0, f"the API server does not answer: {error or type(error).__name__}") from error

    async def _find_collection(self, kind: str, namespace: str | None) -> tuple[str, str, dict[str, str]]:
        """Return path, kind and selectors of a collection, in a namespace or in all."""
        if kind == "workloads":
            api, plural = await self._find_kueue_api(), kind
            singular, selectors = names.KUEUE_WORKLOAD_KIND, {"labelSelector": names.KUEUE_JOB_UID_LABEL}
        else:
            api, plural, singular, selectors = _COLLECTIONS[kind]
        path = _build_path(api, plural) if namespace is None else _build_namespaced_path(api, namespace, plural)
        return path, singular, selectors

    async def get_lease(self, namespace: str, name: str) -> Object:
        """Return the Lease."""
        path = _build_namespaced_path(_LEASES, namespace, "leases", name)
        return await self._request_json("GET", path, timeout=LEASE_TIMEOUT_SECONDS)

    async def create_lease(self, lease: Object) -> Object:
        """Create the Lease and return it."""
        path = _build_namespaced_path(_LEASES, lease["metadata"]["namespace"], "leases")
        return await self._request_json("POST", path, lease, timeout=LEASE_TIMEOUT_SECONDS)

    async def replace_lease(self, lease: Object) -> Object:
        """Replace the Lease, unless it has changed since it was read, and return it."""
        metadata = lease["metadata"]
        path = _build_namespaced_path(_LEASES, metadata["namespace"], "leases", metadata["name"])
        return await self._request_json("PUT", path, lease, timeout=LEASE_TIMEOUT_SECONDS)

    async def _list_pages(self, path: str, **params: str) -> AsyncIterator[Object]:
        """Yield the pages of a list, of fewer objects where these are large: anyone may create some of a megabyte each."""
        limit = PAGE_SIZE
        while True:
            wanted = {"limit": str(limit), **params}
            try:
                page = _parse(
                    await self._request("GET", path, params=wanted, max_bytes=MAX_PAGE_BYTES if limit > 1 else None)
                )
            except _TooLargeError:
                limit = max(1, limit // 8)
                continue
            yield page
            params["continue"] = page["metadata"].get("continue", "")
            if not params["continue"]:
                return

    async def _request_json(
        self,
        method: str,
        path: str,
        body: Object | None = None,
        content_type: str = _JSON,
        *,
        timeout: float = REQUEST_TIMEOUT_SECONDS,  # noqa: ASYNC109 - of the request alone
        params: dict[str, str] | None = None,
    ) -> Object:
        return _parse(await self._request(method, path, body, content_type, timeout=timeout, params=params))

    async def _request(
        self,
        method: str,
        path: str,
        body: Object | None = None,
        content_type: str = _JSON,
        *,
        timeout: float = REQUEST_TIMEOUT_SECONDS,  # noqa: ASYNC109
        params: dict[str, str] | None = None,
        max_bytes: int | None = None,
    ) -> bytes:
        headers = self._build_headers(content_type)
        status = 0
        try:
            async with self._session.request(
                method,
                self._credentials.server + path,
                data=None if body is None else to_json(body),
                headers=headers,
                params=params,
                timeout=aiohttp.ClientTimeout(total=timeout),
            ) as response:
                content = await response.read() if max_bytes is None else await _read_at_most(response, max_bytes)
                status = response.status
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise ClusterError(0, f"the API server does not answer: {error or type(error).__name__}") from error
        finally:
            metrics.count_request(method, path, status)
        if status >= 400:
            raise ClusterError(status, _read_message(content, f"{status} {response.reason}"))
        return content

    def _build_headers(self, content_type: str) -> dict[str, str]:
        if time.monotonic() - self._login_time > LOGIN_REFRESH_SECONDS:
            self._credentials, self._login_time = self._login(), time.monotonic()
        return {
            "Content-Type": content_type,
            "User-Agent": names.OPERATOR_FIELD_MANAGER,
            **self._credentials.as_http_headers(),
        }
