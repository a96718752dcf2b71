"""SIGTERM and Ctrl-C as an exception in the main thread, once."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType
from typing import Any

from trainingtask_trainer.errors import Interrupted

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# A pod is killed 60 s after SIGTERM; the second half is for the last reports.
_DEFER_SECONDS = 30.0

_is_deferred = False  # global, as signal handlers are


@contextmanager
def defer_interrupts() -> Iterator[None]:
    """Have `Interrupted` raised by the next `InterruptHandler.raise_if_received` alone, while entered.

    30 s after the signal it is raised anyway, wherever the process is.
    """
    global _is_deferred  # noqa: PLW0603
    _is_deferred = True
    try:
        yield
    finally:
        _is_deferred = False


class InterruptHandler:
    """While entered, the first signal raises `Interrupted`; later ones are ignored, so that reports are delivered."""

    def __init__(self) -> None:
        self._received: str | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "InterruptHandler":
        handlers = {**dict.fromkeys(_SIGNALS, self._handle), signal.SIGALRM: self._handle_alarm}
        self._previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def raise_if_received(self) -> None:
        """Raise `Interrupted` if a signal was deferred, or its exception was lost, as in a destructor."""
        if self._received is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)
            raise Interrupted(self._received)

    def ignore_signals(self) -> None:
        """Ignore signals from now on: the run is over, and its last reports are being delivered."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def wait_for_signal(self, seconds: float) -> None:
        """Return once a signal is received, at the latest after `seconds`, although signals are ignored by now."""
        if self._received is None:
            for number in _SIGNALS:
                signal.signal(number, self._handle)
            with suppress(Interrupted):
                time.sleep(seconds)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._received is None:
            self._received = signal.Signals(number).name
            if not _is_deferred:
                raise Interrupted(self._received)
            signal.setitimer(signal.ITIMER_REAL, _DEFER_SECONDS)

    def _handle_alarm(self, number: int, frame: FrameType | None) -> None:
        raise Interrupted(self._received or signal.Signals(number).name)
