"""SIGTERM and Ctrl-C as an exception in the main thread, once."""

import signal
from types import FrameType, TracebackType
from typing import Any

from trainingtask_trainer.errors import Interrupted

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interruption:
    """While entered, the first signal raises `Interrupted`; later ones are noted only, so that reports get out."""

    def __init__(self) -> None:
        self._received: str | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Interruption":
        self._previous = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Raise `Interrupted` if a signal came and its exception got lost, as it does inside a destructor."""
        if self._received is not None:
            raise Interrupted(self._received)

    def disarm(self) -> None:
        """Let signals pass from now on: the run is over and only its last words are under way."""
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._received is None:
            self._received = signal.Signals(number).name
            raise Interrupted(self._received)
