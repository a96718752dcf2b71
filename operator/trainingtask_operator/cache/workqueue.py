"""A de-duplicating queue of keys, after the semantics of client-go's workqueue."""

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Hashable
from enum import Enum
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)

BASE_DELAY_SECONDS = 0.2
MAX_DELAY_SECONDS = 60.0
# A low-priority key waits until no other key was handed out for so long, ...
LOW_PRIORITY_QUIET_SECONDS = 0.2
# ... but no longer than this while the queue of normal priority is empty.
LOW_PRIORITY_MAX_WAIT_SECONDS = 10.0


class Priority(Enum):
    """Whether a key is handed out in its turn, or after all others."""

    NORMAL = 0
    LOW = 1


class WorkQueue(Generic[Key]):
    """Queue for level-triggered work.

    Only that a key changed matters, not how: a hundred events for one waiting key are one item, and an event for a key
    in processing makes it run once more afterwards. A key is never handed to two workers at once.
    """

    def __init__(self, jitter: Callable[[], float] = random.random) -> None:
        self._jitter = jitter
        self._ready: deque[Key] = deque()
        self._ready_low: dict[Key, None] = {}  # in order
        self._low_after_processing: set[Key] = set()
        self._last_normal_get = 0.0  # on the monotonic clock
        self._quiet_timer: asyncio.TimerHandle | None = None
        self._dirty: dict[Key, float] = {}  # key -> when it was added, on the monotonic clock
        self._processing: dict[Key, float] = {}  # key -> since when
        self._failures: dict[Key, int] = {}
        self._delayed: dict[Key, asyncio.TimerHandle] = {}
        self._wake_up = asyncio.Event()
        self._stopped = False

    def __len__(self) -> int:
        return len(self._ready) + len(self._ready_low)

    @property
    def longest_wait_seconds(self) -> float:
        """Return how long the first key of normal priority has waited."""
        first = self._ready[0] if self._ready else None
        return time.monotonic() - self._dirty[first] if first is not None else 0.0

    @property
    def longest_processing_seconds(self) -> float:
        """Return how long the key that is longest in processing has been so."""
        return time.monotonic() - min(self._processing.values()) if self._processing else 0.0

    def is_processing(self, key: Key) -> bool:
        """Return whether a worker holds `key` now."""
        return key in self._processing

    def add(self, key: Key, *, priority: Priority = Priority.NORMAL) -> None:
        """Enqueue `key`, unless it waits already; NORMAL raises the priority of a waiting key."""
        is_low = priority is Priority.LOW
        if not is_low:
            self._low_after_processing.discard(key)
        if key in self._dirty:
            if not is_low and key in self._ready_low:
                del self._ready_low[key]
                self._dirty[key] = time.monotonic()
                self._make_ready(key, is_low=False)
            return
        self._dirty[key] = time.monotonic()
        if key not in self._processing:
            self._make_ready(key, is_low=is_low)
        elif is_low:
            self._low_after_processing.add(key)

    def add_after(self, key: Key, seconds: float, *, priority: Priority = Priority.NORMAL) -> None:
        """Enqueue `key` after a delay; the earlier of two delays counts."""
        loop = asyncio.get_running_loop()
        pending = self._delayed.get(key)
        if pending is not None:
            if pending.when() <= loop.time() + seconds:
                return
            pending.cancel()
        self._delayed[key] = loop.call_later(seconds, self._add_delayed, key, priority)

    def add_rate_limited(self, key: Key) -> float:
        """Enqueue `key` after a failure, with exponential backoff and jitter; return the delay in seconds."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        delay = min(BASE_DELAY_SECONDS * 2.0 ** min(failures, 20), MAX_DELAY_SECONDS) * (0.5 + self._jitter() / 2)
        self.add_after(key, delay)
        return delay

    def forget(self, key: Key) -> None:
        """Reset the backoff of `key`."""
        self._failures.pop(key, None)

    def stop(self) -> None:
        """Hand out no more keys."""
        self._stopped = True
        self._wake_up.set()

    async def get(self) -> Key | None:
        """Wait for a key and mark it as in processing, until `done` is called; return None once the queue is stopped."""
        while not self._ready and not self._stopped and not self._can_hand_out_low():
            self._wake_up.clear()
            await self._wake_up.wait()
        if self._stopped:
            return None
        if self._ready:
            key = self._ready.popleft()
            self._last_normal_get = time.monotonic()
        else:
            key = next(iter(self._ready_low))
            del self._ready_low[key]
        del self._dirty[key]
        self._processing[key] = time.monotonic()
        return key

    def done(self, key: Key) -> None:
        """Mark `key` as processed; enqueue it again if it was added meanwhile."""
        self._processing.pop(key, None)
        if key in self._dirty:
            self._make_ready(key, is_low=key in self._low_after_processing)
            self._low_after_processing.discard(key)

    def _make_ready(self, key: Key, *, is_low: bool) -> None:
        if is_low:
            self._ready_low[key] = None
        else:
            self._ready.append(key)
        self._wake_up.set()

    def _can_hand_out_low(self) -> bool:
        """Return whether a low-priority key may be handed out; if not yet, set a timer for when it may."""
        if not self._ready_low:
            return False
        added = self._dirty[next(iter(self._ready_low))]
        due = min(self._last_normal_get + LOW_PRIORITY_QUIET_SECONDS, added + LOW_PRIORITY_MAX_WAIT_SECONDS)
        wait = due - time.monotonic()
        if wait > 0 and self._quiet_timer is None:
            self._quiet_timer = asyncio.get_running_loop().call_later(wait, self._end_quiet)
        return wait <= 0

    def _end_quiet(self) -> None:
        self._quiet_timer = None
        self._wake_up.set()

    def _add_delayed(self, key: Key, priority: Priority) -> None:
        self._delayed.pop(key, None)
        self.add(key, priority=priority)
