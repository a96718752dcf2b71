"""The HTTP server: uvicorn, with bounds on what a slow or silent client may hold. uvicorn itself has none for reading."""

import asyncio
from typing import Any, ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_CONNECTIONS = 500


class BoundedProtocol(H11Protocol):
    """A connection whose request has to arrive, and whose response has to be taken, within a time.

    When there are too many, those are closed that wait for their client, the one that waits longest first: a flood
    of silent clients or slow readers keeps nobody out whose request is complete.
    """

    request_seconds: ClassVar[float] = 10.0
    response_seconds: ClassVar[float] = 120.0
    stalled_seconds: ClassVar[float] = 20.0
    max_connections: ClassVar[int] = MAX_CONNECTIONS
    _waiting: ClassVar[dict["BoundedProtocol", None]] = {}
    _timer: asyncio.TimerHandle | None = None
    _stalled_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Expect a request."""
        super().connection_made(transport)
        self._evict_slow_clients()
        self._start_timer()

    def data_received(self, data: bytes) -> None:
        """Read some of a request, and expect its response when that was the last of it."""
        was_receiving = self._is_receiving()
        super().data_received(data)
        if self._is_receiving() != was_receiving:
            self._start_timer()

    def on_response_complete(self) -> None:
        """Expect the next request."""
        super().on_response_complete()
        self._start_timer()

    def pause_writing(self) -> None:
        """Expect the client to take some of its response."""
        super().pause_writing()
        self._waiting.setdefault(self)
        self._evict_slow_clients()
        self._check_progress()

    def resume_writing(self) -> None:
        """Go on with the response, or expect the next request when it is complete."""
        super().resume_writing()
        self._stop_stalled_timer()
        if self._is_receiving():
            self._start_timer()
        else:
            self._waiting.pop(self, None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Expect nothing more."""
        super().connection_lost(exc)
        self._stop_timer()
        self._stop_stalled_timer()

    def _is_receiving(self) -> bool:
        return self.conn.their_state in (h11.IDLE, h11.SEND_BODY)

    def _evict_slow_clients(self) -> None:
        while len(self.connections) > self.max_connections and self._waiting:
            next(iter(self._waiting))._abort()

    def _check_progress(self, left: int | None = None) -> None:
        now = self.transport.get_write_buffer_size()
        if left is not None and now >= left:
            self._abort()
        else:
            self._stalled_timer = self.loop.call_later(self.stalled_seconds, self._check_progress, now)

    def _start_timer(self) -> None:
        self._stop_timer()
        if self._is_receiving() or self.flow.write_paused:
            self._waiting[self] = None
        is_due = self._is_receiving() and not self.flow.write_paused
        self._timer = self.loop.call_later(self.request_seconds if is_due else self.response_seconds, self._abort)

    def _stop_timer(self) -> None:
        self._waiting.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()

    def _stop_stalled_timer(self) -> None:
        if self._stalled_timer is not None:
            self._stalled_timer.cancel()

    def _abort(self) -> None:
        self._stop_timer()
        self._stop_stalled_timer()
        self.connections.discard(self)
        self.transport.abort()


# For `uvicorn.run` and `uvicorn.Config`.
UVICORN_OPTIONS: dict[str, Any] = {
    "http": BoundedProtocol,
    "ws": "none",
    "h11_max_incomplete_event_size": 32 * 1024,  # bytes of a request line with its headers, a token among them
    "limit_concurrency": 2 * MAX_CONNECTIONS,  # room for requests that are worked on while others are turned away
    "timeout_graceful_shutdown": 20,
    "log_config": None,
    "access_log": False,
    "server_header": False,
}
