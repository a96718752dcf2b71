"""/healthz, /readyz and /metrics: two small servers on the operator's own event loop, so that a stuck loop does not answer."""

import contextlib
import os
import time
from collections.abc import AsyncIterator

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from trainingtask_api import names
from trainingtask_operator.manager import RESYNC_SECONDS, App

HEALTH_PORT = 8080
METRICS_PORT = 8081
# Every request gives up after 20 s and a reconcile makes a handful.
STUCK_SECONDS = 180.0


def ailments(app: App) -> list[str]:
    """Return why this process should be restarted; nothing when it works."""
    found = []
    if app.queue.oldest_work > STUCK_SECONDS:
        found.append(f"a reconcile has been at work for {app.queue.oldest_work:.0f} s")
    if app.synced and time.monotonic() - app.last_resync > 3 * RESYNC_SECONDS + STUCK_SECONDS and app.is_acting:
        found.append(f"the last comparison with a live list was {time.monotonic() - app.last_resync:.0f} s ago")
    if app.unseen:
        found.append(f"no watch shows {len(app.unseen)} objects that two live lists did")
    return found


def obstacles(app: App) -> list[str]:
    """Return why this process is not ready to do its part, as the leader or as the standby."""
    return ailments(app) if app.synced else ["the Jobs and pods are not listed yet"]


@contextlib.asynccontextmanager
async def serve(app: App) -> AsyncIterator[None]:
    """Serve the health of `app` on one port and its metrics on the other."""
    health_port = int(os.environ.get(names.ENV_HEALTH_PORT, HEALTH_PORT))
    metrics_port = int(os.environ.get(names.ENV_METRICS_PORT, METRICS_PORT))

    async def healthz(_: web.Request) -> web.Response:
        return _answer(ailments(app), "ok")

    async def readyz(_: web.Request) -> web.Response:
        return _answer(obstacles(app), "leader" if app.is_acting else "standby")

    async def metrics(_: web.Request) -> web.Response:
        app.count_states()
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


def _answer(trouble: list[str], otherwise: str) -> web.Response:
    return web.Response(text="\n".join(trouble or [otherwise]) + "\n", status=503 if trouble else 200)
