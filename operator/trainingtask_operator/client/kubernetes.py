"""What the operator asks of a cluster: a narrow protocol, and its one real implementation."""

import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Protocol
from urllib.parse import quote

import aiohttp
from pydantic_core import from_json, to_json

from trainingtask_api import names
from trainingtask_operator import metrics
from trainingtask_operator.cache.transform import kept_pod

Manifest = dict[str, Any]

REQUEST_TIMEOUT_SECONDS = 20.0
LEASE_TIMEOUT_SECONDS = 5.0
PAGE_SIZE = 500
WATCH_SECONDS = 300
SILENT_SECONDS = 70.0
CONNECTIONS = 64
LOGIN_SECONDS = 60.0
LOG_LINES = 100
LOG_BYTES = 16 * 1024
LOG_TIMEOUT_SECONDS = 3.0  # a node that is gone must not hold up the rows of all tasks


class ClusterError(Exception):
    """The API server refused a request, or did not answer.

    Attributes
    ----------
    status
        The HTTP status; 0 when there was no answer.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status

    @property
    def not_found(self) -> bool:
        """The object is not there."""
        return self.status == 404

    @property
    def conflict(self) -> bool:
        """The object is there already, or has another uid than asked for."""
        return self.status == 409

    @property
    def refused(self) -> bool:
        """The request itself is at fault: the same one is refused again until somebody changes something."""
        return self.status in (400, 403, 422)


class Cluster(Protocol):
    """The requests that a reconcile may make. Every method raises ClusterError."""

    async def apply_status(self, namespace: str, name: str, uid: str, status: Manifest, *, manager: str) -> Manifest:
        """Apply `status` under the field manager and return the task; refused with 409 when its uid is another by now."""

    async def get_job(self, namespace: str, name: str) -> Manifest:
        """Return the Job."""

    async def create_job(self, job: Manifest) -> Manifest:
        """Create the Job and return it."""

    async def patch_job(self, namespace: str, name: str, patch: Manifest) -> Manifest:
        """Merge `patch` into the Job and return it."""

    async def delete_job(self, namespace: str, name: str) -> None:
        """Delete the Job, and its pods after it."""

    async def is_ending(self, namespace: str) -> bool:
        """Tell whether the namespace is being deleted."""

    async def create_event(self, event: Manifest) -> None:
        """Create an Event (events.k8s.io/v1)."""

    async def get_task(self, namespace: str, name: str) -> Manifest:
        """Return the task."""

    async def log_tail(self, namespace: str, pod: str) -> str:
        """Return the last lines that the pod's trainer printed."""

    async def set_workload_active(self, namespace: str, job_uid: str, active: bool) -> bool:
        """Stop or release the Job in Kueue's queue; False when there is no Workload of the Job."""

    async def pods_of(self, namespace: str, task_uid: str) -> list[Manifest]:
        """Return the live pods of a task, as far as a reconcile reads them."""

    def tasks(self) -> AsyncIterator[Manifest]:
        """Iterate over all live tasks."""

    def namespaces(self) -> AsyncIterator[Manifest]:
        """Iterate over all namespaces."""

    def children(self, kind: str) -> AsyncIterator[tuple[list[Manifest], str]]:
        """Iterate over the live "jobs" or "pods" of tasks, page by page, each with the version of the whole list."""

    def watch_children(self, kind: str, version: str) -> AsyncGenerator[Manifest]:
        """Yield what happens to the "jobs" or "pods" of tasks after a version, until the connection ends."""

    async def get_lease(self, namespace: str, name: str) -> Manifest:
        """Return the Lease."""

    async def create_lease(self, lease: Manifest) -> Manifest:
        """Create the Lease and return it."""

    async def replace_lease(self, lease: Manifest) -> Manifest:
        """Replace the Lease, unless it has changed since it was read, and return it."""


class Credentials(Protocol):
    """How to reach the API server; kopf's `ConnectionInfo` is one."""

    server: str

    def as_http_headers(self) -> dict[str, str]:
        """Return the header that says who asks."""

    def as_ssl_context(self) -> ssl.SSLContext:
        """Return how both ends prove who they are."""


@asynccontextmanager
async def connect(login: Callable[[], Credentials]) -> AsyncIterator[Cluster]:
    """Connect as `login` says; it is asked again every minute, for a pod's token is renewed within the hour."""
    connector = aiohttp.TCPConnector(ssl=login().as_ssl_context(), limit=CONNECTIONS)
    async with aiohttp.ClientSession(connector=connector) as session:
        yield KubernetesCluster(session, login)


def _message(content: bytes, fallback: str) -> str:
    """Return the API server's own sentence, without headers and dumps."""
    try:
        return str(from_json(content)["message"])
    except (ValueError, KeyError, TypeError):
        return fallback


def _path(api: str, *segments: str) -> str:
    """Return the path of a resource under an API such as ``api/v1``, each segment quoted.

    Raises
    ------
    ClusterError
        When a segment is no name: the API server decodes a quoted slash, and clients resolve dots.
    """
    for segment in segments:
        if segment in ("", ".", "..") or "/" in segment or "%" in segment:
            raise ClusterError(400, f"{segment[:64]!r} cannot be a part of a path")
    # What UTF-8 has no bytes for becomes "?", which names nothing.
    return "/".join(["", api, *(quote(segment, safe="", errors="replace") for segment in segments)])


