"""Clients that send incomplete requests or read no response: their connections end, and probes are answered."""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import uvicorn
from sqlalchemy import Engine

from support.kubectl import eventually
from trainingtask_api.bounded_http import BoundedProtocol
from trainingtask_web.app import create_app
from trainingtask_web.http.server import UVICORN_OPTIONS
from trainingtask_web.settings import load_settings

SECONDS = 2.0
TIMEOUT_SECONDS = 60.0  # for a busy machine
NEVER = 3600.0
GOOD = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
LARGE = GOOD.replace(b"/healthz", b"/docs/files/swagger-ui-bundle.js")
INCOMPLETE = {
    "nothing": b"",
    "half a request line": b"GET /api/v1/ru",
    "half the headers": b"GET /api/v1/runs HTTP/1.1\r\nHost: localhost\r\nAccept: ",
    "half a body": b"POST /session HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\ntoken=",
    "half a chunk": b"POST /session HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n64\r\ntok",
    "half a second request": GOOD + b"GET /healthz HTTP/1.1\r\nHo",
}
Connect = Callable[[], socket.socket]


@contextlib.contextmanager
def serve(app: Any, **limits: Any) -> Iterator[int]:
    """Serve an app with shorter timeouts and other limits."""
    short = {"request_seconds": SECONDS, "response_seconds": NEVER, "_waiting_for_client": {}}
    http = type("Short", (BoundedProtocol,), {**short, **limits})
    limit = UVICORN_OPTIONS["limit_concurrency"] * http.max_connections // BoundedProtocol.max_connections  # type: ignore[attr-defined]
    server = uvicorn.Server(uvicorn.Config(app, **{**UVICORN_OPTIONS, "http": http, "limit_concurrency": limit}))
    with socket.create_server(("127.0.0.1", 0), backlog=1000) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)  # so that a response has to be taken
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(30)


@pytest.fixture
def port(sqlite: Engine, request: pytest.FixtureRequest) -> Iterator[int]:
    url = sqlite.url.render_as_string(hide_password=False)
    app = create_app(load_settings({"TRAININGTASK_HISTORY_URL": url, "TRAININGTASK_WEB_AUTH": "none"}))
    with serve(app, **getattr(request, "param", {})) as port:
        yield port


@pytest.fixture
def connect(port: int) -> Iterator[Connect]:
    with contextlib.ExitStack() as stack:

        def connect() -> socket.socket:
            return stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_SECONDS))

        yield connect


def read_until_closed(connection: socket.socket) -> bytes:
    """Return the rest of the response; fail when the server does not close."""
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(1 << 20):
            found += part
    return found


def is_served(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=TIMEOUT_SECONDS).status_code == 200
    except httpx.TransportError:  # the request itself was late
        return False


@pytest.mark.parametrize("half", INCOMPLETE)
def test_an_incomplete_request_is_closed(connect: Connect, half: str) -> None:
    connection = connect()
    connection.sendall(INCOMPLETE[half])
    started = time.monotonic()
    read_until_closed(connection)
    assert time.monotonic() - started < SECONDS + TIMEOUT_SECONDS / 2


def test_slow_bytes_do_not_extend_the_request_timeout(connect: Connect) -> None:
    connection = connect()
    connection.sendall(INCOMPLETE["half the headers"])
    connection.settimeout(SECONDS / 10)
    deadline = time.monotonic() + TIMEOUT_SECONDS
    is_open = True
    while is_open and time.monotonic() < deadline:
        try:
            connection.sendall(b"x")
            is_open = connection.recv(1) != b""
        except TimeoutError:
            continue
        except ConnectionError:
            is_open = False
    assert not is_open


def test_200_incomplete_requests_do_not_block_a_complete_one(connect: Connect, port: int) -> None:
    connections = [connect() for _ in range(200)]
    for number, connection in enumerate(connections):
        connection.sendall(list(INCOMPLETE.values())[number % 5])
    eventually("a complete request is answered", lambda: is_served(port))
    for connection in connections:
        read_until_closed(connection)
    assert is_served(port)


@pytest.mark.parametrize("port", [{"max_connections": 20, "request_seconds": NEVER}], indirect=True)
def test_above_the_limit_the_oldest_incomplete_requests_are_closed(connect: Connect, port: int) -> None:
    connections = [connect() for _ in range(100)]
    assert is_served(port)
    for connection in connections[:70]:
        read_until_closed(connection)
    connections[-1].sendall(GOOD)
    assert connections[-1].recv(100).startswith(b"HTTP/1.1 200")


@contextlib.contextmanager
def open_slow_reader(port: int) -> Iterator[socket.socket]:
    """Request a file of more than a megabyte, with a receive buffer of a few kilobytes."""
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(TIMEOUT_SECONDS)
        connection.connect(("127.0.0.1", port))
        connection.sendall(LARGE)
        yield connection


