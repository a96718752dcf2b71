"""A keyed queue: a key that waits is there once, a key at work is never handed to a second worker."""

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)

BASE_DELAY_SECONDS = 0.2
MAX_DELAY_SECONDS = 60.0
# What may come later waits until nothing has been asked for in the meantime for so long, ...
QUIET_SECONDS = 0.2
# ... but for no longer than this while others come and go and none waits.
PATIENCE_SECONDS = 10.0


class WorkQueue(Generic[Key]):
    """De-duplicating queue for level-triggered work, after the semantics of client-go's workqueue.

    What happened to a key does not matter, only that something did: a hundred events for one key while it waits are
    one item, and an event for a key at work makes it run once more afterwards.
    """

    def __init__(self, jitter: Callable[[], float] = random.random) -> None:
        self._jitter = jitter
        self._waiting: deque[Key] = deque()
        self._later: dict[Key, None] = {}  # in order; what comes after all that is waiting
        self._later_after_work: set[Key] = set()
        self._last_handed_out = 0.0  # of those that were not for later, on the monotonic clock
        self._quiet: asyncio.TimerHandle | None = None
        self._dirty: dict[Key, float] = {}  # key -> when it was added, on the monotonic clock
        self._at_work: dict[Key, float] = {}  # key -> since when
        self._failures: dict[Key, int] = {}
        self._delayed: dict[Key, asyncio.TimerHandle] = {}
        self._some = asyncio.Event()
        self._stopped = False

    def __len__(self) -> int:
        return len(self._waiting) + len(self._later)

    @property
    def age(self) -> float:
        """Seconds that the oldest key has waited, those for later left out."""
        first = self._waiting[0] if self._waiting else None
        return time.monotonic() - self._dirty[first] if first is not None else 0.0

    @property
    def oldest_work(self) -> float:
        """Seconds that the longest piece of work has taken so far."""
        return time.monotonic() - min(self._at_work.values()) if self._at_work else 0.0

    def is_at_work(self, key: Key) -> bool:
        """Tell whether somebody works on `key` now."""
        return key in self._at_work

    def add(self, key: Key, *, later: bool = False) -> None:
        """Ask for `key` to be looked at; `later` is when nothing else has been asked for in a while."""
        if not later:
            self._later_after_work.discard(key)
        if key in self._dirty:
            if not later and key in self._later:
                del self._later[key]
                self._dirty[key] = time.monotonic()
                self._wait(key, later=False)
            return
        self._dirty[key] = time.monotonic()
        if key not in self._at_work:
            self._wait(key, later=later)
        elif later:
            self._later_after_work.add(key)

    def add_after(self, key: Key, seconds: float, *, later: bool = False) -> None:
        """Ask for `key` to be looked at in a while; the earlier of two such wishes stands."""
        loop = asyncio.get_running_loop()
        pending = self._delayed.get(key)
        if pending is not None:
            if pending.when() <= loop.time() + seconds:
                return
            pending.cancel()
        self._delayed[key] = loop.call_later(seconds, self._due, key, later)

    def retry(self, key: Key) -> float:
        """Ask for `key` again after its work failed: exponential back-off with jitter. Return the delay in seconds."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        delay = min(BASE_DELAY_SECONDS * 2.0 ** min(failures, 20), MAX_DELAY_SECONDS) * (0.5 + self._jitter() / 2)
        self.add_after(key, delay)
        return delay

    def forget(self, key: Key) -> None:
        """Note that the work on `key` succeeded: its next failure starts the back-off anew."""
        self._failures.pop(key, None)

    def stop(self) -> None:
        """Hand out no more keys."""
        self._stopped = True
        self._some.set()

    async def get(self) -> Key | None:
        """Wait for a key and mark it as at work, `done` must follow; None once the queue is stopped."""
        while not self._waiting and not self._stopped and not self._may_go_later():
            self._some.clear()
            await self._some.wait()
        if self._stopped:
            return None
        if self._waiting:
            key = self._waiting.popleft()
            self._last_handed_out = time.monotonic()
        else:
            key = next(iter(self._later))
            del self._later[key]
        del self._dirty[key]
        self._at_work[key] = time.monotonic()
        return key

    def done(self, key: Key) -> None:
        """Mark the work on `key` as ended; what was added meanwhile waits again."""
        self._at_work.pop(key, None)
        if key in self._dirty:
            self._wait(key, later=key in self._later_after_work)
            self._later_after_work.discard(key)

    def _wait(self, key: Key, *, later: bool) -> None:
        if later:
            self._later[key] = None
        else:
            self._waiting.append(key)
        self._some.set()

    def _may_go_later(self) -> bool:
        """Tell whether one of those for later may go now; if not, wake a worker when it may."""
        if not self._later:
            return False
        first = self._dirty[next(iter(self._later))]
        now = time.monotonic()
        wait = min(self._last_handed_out + QUIET_SECONDS, first + PATIENCE_SECONDS) - now
        if wait > 0 and self._quiet is None:
            self._quiet = asyncio.get_running_loop().call_later(wait, self._wake)
        return wait <= 0

    def _wake(self) -> None:
        self._quiet = None
        self._some.set()

    def _due(self, key: Key, later: bool) -> None:
        self._delayed.pop(key, None)
        self.add(key, later=later)