def _namespaced(api: str, namespace: str, *segments: str) -> str:
    return _path(api, "namespaces", namespace, *segments)


_CORE = "api/v1"
_TASKS = f"apis/{names.API_VERSION}"
_JOBS = "apis/batch/v1"
_EVENTS = "apis/events.k8s.io/v1"
_LEASES = "apis/coordination.k8s.io/v1"
_CHILDREN = {"jobs": (_path(_JOBS, "jobs"), "Job"), "pods": (_path(_CORE, "pods"), "Pod")}
_BY_US = {"fieldManager": names.OPERATOR_FIELD_MANAGER}
_JSON, _MERGE, _APPLY = "application/json", "application/merge-patch+json", "application/apply-patch+yaml"


class KubernetesCluster:
    """`Cluster` on a real API server. Everything stays plain JSON: models would cost more than the requests."""

    def __init__(self, session: aiohttp.ClientSession, login: Callable[[], Credentials]) -> None:
        self._session = session
        self._login = login
        self._credentials = login()
        self._logged_in = time.monotonic()

    async def apply_status(self, namespace: str, name: str, uid: str, status: Manifest, *, manager: str) -> Manifest:
        """See `Cluster`."""
        written = await self._apply_status(namespace, name, uid, status, manager)
        if written["metadata"]["uid"] != uid:
            # For a status the API server does not compare the uid: another task of this name has got what is not its own.
            await self._apply_status(namespace, name, uid, {"state": "Pending"}, manager)  # null would be refused
            raise ClusterError(409, f"TrainingTask {namespace}/{name} was deleted and created again")
        return written

    async def _apply_status(self, namespace: str, name: str, uid: str, status: Manifest, manager: str) -> Manifest:
        body = {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            "metadata": {"namespace": namespace, "name": name, "uid": uid},
            "status": status,
        }
        path = _namespaced(_TASKS, namespace, names.PLURAL, name, "status")
        return await self._json("PATCH", path, body, _APPLY, params={"fieldManager": manager, "force": "true"})

    async def get_job(self, namespace: str, name: str) -> Manifest:
        """See `Cluster`."""
        return await self._json("GET", _namespaced(_JOBS, namespace, "jobs", name))

    async def create_job(self, job: Manifest) -> Manifest:
        """See `Cluster`."""
        path = _namespaced(_JOBS, job["metadata"]["namespace"], "jobs")
        return await self._json("POST", path, job, params=_BY_US)

    async def patch_job(self, namespace: str, name: str, patch: Manifest) -> Manifest:
        """See `Cluster`."""
        path = _namespaced(_JOBS, namespace, "jobs", name)
        return await self._json("PATCH", path, patch, _MERGE, params=_BY_US)

    async def delete_job(self, namespace: str, name: str) -> None:
        """See `Cluster`."""
        path = _namespaced(_JOBS, namespace, "jobs", name)
        await self._json("DELETE", path, {"propagationPolicy": "Background"})

    async def is_ending(self, namespace: str) -> bool:
        """See `Cluster`."""
        found = await self._json("GET", _namespaced(_CORE, namespace))
        return (found.get("status") or {}).get("phase") == "Terminating"

    async def create_event(self, event: Manifest) -> None:
        """See `Cluster`."""
        await self._json("POST", _namespaced(_EVENTS, event["metadata"]["namespace"], "events"), event)

    async def get_task(self, namespace: str, name: str) -> Manifest:
        """See `Cluster`."""
        return await self._json("GET", _namespaced(_TASKS, namespace, names.PLURAL, name))

    async def pods_of(self, namespace: str, task_uid: str) -> list[Manifest]:
        """See `Cluster`."""
        path = _namespaced(_CORE, namespace, "pods")
        pods = self._pages(path, labelSelector=f"{names.TASK_UID_LABEL}={task_uid}")
        return [dict(kept_pod(pod)) async for page in pods for pod in page["items"]]

    async def log_tail(self, namespace: str, pod: str) -> str:
        """See `Cluster`."""
        log = await self._bytes(
            "GET",
            _namespaced(_CORE, namespace, "pods", pod, "log"),
            timeout=LOG_TIMEOUT_SECONDS,
            params={
                "container": names.TRAINER_CONTAINER,
                "tailLines": str(LOG_LINES),
                # The limit counts from the first of these lines: generous here, exact below.
                "limitBytes": str(16 * LOG_BYTES),
            },
        )
        return log[-LOG_BYTES:].decode(errors="ignore")

    async def set_workload_active(self, namespace: str, job_uid: str, active: bool) -> bool:
        """See `Cluster`."""
        for version in names.KUEUE_VERSIONS:
            workloads = (f"apis/{names.KUEUE_GROUP}/{version}", namespace, "workloads")
            try:
                found = await self._json(
                    "GET", _namespaced(*workloads), params={"labelSelector": f"{names.KUEUE_JOB_UID_LABEL}={job_uid}"}
                )
                for workload in found["items"]:
                    await self._json(
                        "PATCH",
                        _namespaced(*workloads, workload["metadata"]["name"]),
                        {"spec": {"active": active}},
                        _MERGE,
                        params=_BY_US,
                    )
            except ClusterError as error:
                if not error.not_found:  # this version is not served
                    raise
            else:
                return bool(found["items"])
        return False

    async def tasks(self) -> AsyncIterator[Manifest]:
        """See `Cluster`."""
        async for page in self._pages(_path(_TASKS, names.PLURAL)):
            for task in page["items"]:
                yield task

    async def namespaces(self) -> AsyncIterator[Manifest]:
        """See `Cluster`."""
        async for page in self._pages(_path(_CORE, "namespaces")):
            for namespace in page["items"]:
                yield namespace

    async def children(self, kind: str) -> AsyncIterator[tuple[list[Manifest], str]]:
        """See `Cluster`."""
        path, singular = _CHILDREN[kind]
        async for page in self._pages(path, labelSelector=names.TASK_UID_LABEL):
            # The items of a list do not say their kind.
            yield [{**item, "kind": singular} for item in page["items"]], page["metadata"]["resourceVersion"]

    async def watch_children(self, kind: str, version: str) -> AsyncGenerator[Manifest]:
        """See `Cluster`."""
        path, _ = _CHILDREN[kind]
        params = {"watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": str(WATCH_SECONDS)}
        params |= {"labelSelector": names.TASK_UID_LABEL, "resourceVersion": version}
        # The server sends a bookmark every minute: a connection that is silent for longer is dead.
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=REQUEST_TIMEOUT_SECONDS, sock_read=SILENT_SECONDS)
        try:
            async with self._session.get(
                self._credentials.server + path, params=params, headers=self._headers(_JSON), timeout=timeout
            ) as response:
                if response.status >= 400:
                    raise ClusterError(response.status, _message(await response.read(), response.reason or ""))
                rest = b""
                async for chunk in response.content.iter_any():
                    *lines, rest = (rest + chunk).split(b"\n")
                    for line in lines:
                        event = from_json(line)
                        if event["type"] == "ERROR":
                            raise ClusterError(event["object"]["code"], event["object"]["message"])
                        yield event
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise ClusterError(0, f"the API server does not answer: {error or type(error).__name__}") from error

    async def get_lease(self, namespace: str, name: str) -> Manifest:
        """See `Cluster`."""
        path = _namespaced(_LEASES, namespace, "leases", name)
        return await self._json("GET", path, timeout=LEASE_TIMEOUT_SECONDS)

    async def create_lease(self, lease: Manifest) -> Manifest:
        """See `Cluster`."""
        path = _namespaced(_LEASES, lease["metadata"]["namespace"], "leases")
        return await self._json("POST", path, lease, timeout=LEASE_TIMEOUT_SECONDS)

    async def replace_lease(self, lease: Manifest) -> Manifest:
        """See `Cluster`."""
        metadata = lease["metadata"]
        path = _namespaced(_LEASES, metadata["namespace"], "leases", metadata["name"])
        return await self._json("PUT", path, lease, timeout=LEASE_TIMEOUT_SECONDS)

    async def _pages(self, path: str, **params: str) -> AsyncIterator[Manifest]:
        while True:
            listed = await self._json("GET", path, params={"limit": str(PAGE_SIZE), **params})
            yield listed
            following = listed["metadata"].get("continue", "")
            if not following:
                return
            params["continue"] = following

    async def _json(
        self,
        method: str,
        path: str,
        body: Manifest | None = None,
        kind: str = _JSON,
        *,
        timeout: float = REQUEST_TIMEOUT_SECONDS,  # noqa: ASYNC109 - of the request alone
        params: dict[str, str] | None = None,
    ) -> Manifest:
        answer: Manifest = from_json(await self._bytes(method, path, body, kind, timeout=timeout, params=params))
        return answer

    async def _bytes(
        self,
        method: str,
        path: str,
        body: Manifest | None = None,
        kind: str = _JSON,
        *,
        timeout: float = REQUEST_TIMEOUT_SECONDS,  # noqa: ASYNC109
        params: dict[str, str] | None = None,
    ) -> bytes:
        headers = self._headers(kind)
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
                content = await response.read()
                status = response.status
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise ClusterError(0, f"the API server does not answer: {error or type(error).__name__}") from error
        finally:
            metrics.count_request(method, path, status)
        if status >= 400:
            raise ClusterError(status, _message(content, f"{status} {response.reason}"))
        return content

    def _headers(self, kind: str) -> dict[str, str]:
        if time.monotonic() - self._logged_in > LOGIN_SECONDS:
            self._credentials, self._logged_in = self._login(), time.monotonic()
        return {
            "Content-Type": kind,
            "User-Agent": names.OPERATOR_FIELD_MANAGER,
            **self._credentials.as_http_headers(),
        }
