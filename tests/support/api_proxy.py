"""A plain HTTP server before an API server that fails as networks and API servers do."""

import asyncio
import json
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import aiohttp
import yarl
from aiohttp import web

from support.ports import free_port

HOP_BY_HOP = {"connection", "host", "content-length", "transfer-encoding", "accept-encoding", "content-encoding"}


@dataclass(frozen=True)
class Call:
    """A request, as far as faults are chosen by it."""

    method: str
    path: str
    is_watch: bool

    @property
    def is_write(self) -> bool:
        return self.method != "GET"

    @property
    def creates_job(self) -> bool:
        return self.method == "POST" and self.path.endswith("/jobs")


@dataclass(frozen=True)
class Answer:
    """What the proxy says instead of the API server."""

    status: int
    reason: str
    message: str = "injected by a test"
    retry_after: int | None = None

    def response(self) -> web.Response:
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        return web.json_response(self.as_status(), status=self.status, headers=headers)

    def as_status(self) -> dict[str, object]:
        content = {"status": "Failure", "code": self.status, "reason": self.reason, "message": self.message}
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}, **content}


GONE = Answer(410, "Expired", "too old resource version")


class ApiProxy:
    """Passes requests on, unless told otherwise.

    Attributes
    ----------
    instead
        Returns what to answer a call without passing it on; None to pass it on. A watch that is answered 410 gets it
        as its first event, as API servers do.
    dropped
        Tells of a call whether it gets lost before the API server sees it.
    lost
        Tells of a call that the API server has answered whether its answer gets lost.
    silent
        Watches that are opened while this is set stay connected, but nothing comes through them.
    calls
        What came through, oldest first.
    """

    def __init__(self, server: str, authority: Path) -> None:
        self.port = free_port()
        self.instead: Callable[[Call], Answer | None] = lambda _: None
        self.dropped: Callable[[Call], bool] = lambda _: False
        self.lost: Callable[[Call], bool] = lambda _: False
        self.silent = False
        self.calls: list[Call] = []
        self._server = server
        self._authority = authority
        self._watches: dict[asyncio.Transport, bool] = {}  # whether it is silent

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        tls = ssl.create_default_context(cafile=str(self._authority))
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=tls, limit=0), timeout=aiohttp.ClientTimeout(total=None)
        )
        application = web.Application(client_max_size=2**24)
        application.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._abort_all()
        await self._runner.cleanup()
        await self._session.close()

    async def open(self) -> None:
        """Accept connections."""
        self._site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await self._site.start()

    async def close(self) -> None:
        """Break all connections and refuse new ones."""
        await self._site.stop()
        self._abort_all()

    def cut_watches(self) -> int:
        """Break the watches; return how many there were."""
        watches = list(self._watches)
        for transport in watches:
            transport.abort()
        return len(watches)

    def silence_watches(self) -> None:
        """Have nothing come through the watches that are open; those that follow work."""
        self._watches = dict.fromkeys(self._watches, True)

    def _abort_all(self) -> None:
        assert self._runner.server is not None
        for connection in self._runner.server.connections:
            if connection.transport is not None:
                connection.transport.abort()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        call = Call(request.method, request.path, request.query.get("watch") in ("true", "1"))
        answer = self.instead(call)
        if answer is not None:
            if call.is_watch and answer.status == 410:
                event = {"type": "ERROR", "object": answer.as_status()}
                return web.Response(text=json.dumps(event) + "\n", content_type="application/json")
            return answer.response()
        if self.dropped(call):
            _break(request)
            return web.Response(status=502)
        headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP}
        url = yarl.URL(self._server + request.raw_path, encoded=True)
        body = await request.read()
        try:
            async with self._session.request(request.method, url, headers=headers, data=body or None) as upstream:
                if call.is_watch and upstream.status == 200:
                    return await self._stream(request, upstream)
                content = await upstream.read()
                self.calls.append(call)
                if self.lost(call):
                    _break(request)
                kept = {n: v for n, v in upstream.headers.items() if n.lower() in ("content-type", "retry-after")}
                return web.Response(status=upstream.status, body=content, headers=kept)
        except aiohttp.ClientError:
            _break(request)
            return web.Response(status=502)

    async def _stream(self, request: web.Request, upstream: aiohttp.ClientResponse) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        transport = request.transport
        if transport is None:
            return response
        self._watches[transport] = self.silent
        try:
            async for chunk in upstream.content.iter_any():
                if not self._watches[transport]:
                    await response.write(chunk)
        finally:
            self._watches.pop(transport, None)
        return response


def _break(request: web.Request) -> None:
    """Break the connection, unless the client has."""
    if request.transport is not None:
        request.transport.abort()
