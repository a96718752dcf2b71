"""The start of the manager: what it waits for."""

import asyncio
import ssl
from typing import Any

import pytest
from aiohttp import web

from support.ports import free_port
from trainingtask_operator.manager import manager as manager_module
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
