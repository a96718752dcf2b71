"""The limit of failed authentications per client address and in total, in bounded memory."""

import threading
from collections.abc import Callable

from cachetools import TTLCache

WINDOW_SECONDS = 60.0
MAX_FAILURES = 20
MAX_FAILURES_IN_TOTAL = 300
_MAX_ADDRESSES = 10_000
_TOTAL = ""


class FailureLimiter:
    """Counts failures in windows; each begins with its first failure."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._lock = threading.Lock()
        self._counts: TTLCache[str, list[int]] = TTLCache(_MAX_ADDRESSES, WINDOW_SECONDS, clock)

    def add(self, address: str) -> None:
        """Count a failure."""
        with self._lock:
            for key in (_TOTAL, address):
                self._counts.setdefault(key, [0])[0] += 1  # in place: setting the entry would begin a new window

    def is_exceeded(self, address: str) -> bool:
        """Return whether a limit is reached in the current window."""
        with self._lock:
            limits = ((_TOTAL, MAX_FAILURES_IN_TOTAL), (address, MAX_FAILURES))
            return any(self._counts.get(key, [0])[0] >= limit for key, limit in limits)
