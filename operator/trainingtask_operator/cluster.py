"""What the operator asks of a cluster: a narrow protocol, and its one real implementation over kubernetes.aio."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Protocol, cast

import aiohttp
from kubernetes.aio import client, config
from kubernetes.aio.client.exceptions import ApiException

from trainingtask_api import names

Manifest = dict[str, Any]

REQUEST_TIMEOUT_SECONDS = 20.0
PAGE_SIZE = 500


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

    async def create_event(self, event: Manifest) -> None:
        """Create an Event (events.k8s.io/v1)."""

    async def list_uids(self) -> set[str]:
        """Return the uids of all live tasks and of their Jobs and pods."""


@asynccontextmanager
async def connect() -> AsyncIterator[Cluster]:
    """Connect with the pod's service account, or with the kubeconfig outside a cluster."""
    configuration = client.Configuration()
    try:
        config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    except config.ConfigException:
        await config.load_kube_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    async with client.ApiClient(configuration) as api:
        yield KubernetesCluster(api)


@asynccontextmanager
async def _translated() -> AsyncIterator[None]:
    try:
        yield
    except ApiException as error:
        raise ClusterError(error.status or 0, _message(error)) from error
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise ClusterError(0, f"the API server does not answer: {error or type(error).__name__}") from error


def _message(error: ApiException) -> str:
    """Return the API server's own sentence, without headers and dumps."""
    try:
        return str(json.loads(error.body or "{}")["message"])
    except (ValueError, KeyError, TypeError):
        return f"{error.status} {error.reason}"


class KubernetesCluster:
    """`Cluster` on a real API server. Everything stays plain JSON: models would cost more than the requests."""

    def __init__(self, api: client.ApiClient) -> None:
        self._objects = client.CustomObjectsApi(api)
        self._core = client.CoreV1Api(api)

    async def apply_status(self, namespace: str, name: str, uid: str, status: Manifest, *, manager: str) -> Manifest:
        """See `Cluster`."""
        body = {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            "metadata": {"namespace": namespace, "name": name, "uid": uid},
            "status": status,
        }
        async with _translated():
            return cast(
                "Manifest",
                await self._objects.patch_namespaced_custom_object_status(
                    names.GROUP,
                    names.VERSION,
                    namespace,
                    names.PLURAL,
                    name,
                    body,
                    field_manager=manager,
                    force=True,
                    _content_type="application/apply-patch+yaml",
                    _request_timeout=REQUEST_TIMEOUT_SECONDS,
                ),
            )

    async def get_job(self, namespace: str, name: str) -> Manifest:
        """See `Cluster`."""
        async with _translated():
            return cast(
                "Manifest",
                await self._objects.get_namespaced_custom_object(
                    "batch", "v1", namespace, "jobs", name, _request_timeout=REQUEST_TIMEOUT_SECONDS
                ),
            )

    async def create_job(self, job: Manifest) -> Manifest:
        """See `Cluster`."""
        async with _translated():
            return cast(
                "Manifest",
                await self._objects.create_namespaced_custom_object(
                    "batch",
                    "v1",
                    job["metadata"]["namespace"],
                    "jobs",
                    job,
                    field_manager=names.OPERATOR_FIELD_MANAGER,
                    _request_timeout=REQUEST_TIMEOUT_SECONDS,
                ),
            )

    async def patch_job(self, namespace: str, name: str, patch: Manifest) -> Manifest:
        """See `Cluster`."""
        async with _translated():
            return cast(
                "Manifest",
                await self._objects.patch_namespaced_custom_object(
                    "batch",
                    "v1",
                    namespace,
                    "jobs",
                    name,
                    patch,
                    field_manager=names.OPERATOR_FIELD_MANAGER,
                    _content_type="application/merge-patch+json",
                    _request_timeout=REQUEST_TIMEOUT_SECONDS,
                ),
            )

    async def create_event(self, event: Manifest) -> None:
        """See `Cluster`."""
        async with _translated():
            await self._objects.create_namespaced_custom_object(
                "events.k8s.io",
                "v1",
                event["metadata"]["namespace"],
                "events",
                event,
                _request_timeout=REQUEST_TIMEOUT_SECONDS,
            )

    async def list_uids(self) -> set[str]:
        """See `Cluster`."""

        async def of(group: str, version: str, plural: str, selector: str, page: str) -> Manifest:
            return cast(
                "Manifest",
                await self._objects.list_cluster_custom_object(
                    group,
                    version,
                    plural,
                    label_selector=selector,
                    limit=PAGE_SIZE,
                    _continue=page,
                    _request_timeout=REQUEST_TIMEOUT_SECONDS,
                ),
            )

        async def pods(page: str) -> Manifest:
            response = await self._core.list_pod_for_all_namespaces_without_preload_content(
                label_selector=names.TASK_UID_LABEL,
                limit=PAGE_SIZE,
                _continue=page,
                _request_timeout=REQUEST_TIMEOUT_SECONDS,
            )
            body = await response.read()
            if response.status >= 400:  # this variant of the call leaves that to its caller
                raise ApiException(status=response.status, reason=response.reason, body=body.decode())
            listed: Manifest = json.loads(body)
            return listed

        tasks = partial(of, names.GROUP, names.VERSION, names.PLURAL, "")
        jobs = partial(of, "batch", "v1", "jobs", names.TASK_UID_LABEL)
        uids: set[str] = set()
        async with _translated():
            lists: tuple[Callable[[str], Awaitable[Manifest]], ...] = (tasks, jobs, pods)
            for pages in lists:
                page = ""
                while True:
                    listed = await pages(page)
                    uids.update(item["metadata"]["uid"] for item in listed["items"])
                    page = listed["metadata"].get("continue", "")
                    if not page:
                        break
        return uids
