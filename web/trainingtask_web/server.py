"""The HTTP server: uvicorn, with bounds on what a slow or silent client may hold. uvicorn itself has none for reading."""

import asyncio
from typing import Any, ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

MOST_CONNECTIONS = 500


class BoundedProtocol(H11Protocol):
    """A connection whose request has to arrive, and whose response has to be taken, within a time.

    Connections that owe a request, the oldest first, are closed when there are too many: a flood of them keeps
    nobody out whose request is complete.
    """

    request_seconds: ClassVar[float] = 10.0
    response_seconds: ClassVar[float] = 120.0
    most_connections: ClassVar[int] = MOST_CONNECTIONS
    _receiving: ClassVar[dict["BoundedProtocol", None]] = {}
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Expect a request."""
        super().connection_made(transport)
        if len(self.connections) > self.most_connections and self._receiving:
            next(iter(self._receiving))._abort()
        self._start_timer()

    def data_received(self, data: bytes) -> None:
        """Read some of a request, and expect its response when that was the last of it."""
        super().data_received(data)
        if self._is_receiving() != (self in self._receiving):
            self._start_timer()

    def on_response_complete(self) -> None:
        """Expect the next request."""
        super().on_response_complete()
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Expect nothing more."""
        super().connection_lost(exc)
        self._stop_timer()

    def _is_receiving(self) -> bool:
        return self.conn.their_state in (h11.IDLE, h11.SEND_BODY)

    def _start_timer(self) -> None:
        self._stop_timer()
        if self._is_receiving():
            self._receiving[self] = None
        seconds = self.request_seconds if self._is_receiving() else self.response_seconds
        self._timer = self.loop.call_later(seconds, self._abort)

    def _stop_timer(self) -> None:
        self._receiving.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()

    def _abort(self) -> None:
        self._stop_timer()
        self.transport.abort()


# For `uvicorn.run` and `uvicorn.Config`.
OPTIONS: dict[str, Any] = {
    "http": BoundedProtocol,
    "ws": "none",
    "h11_max_incomplete_event_size": 32 * 1024,  # bytes of a request line with its headers, a token among them
    "limit_concurrency": MOST_CONNECTIONS + 1,
    "timeout_graceful_shutdown": 20,
    "log_config": None,
    "access_log": False,
    "server_header": False,
}
