"""Dynamic batching: the texts of waiting requests are predicted together, in one thread."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from trainingtask_trainer.serving import metrics

T = TypeVar("T")

MAX_QUEUE_TEXTS = 1024  # a second or two of a core's work
_MAX_BATCH_TEXTS = 64
_MAX_BATCH_CHARACTERS = 1 << 17  # so that long texts do not hold up others for seconds
_MAX_WAIT_SECONDS = 0.002  # for company, from a request's arrival


class QueueFullError(Exception):
    """As many texts wait as may."""


@dataclass(eq=False)
class _Request(Generic[T]):
    texts: Sequence[str]
    arrival: float
    """Time of the event loop, in seconds."""
    done: "asyncio.Future[list[T]]"
    taken: int = 0
    """Texts that are in batches already."""
    results: list[T] = field(default_factory=list)


_Parts = list[tuple[_Request[T], int]]


class Batcher(Generic[T]):
    """Predicts the texts of several requests at a time. All methods are for one event loop.

    Parameters
    ----------
    predict
        Returns a result for each text; called in a thread, with one batch at a time. It sorts them by length.
    """

    def __init__(self, predict: Callable[[Sequence[str]], Sequence[T]]) -> None:
        self._predict = predict
        self._queue: deque[_Request[T]] = deque()
        self._has_texts = asyncio.Event()
        self._has_full_batch = asyncio.Event()
        self.waiting_texts = 0

    async def predict(self, texts: Sequence[str]) -> list[T]:
        """Return the results of some texts, in their order; a caller that is cancelled leaves the queue.

        Raises
        ------
        QueueFullError
            When too many texts wait already.
        """
        if self.waiting_texts + len(texts) > MAX_QUEUE_TEXTS:
            raise QueueFullError
        loop = asyncio.get_running_loop()
        request: _Request[T] = _Request(texts, loop.time(), loop.create_future())
        self._queue.append(request)
        self._count(len(texts))
        try:
            return await request.done
        finally:
            if request in self._queue:
                self._queue.remove(request)
                self._count(request.taken - len(texts))

    async def run(self) -> None:
        """Predict what waits until cancelled."""
        with ThreadPoolExecutor(1, "predict") as thread:
            while True:
                await self._wait_for_batch()
                texts, parts = self._take_batch()
                if not texts:  # all left
                    continue
                metrics.BATCH_TEXTS.observe(len(texts))
                prediction = asyncio.get_running_loop().run_in_executor(thread, self._predict, texts)
                await asyncio.wait([prediction])
                self._deliver(parts, prediction)

    async def _wait_for_batch(self) -> None:
        while not self._queue:  # who set the event may have left
            await self._has_texts.wait()
        with suppress(TimeoutError):
            async with asyncio.timeout_at(self._queue[0].arrival + _MAX_WAIT_SECONDS):
                await self._has_full_batch.wait()

    def _take_batch(self) -> tuple[list[str], _Parts[T]]:
        """Return the texts of the next batch, first come first served, and how many of them are of which request."""
        texts: list[str] = []
        parts: _Parts[T] = []
        characters = 0
        while self._queue:
            request = self._queue[0]
            first = request.taken
            for text in request.texts[first:]:
                characters += len(text)
                if texts and (len(texts) == _MAX_BATCH_TEXTS or characters > _MAX_BATCH_CHARACTERS):
                    break
                texts.append(text)
                request.taken += 1
            parts.append((request, request.taken - first))
            if request.taken < len(request.texts):
                break
            self._queue.popleft()
        self._count(-len(texts))
        return texts, parts

    def _deliver(self, parts: _Parts[T], prediction: "asyncio.Future[Sequence[T]]") -> None:
        error = prediction.exception()
        results = deque(() if error else prediction.result())
        for request, texts in parts:
            if error is None:
                request.results += [results.popleft() for _ in range(texts)]
            if request.done.done():  # cancelled, or an earlier batch failed
                continue
            if error is not None:
                request.done.set_exception(error)
            elif len(request.results) == len(request.texts):
                request.done.set_result(request.results)

    def _count(self, texts: int) -> None:
        """Add to the texts that wait."""
        self.waiting_texts += texts
        metrics.QUEUE_TEXTS.set(self.waiting_texts)
        for event, is_set in (
            (self._has_texts, self.waiting_texts > 0),
            (self._has_full_batch, self.waiting_texts >= _MAX_BATCH_TEXTS),
        ):
            event.set() if is_set else event.clear()
