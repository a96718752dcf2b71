"""uvicorn with time limits for slow and silent clients; uvicorn itself has none for reading.

For the extras `web` and `serve`, which install uvicorn and h11: nothing else of this package imports it.
"""

import asyncio
from typing import ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


class BoundedProtocol(H11Protocol):
    """A connection with time limits for receiving its request and for sending its response.

    Above `max_connections`, the connections that wait for their client are closed, the longest wait first: silent
    clients and slow readers cannot displace a complete request.
    """

    request_seconds: ClassVar[float] = 10.0
    response_seconds: ClassVar[float] = 120.0
    stalled_seconds: ClassVar[float] = 20.0
    max_connections: ClassVar[int] = 500
    _waiting_for_client: ClassVar[dict["BoundedProtocol", None]] = {}
    _timer: asyncio.TimerHandle | None = None
    _stalled_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the time limit of a request."""
        super().connection_made(transport)
        self._evict_slow_clients()
        self._start_timer()

    def data_received(self, data: bytes) -> None:
        """Receive a part of a request; its last part starts the time limit of the response."""
        was_receiving = self._is_receiving()
        super().data_received(data)
        if self._is_receiving() != was_receiving:
            self._start_timer()

    def on_response_complete(self) -> None:
        """Start the time limit of the next request."""
        super().on_response_complete()
        self._start_timer()

    def pause_writing(self) -> None:
        """Start to check that the client reads the response."""
        super().pause_writing()
        self._waiting_for_client.setdefault(self)
        self._evict_slow_clients()
        self._check_progress()

    def resume_writing(self) -> None:
        """Stop that check; after a complete response, start the time limit of the next request."""
        super().resume_writing()
        self._stop_stalled_timer()
        if self._is_receiving():
            self._start_timer()
        else:
            self._waiting_for_client.pop(self, None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all timers."""
        super().connection_lost(exc)
        self._stop_timer()
        self._stop_stalled_timer()

    def _is_receiving(self) -> bool:
        return self.conn.their_state in (h11.IDLE, h11.SEND_BODY)

    def _evict_slow_clients(self) -> None:
        while len(self.connections) > self.max_connections and self._waiting_for_client:
            next(iter(self._waiting_for_client))._abort()

    def _check_progress(self, unsent_before: int | None = None) -> None:
        unsent = self.transport.get_write_buffer_size()
        if unsent_before is not None and unsent >= unsent_before:
            self._abort()
        else:
            self._stalled_timer = self.loop.call_later(self.stalled_seconds, self._check_progress, unsent)

    def _start_timer(self) -> None:
        self._stop_timer()
        if self._is_receiving() or self.flow.write_paused:
            self._waiting_for_client[self] = None
        is_request_due = self._is_receiving() and not self.flow.write_paused
        seconds = self.request_seconds if is_request_due else self.response_seconds
        self._timer = self.loop.call_later(seconds, self._abort)

    def _stop_timer(self) -> None:
        self._waiting_for_client.pop(self, None)
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
