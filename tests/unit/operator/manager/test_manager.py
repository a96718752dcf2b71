"""The manager: what its start waits for, and how its parts are wired."""

import asyncio
import ssl
from typing import Any

import pytest
from aiohttp import web

from support.in_memory_api_server import NOW, FakeCluster
from support.ports import free_port
from support.reconcile import KEY, add_task
from trainingtask_api import names
from trainingtask_operator import metrics
from trainingtask_operator.background_tasks import cancel_all
from trainingtask_operator.controller.reconciler import Reconciler
from trainingtask_operator.history.backlog import Backlog
from trainingtask_operator.history.recorder import RunRecorder
from trainingtask_operator.manager import manager as manager_module
from trainingtask_operator.manager.gauges import TaskGauges
from trainingtask_operator.manager.manager import Manager
from trainingtask_operator.settings import KueueSettings, Settings


class Login:
    """Credentials of a plain HTTP server."""

    def __init__(self, server: str) -> None:
        self.server = server

    def as_http_headers(self) -> dict[str, str]:
        return {}

    def as_ssl_context(self) -> ssl.SSLContext:
        return ssl.create_default_context()


async def test_a_kueue_that_does_not_answer_delays_no_start(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ended = asyncio.Event()

    async def respond(request: web.Request) -> web.StreamResponse:
        if "kueue" in request.path:
            return web.json_response({"message": "conversion webhook failed"}, status=500)
        if "watch" in request.query:
            response = web.StreamResponse()
            await response.prepare(request)
            await ended.wait()
            return response
        return web.json_response({"items": [], "metadata": {"resourceVersion": "1"}})

    monkeypatch.setattr(manager_module, "KUEUE_SYNC_SECONDS", 0.1)
    application = web.Application()
    application.router.add_get("/{path:.*}", respond)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    manager = Manager(settings.model_copy(update={"kueue": KueueSettings(enabled=True)}))
    login: Any = Login(f"http://127.0.0.1:{port}")
    try:
        await manager.start(lambda: login)
        assert manager.cache.has_synced
        assert "queued tasks go without its words" in caplog.text
    finally:
        await manager.stop()
        ended.set()
        await runner.cleanup()


async def test_rows_that_had_no_room_are_submitted_again_though_the_status_is_written(
    settings: Settings, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(names.ENV_HISTORY_URL, "postgresql://nobody:nothing@127.0.0.1:1/none")
    manager = Manager(settings)
    assert isinstance(manager.recorder, RunRecorder)
    reconciler = Reconciler(cluster, cluster, settings, manager.recorder, clock=lambda: NOW)
    client: Any = None
    history = manager._start_history(client, reconciler)
    add_task(cluster)
    monkeypatch.setattr(Backlog, "MAX_ROWS", 0)  # others wait for the database
    for _ in range(3):
        await reconciler.reconcile(*KEY)
    assert manager.recorder.backlog == 0

    monkeypatch.setattr(Backlog, "MAX_ROWS", 500)
    manager.recorder.request_rows(KEY)
    assert await manager.queue.get() == KEY
    await reconciler.reconcile(*KEY)
    assert manager.recorder.backlog == 1
    await cancel_all(history)


def test_a_state_without_tasks_is_a_series_too() -> None:
    """The first failures would be no rise for an alert."""
    TaskGauges().update()
    samples = {sample.labels["state"]: sample.value for metric in metrics.TASKS.collect() for sample in metric.samples}
    assert samples == dict.fromkeys(("Pending", "Running", "Suspended", "Interrupted", "Succeeded", "Failed"), 0.0)
