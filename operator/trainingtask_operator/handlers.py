"""The kopf handlers, all of them: kopf runs the process and logs in; what is watched is the informers' (docs/adr/0024-*.md)."""

import contextlib
from typing import Any

import kopf

from trainingtask_operator.health import serve
from trainingtask_operator.manager.manager import Manager


@kopf.on.startup(id="start")
async def start(settings: kopf.OperatorSettings, memo: kopf.Memo, **_: Any) -> None:
    """Configure kopf and start the manager."""
    settings.posting.enabled = False  # log lines are no Events; controller/kube_events.py builds those
    settings.scanning.disabled = True  # of CRDs and namespaces, for handlers of objects
    settings.process.ultimate_exiting_timeout = 20
    manager: Manager = memo.manager
    memo.servers = contextlib.AsyncExitStack()
    # First: the process is alive while it waits for the API server.
    await memo.servers.enter_async_context(serve(manager))
    await manager.start(lambda: login(settings=settings))


def login(settings: kopf.OperatorSettings, **_: Any) -> Any:
    """Use the pod's service account or a kubeconfig; kopf's other ways would import a Kubernetes client."""
    return kopf.login_with_service_account(settings=settings) or kopf.login_with_kubeconfig(settings=settings)


kopf.on.login(id="login")(login)


@kopf.on.cleanup(id="stop")
async def stop(memo: kopf.Memo, **_: Any) -> None:
    """Stop the manager."""
    await memo.manager.stop()
    await memo.servers.aclose()
