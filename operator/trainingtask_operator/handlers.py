"""The kopf handlers, all of them: watch tasks, namespaces and Events, and call the event handlers of the manager.

Handlers are coroutines: kopf runs plain functions in threads, where neither the queue nor the cache may be used.
"""

import contextlib
from typing import Any

import kopf

from trainingtask_api import names
from trainingtask_operator.client.kubernetes import JOB_EVENTS, POD_EVENTS
from trainingtask_operator.health import serve
from trainingtask_operator.manager.manager import Manager

PAGE_SIZE = 250


@kopf.on.startup(id="start")
async def start(settings: kopf.OperatorSettings, memo: kopf.Memo, **_: Any) -> None:
    """Configure kopf and start the workers."""
    settings.posting.enabled = False  # log lines are no Events; controller/kube_events.py builds those
    settings.peering.standalone = True
    settings.process.ultimate_exiting_timeout = 20
    settings.watching.server_timeout = 300
    # Reconnect within seconds. By default kopf's pauses grow to 21 s, and it ends the process after a minute, which the
    # kubelet then starts with a growing backoff.
    settings.networking.error_backoffs = (1, 1, 2, 3, *[5] * 60)
    settings.networking.connect_timeout = 10
    settings.watching.chunk_size = PAGE_SIZE
    settings.scanning.disabled = memo.manager.is_namespaced  # kopf would watch all CRDs and namespaces
    settings.queueing.idle_timeout = 0.5  # an idle worker keeps the last state of its object
    settings.persistence.diffbase_storage = NullDiffBaseStorage()
    settings.persistence.progress_storage = NullProgressStorage()
    settings.watching.field_selectors["", "events"] = JOB_EVENTS
    settings.watching.field_selectors["events.k8s.io", "events"] = POD_EVENTS
    manager: Manager = memo.manager
    memo.servers = contextlib.AsyncExitStack()
    await memo.servers.enter_async_context(
        serve(manager)
    )  # first: the process is alive while it waits for the API server
    await manager.start(lambda: login(settings=settings))


def login(settings: kopf.OperatorSettings, **_: Any) -> Any:
    """Use the pod's service account or a kubeconfig; kopf's other ways would import a Kubernetes client."""
    return kopf.login_with_service_account(settings=settings) or kopf.login_with_kubeconfig(settings=settings)


kopf.on.login(id="login")(login)


@kopf.on.cleanup(id="stop")
async def stop(memo: kopf.Memo, **_: Any) -> None:
    """Stop the workers."""
    await memo.manager.stop()
    await memo.servers.aclose()


@kopf.on.event(names.GROUP, names.VERSION, names.PLURAL, id="task")
async def on_task_event(event: Any, memo: kopf.Memo, **_: Any) -> None:
    """Pass on the event of a task; for an object of a list its type is None."""
    memo.manager.event_handlers.on_task_event(event["type"], event["object"])


@kopf.on.event("v1", "namespaces", id="namespace")
async def on_namespace_event(event: Any, memo: kopf.Memo, **_: Any) -> None:
    """Pass on the event of a namespace."""
    memo.manager.event_handlers.on_namespace_event(event["type"], event["object"])


@kopf.on.event("", "v1", "events", id="kube_event")
@kopf.on.event("events.k8s.io", "v1", "events", id="kube_event")
async def on_kube_event(event: Any, memo: kopf.Memo, **_: Any) -> None:
    """Pass on the event of an Event about a Job without a pod, or a pod that does not start."""
    memo.manager.event_handlers.on_kube_event(event["type"], event["object"])


def build_namespaced_registry() -> kopf.OperatorRegistry:
    """Return the handlers of an operator without rights in the cluster: kopf watches nothing, the manager's informers do."""
    registry = kopf.OperatorRegistry()
    kopf.on.startup(id="start", registry=registry)(start)
    kopf.on.login(id="login", registry=registry)(login)
    kopf.on.cleanup(id="stop", registry=registry)(stop)
    return registry


class NullDiffBaseStorage(kopf.DiffBaseStorage):
    """Store no last-handled state: only handlers of changes need it, and it costs two copies per event."""

    def build(self, **_: Any) -> Any:
        """Return nothing to store."""
        return {}

    def fetch(self, **_: Any) -> Any:
        """Return nothing."""
        return None

    def store(self, **_: Any) -> None:
        """Store nothing."""


class NullProgressStorage(kopf.ProgressStorage):
    """Store no progress of handlers: event handlers have none, and clearing it costs two copies per event."""

    def fetch(self, **_: Any) -> Any:
        """Return nothing."""
        return None

    def store(self, **_: Any) -> None:
        """Store nothing."""

    def purge(self, **_: Any) -> None:
        """Purge nothing."""

    def touch(self, **_: Any) -> None:
        """Touch nothing."""

    def clear(self, *, essence: Any) -> Any:
        """Return the object unchanged."""
        return essence
