"""A plain HTTP proxy of an API server that injects faults of networks and API servers."""

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
    """The parts of a request by which a test chooses faults."""

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
class ErrorResponse:
    """A response of the proxy in the place of the API server's."""

    status: int
    reason: str
    message: str = "injected by a test"
    retry_after: int | None = None

    def build(self) -> web.Response:
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        return web.json_response(self.as_status(), status=self.status, headers=headers)

    def as_status(self) -> dict[str, object]:
        content = {"status": "Failure", "code": self.status, "reason": self.reason, "message": self.message}
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}, **content}


GONE = ErrorResponse(410, "Expired", "too old resource version")


class ApiProxy:
    """Forward requests, except for the injected faults.

    Attributes
    ----------
    respond_instead
        Returns the response to a call that is not forwarded; None to forward it. A watch gets a 410 as its first event,
        as from API servers.
    drop_request
        Returns whether the connection breaks before the call is forwarded.
    drop_response
        Returns whether the connection breaks after the API server's response.
    mute_new_watches
        Whether watches that are opened from now on stay connected without a byte.
    calls
        The forwarded calls, oldest first.
    """

    def __init__(self, server: str, authority: Path) -> None:
        self.port = free_port()
        self.respond_instead: Callable[[Call], ErrorResponse | None] = lambda _: None
        self.drop_request: Callable[[Call], bool] = lambda _: False
        self.drop_response: Callable[[Call], bool] = lambda _: False
        self.mute_new_watches = False
        self.calls: list[Call] = []
        self._server = server
        self._authority = authority
        self._watches: dict[asyncio.Transport, bool] = {}  # whether it is muted

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

    def break_watches(self) -> int:
        """Break the watches; return how many there were."""
        watches = list(self._watches)
        for transport in watches:
            transport.abort()
        return len(watches)

    def mute_watches(self) -> None:
        """Forward no more bytes of the open watches; new ones work."""
        self._watches = dict.fromkeys(self._watches, True)

    def _abort_all(self) -> None:
        assert self._runner.server is not None
        for connection in self._runner.server.connections:
            if connection.transport is not None:
                connection.transport.abort()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        call = Call(request.method, request.path, request.query.get("watch") in ("true", "1"))
        response = self.respond_instead(call)
        if response is not None:
            if call.is_watch and response.status == 410:
                event = {"type": "ERROR", "object": response.as_status()}
                return web.Response(text=json.dumps(event) + "\n", content_type="application/json")
            return response.build()
        if self.drop_request(call):
            _break_connection(request)
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
                if self.drop_response(call):
                    _break_connection(request)
                response_headers = {
                    n: v for n, v in upstream.headers.items() if n.lower() in ("content-type", "retry-after")
                }
                return web.Response(status=upstream.status, body=content, headers=response_headers)
        except aiohttp.ClientError:
            _break_connection(request)
            return web.Response(status=502)

    async def _stream(self, request: web.Request, upstream: aiohttp.ClientResponse) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        transport = request.transport
        if transport is None:
            return response
        self._watches[transport] = self.mute_new_watches
        try:
            async for chunk in upstream.content.iter_any():
                if not self._watches[transport]:
                    await response.write(chunk)
        finally:
            self._watches.pop(transport, None)
        return response


def _break_connection(request: web.Request) -> None:
    """Break the connection, unless the client has."""
    if request.transport is not None:
        request.transport.abort()