# Connections whose client is waited for, of one test each: those of an ended server stay.
Connections = dict[BoundedProtocol, None]
WAITING: Connections = {}
STALLED: Connections = {}
IDLE: Connections = {}
SLOW = {
    "max_connections": 20,
    "request_seconds": NEVER,
    "response_seconds": NEVER,
    "stalled_seconds": NEVER,
    "_waiting_for_client": WAITING,
}


def count_stalled(waiting: Connections) -> int:
    return sum(connection.flow.write_paused for connection in list(waiting))


@pytest.mark.parametrize("port", [SLOW], indirect=True)
def test_above_the_limit_the_oldest_slow_readers_are_closed(port: int) -> None:
    with contextlib.ExitStack() as stack:
        readers: list[socket.socket] = []
        for number in range(30):
            readers.append(stack.enter_context(open_slow_reader(port)))
            if number >= 20:
                assert len(read_until_closed(readers[number - 20])) < 1_000_000
            eventually("the reader's response is stalled", lambda: count_stalled(WAITING) == min(len(readers), 20))
        statuses = [
            httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=TIMEOUT_SECONDS).status_code for _ in range(50)
        ]
        assert statuses == [200] * 50
        assert len(read_until_closed(readers[10])) < 1_000_000


@pytest.mark.parametrize("port", [{"request_seconds": NEVER, "response_seconds": NEVER, "stalled_seconds": SECONDS, "_waiting_for_client": STALLED}], indirect=True)  # fmt: skip
def test_a_stalled_response_is_closed(port: int) -> None:
    with open_slow_reader(port) as reader:
        eventually("the response is stalled", lambda: count_stalled(STALLED) == 1)
        eventually("its connection is closed", lambda: not STALLED)
        assert len(read_until_closed(reader)) < 1_000_000


@pytest.mark.parametrize("port", [{"response_seconds": NEVER, "stalled_seconds": 2 * SECONDS}], indirect=True)
def test_a_slow_reader_receives_the_whole_response(port: int) -> None:
    with open_slow_reader(port) as reader:
        deadline = time.monotonic() + 4 * SECONDS
        size = 0
        while time.monotonic() < deadline:
            size += len(reader.recv(4096))
            time.sleep(SECONDS / 20)
        assert size + len(read_until_closed(reader)) > 1_400_000


def test_an_unread_response_ends() -> None:
    ended = threading.Event()

    async def endless(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        sending = asyncio.ensure_future(receive())  # comes back when the client is gone
        while not sending.done():
            await send({"type": "http.response.body", "body": b"x" * 1_000_000, "more_body": True})
            await asyncio.sleep(0)
        ended.set()

    with (
        serve(endless, response_seconds=SECONDS) as port,
        socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_SECONDS) as connection,
    ):
        connection.sendall(GOOD)
        assert ended.wait(SECONDS + TIMEOUT_SECONDS)


@pytest.mark.parametrize("port", [{"request_seconds": NEVER, "_waiting_for_client": IDLE}], indirect=True)
def test_the_timeout_restarts_with_each_request(connect: Connect) -> None:
    connection = connect()
    timers: list[asyncio.TimerHandle] = []  # not their times: the loop's clock counts milliseconds

    def has_new_timer() -> bool:
        return [protocol._timer not in [None, *timers] for protocol in list(IDLE)] == [True]

    for _ in range(3):
        connection.sendall(GOOD + GOOD)
        answers = b""
        while answers.count(b"ok\n") < 2:
            answers += connection.recv(4096)
        eventually("the timeout begins anew", has_new_timer)
        (protocol,) = list(IDLE)
        assert protocol._timer
        timers.append(protocol._timer)


@pytest.mark.parametrize(
    "request_", [
        GOOD[:-2] + b"X: " + b"x" * 1_000_000 + b"\r\n\r\n",
        GOOD[:-2] + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n",
        GOOD[:-2] + b"Host: evil.example\r\n\r\n",
        GOOD[:-2] + b"Transfer-Encoding: gzip, chunked\r\n\r\n",
    ], ids=["headers too large", "two lengths", "two hosts", "unknown encoding"],
)  # fmt: skip
def test_ambiguous_and_oversized_heads_are_refused(connect: Connect, request_: bytes) -> None:
    connection = connect()
    with contextlib.suppress(ConnectionError):
        connection.sendall(request_)
    answer = read_until_closed(connection)
    assert answer == b"" or answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 501"))


def test_the_default_limits() -> None:
    assert UVICORN_OPTIONS["http"] is BoundedProtocol
    assert (BoundedProtocol.request_seconds, BoundedProtocol.response_seconds) == (10.0, 120.0)
    assert BoundedProtocol.stalled_seconds == 20.0
    assert UVICORN_OPTIONS["limit_concurrency"] >= 2 * BoundedProtocol.max_connections
