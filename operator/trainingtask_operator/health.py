"""/healthz, /readyz and /metrics: two small servers on the operator's own event loop, so that a stuck loop does not answer."""

import contextlib
import os
import time
from collections.abc import AsyncIterator

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from trainingtask_api import names
from trainingtask_operator.manager.manager import Manager
from trainingtask_operator.manager.resync import RESYNC_SECONDS

HEALTH_PORT = 8080
METRICS_PORT = 8081
# A request times out after 20 s, and a reconcile makes a handful.
STUCK_SECONDS = 180.0


def find_liveness_failures(manager: Manager) -> list[str]:
    """Return why this process should be restarted; nothing when it works."""
    failures = []
    processing = manager.queue.longest_processing_seconds
    if processing > STUCK_SECONDS:
        failures.append(f"a reconcile has been at work for {processing:.0f} s")
    since_resync = time.monotonic() - manager.resync.last_run
    if manager.cache.has_synced and since_resync > 3 * RESYNC_SECONDS + STUCK_SECONDS and manager.is_leader:
        failures.append(f"the last comparison with a live list was {since_resync:.0f} s ago")
    if manager.resync.missing:
        failures.append(f"no watch shows {len(manager.resync.missing)} objects that two live lists did")
    return failures


def find_readiness_failures(manager: Manager) -> list[str]:
    """Return why this process is not ready, as the leader or as the standby."""
    return find_liveness_failures(manager) if manager.cache.has_synced else ["the Jobs and pods are not listed yet"]


@contextlib.asynccontextmanager
async def serve(manager: Manager) -> AsyncIterator[None]:
    """Serve the probes on one port and the metrics on the other."""
    health_port = int(os.environ.get(names.ENV_HEALTH_PORT, HEALTH_PORT))
    metrics_port = int(os.environ.get(names.ENV_METRICS_PORT, METRICS_PORT))

    async def healthz(_: web.Request) -> web.Response:
        return _respond(find_liveness_failures(manager), "ok")

    async def readyz(_: web.Request) -> web.Response:
        return _respond(find_readiness_failures(manager), "leader" if manager.is_leader else "standby")

    async def metrics(_: web.Request) -> web.Response:
        manager.gauges.update()
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async with contextlib.AsyncExitStack() as stack:
        for port, routes in (
            (health_port, [web.get("/healthz", healthz), web.get("/readyz", readyz)]),
            (metrics_port, [web.get("/metrics", metrics)]),
        ):
            server = web.Application()
            server.add_routes(routes)
            runner = web.AppRunner(server, access_log=None)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, port=port, reuse_address=True).start()
        yield


def _respond(failures: list[str], success: str) -> web.Response:
    return web.Response(text="\n".join(failures or [success]) + "\n", status=503 if failures else 200)
