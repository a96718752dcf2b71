"""The only file with kopf decorators: watch tasks, namespaces and Events, and hand what is seen to the app.

Handlers are coroutines: kopf runs plain functions in threads, where neither the queue nor the indexes may be touched.
"""

import contextlib
from typing import Any

import kopf

from trainingtask_api import names
from trainingtask_operator.health import serve
from trainingtask_operator.manager import App

PAGE_SIZE = 250


@kopf.on.startup(id="start")
async def start(settings: kopf.OperatorSettings, memo: kopf.Memo, **_: Any) -> None:
    """Configure kopf and start the workers."""
    settings.posting.enabled = False  # log lines are not Events; events.py decides what is one
    settings.peering.standalone = True
    settings.process.ultimate_exiting_timeout = 20
    settings.watching.server_timeout = 300
    # Back within seconds of an API server that was away. By default kopf's pauses grow to 21 s, and it ends the process
    # after a minute, which the kubelet then starts later and later.
    settings.networking.error_backoffs = (1, 1, 2, 3, *[5] * 60)
    settings.networking.connect_timeout = 10
    settings.watching.chunk_size = PAGE_SIZE
    settings.queueing.idle_timeout = 0.5  # an idle worker holds on to the last state of its object
    settings.persistence.diffbase_storage = NoDiffBase()
    settings.persistence.progress_storage = NoProgress()
    # The same Events under both of their groups: a watch has one field selector, and takes no "or".
    settings.watching.field_selectors["", "events"] = "reason=FailedCreate,involvedObject.kind=Job"
    settings.watching.field_selectors["events.k8s.io", "events"] = "reason=FailedMount,regarding.kind=Pod"
    app: App = memo.app
    memo.servers = contextlib.AsyncExitStack()
    await memo.servers.enter_async_context(serve(app))  # first: the process lives while it waits for the API server
    await app.start(lambda: login(settings=settings))


def login(settings: kopf.OperatorSettings, **_: Any) -> Any:
    """Use the pod's service account or a kubeconfig; kopf's other ways would load a Kubernetes client."""
    return kopf.login_with_service_account(settings=settings) or kopf.login_with_kubeconfig(settings=settings)


kopf.on.login(id="login")(login)


@kopf.on.cleanup(id="stop")
async def stop(memo: kopf.Memo, **_: Any) -> None:
    """Stop the workers."""
    await memo.app.stop()
    await memo.servers.aclose()


@kopf.on.event(names.GROUP, names.VERSION, names.PLURAL, id="task")
async def task_changed(event: Any, memo: kopf.Memo, **_: Any) -> None:
    """Take a task; of a list its type is None."""
    memo.app.task_seen(event["type"], event["object"])


@kopf.on.event("v1", "namespaces", id="namespace")
async def namespace_changed(event: Any, memo: kopf.Memo, **_: Any) -> None:
    """Take a namespace."""
    memo.app.namespace_seen(event["type"], event["object"])


@kopf.on.event("", "v1", "events", id="note")
@kopf.on.event("events.k8s.io", "v1", "events", id="note")
async def noted(event: Any, memo: kopf.Memo, **_: Any) -> None:
    """Take an Event that says why a Job gets no pod, or a pod no volume."""
    memo.app.note_seen(event["type"], event["object"])


class NoDiffBase(kopf.DiffBaseStorage):
    """No difference to what was handled last: only handlers of changes want it, and it costs two copies per event."""

    def build(self, **_: Any) -> Any:
        """Build nothing."""
        return {}

    def fetch(self, **_: Any) -> Any:
        """Know nothing."""
        return None

    def store(self, **_: Any) -> None:
        """Keep nothing."""


class NoProgress(kopf.ProgressStorage):
    """No progress of handlers: those of events have none, and clearing it costs two copies per event."""

    def fetch(self, **_: Any) -> Any:
        """Know nothing."""
        return None

    def store(self, **_: Any) -> None:
        """Keep nothing."""

    def purge(self, **_: Any) -> None:
        """Have nothing to forget."""

    def touch(self, **_: Any) -> None:
        """Leave the object alone."""

    def clear(self, *, essence: Any) -> Any:
        """Have nothing to clear."""
        return essence
