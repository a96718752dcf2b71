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


class WorkQueue(Generic[Key]):
    """De-duplicating queue for level-triggered work, after the semantics of client-go's workqueue.

    What happened to a key does not matter, only that something did: a hundred events for one key while it waits are
    one item, and an event for a key at work makes it run once more afterwards.
    """

    def __init__(self, jitter: Callable[[], float] = random.random) -> None:
        self._jitter = jitter
        self._waiting: deque[Key] = deque()
        self._dirty: dict[Key, float] = {}  # key -> when it was added, on the monotonic clock
        self._at_work: set[Key] = set()
        self._failures: dict[Key, int] = {}
        self._delayed: dict[Key, asyncio.TimerHandle] = {}
        self._some = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, key: Key) -> None:
        """Ask for `key` to be looked at."""
        if key in self._dirty:
            return
        self._dirty[key] = time.monotonic()
        if key not in self._at_work:
            self._waiting.append(key)
            self._some.set()

    def add_after(self, key: Key, seconds: float) -> None:
        """Ask for `key` to be looked at in a while; the earlier of two such wishes stands."""
        loop = asyncio.get_running_loop()
        pending = self._delayed.get(key)
        if pending is not None:
            if pending.when() <= loop.time() + seconds:
                return
            pending.cancel()
        self._delayed[key] = loop.call_later(seconds, self._due, key)

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

    async def get(self) -> Key:
        """Wait for a key and mark it as at work; `done` must follow."""
        while not self._waiting:
            self._some.clear()
            await self._some.wait()
        key = self._waiting.popleft()
        del self._dirty[key]
        self._at_work.add(key)
        return key

    def done(self, key: Key) -> None:
        """Mark the work on `key` as ended; what was added meanwhile waits again."""
        self._at_work.discard(key)
        if key in self._dirty:
            self._waiting.append(key)
            self._some.set()

    def _due(self, key: Key) -> None:
        self._delayed.pop(key, None)
        self.add(key)
