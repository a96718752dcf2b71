"""A limit on failed authentications, for each client address and for all together, in bounded memory."""

import threading
from collections.abc import Callable

from cachetools import TTLCache

WINDOW_SECONDS = 60.0
MOST_FAILED = 20
MOST_FAILED_IN_ALL = 300
_MOST_ADDRESSES = 10_000
_ALL = ""


class FailedAttempts:
    """Counts failures in windows that begin with the first one."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._lock = threading.Lock()
        self._counts: TTLCache[str, list[int]] = TTLCache(_MOST_ADDRESSES, WINDOW_SECONDS, clock)

    def add(self, address: str) -> None:
        """Count a failure."""
        with self._lock:
            for key in (_ALL, address):
                self._counts.setdefault(key, [0])[0] += 1  # in place: to set it again would begin a new window

    def are_too_many(self, address: str) -> bool:
        """Return whether no more attempts are due in this window."""
        with self._lock:
            limits = ((_ALL, MOST_FAILED_IN_ALL), (address, MOST_FAILED))
            return any(self._counts.get(key, [0])[0] >= most for key, most in limits)
