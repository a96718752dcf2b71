import asyncio

import pytest

from trainingtask_operator.cache.workqueue import MAX_DELAY_SECONDS, Priority, WorkQueue

LATE = 60.0  # seconds, for a busy machine
NEVER = 3600.0


async def test_a_key_added_repeatedly_is_handed_out_once() -> None:
    queue: WorkQueue[str] = WorkQueue()
    for _ in range(5):
        queue.add("a")
    queue.add("b")
    assert [await queue.get(), await queue.get()] == ["a", "b"]
    assert len(queue) == 0


async def test_a_key_in_processing_runs_again_afterwards() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("a")
    assert await queue.get() == "a"
    queue.add("a")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(queue.get(), 0.05)
    queue.done("a")
    assert await asyncio.wait_for(queue.get(), LATE) == "a"
    queue.done("a")
    assert len(queue) == 0


async def test_the_backoff_grows_to_a_maximum_and_is_reset() -> None:
    queue: WorkQueue[str] = WorkQueue(jitter=lambda: 1.0)
    delays = [queue.add_rate_limited("a") for _ in range(30)]
    assert delays == sorted(delays)
    assert delays[1] == 2 * delays[0]
    assert delays[-1] == MAX_DELAY_SECONDS
    queue.forget("a")
    assert queue.add_rate_limited("a") == delays[0]


async def test_the_jitter_spreads_keys_that_fail_together() -> None:
    least, most = (WorkQueue[str](jitter=lambda value=value: value).add_rate_limited("a") for value in (0.0, 1.0))  # type: ignore[misc]
    assert least == most / 2


async def test_the_earlier_of_two_delays_counts() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add_after("a", NEVER)
    queue.add_after("a", 0.01)
    queue.add_after("a", NEVER)
    assert await asyncio.wait_for(queue.get(), LATE) == "a"


async def test_waiting_workers_are_woken() -> None:
    queue: WorkQueue[int] = WorkQueue()
    workers = [asyncio.create_task(queue.get()) for _ in range(3)]
    await asyncio.sleep(0)
    for key in range(3):
        queue.add(key)
    assert sorted(await asyncio.wait_for(asyncio.gather(*workers), LATE)) == [0, 1, 2]


async def test_low_priority_comes_last_and_can_be_raised() -> None:
    queue: WorkQueue[str] = WorkQueue()
    for key in ("old-1", "old-2"):
        queue.add(key, priority=Priority.LOW)
    queue.add("new")
    assert len(queue) == 3
    queue.add("old-2")
    assert [await queue.get() for _ in range(3)] == ["new", "old-2", "old-1"]


async def test_low_priority_waits_until_the_queue_is_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainingtask_operator.cache.workqueue.LOW_PRIORITY_QUIET_SECONDS", NEVER)
    monkeypatch.setattr("trainingtask_operator.cache.workqueue.LOW_PRIORITY_MAX_WAIT_SECONDS", NEVER)
    queue: WorkQueue[str] = WorkQueue()
    queue.add("first")
    assert await queue.get() == "first"
    queue.add("first", priority=Priority.LOW)  # in processing: its priority stays low
    queue.done("first")
    waiting = asyncio.create_task(queue.get())
    await asyncio.sleep(0.05)
    assert not waiting.done()
    queue.add("second")
    assert await asyncio.wait_for(waiting, LATE) == "second"
    monkeypatch.setattr("trainingtask_operator.cache.workqueue.LOW_PRIORITY_QUIET_SECONDS", 0.0)
    assert await asyncio.wait_for(queue.get(), LATE) == "first"


async def test_low_priority_does_not_delay_low_priority(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainingtask_operator.cache.workqueue.LOW_PRIORITY_QUIET_SECONDS", NEVER)
    queue: WorkQueue[str] = WorkQueue()
    for number in range(5):
        queue.add_after(f"low-{number}", 0, priority=Priority.LOW)
    await asyncio.sleep(0.01)
    queue.add("low", priority=Priority.LOW)
    assert [await asyncio.wait_for(queue.get(), LATE) for _ in range(6)][-1] == "low"


async def test_low_priority_waits_for_a_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainingtask_operator.cache.workqueue.LOW_PRIORITY_QUIET_SECONDS", NEVER)
    monkeypatch.setattr("trainingtask_operator.cache.workqueue.LOW_PRIORITY_MAX_WAIT_SECONDS", NEVER)
    queue: WorkQueue[str] = WorkQueue()
    queue.add("other")
    await queue.get()
    queue.add("low", priority=Priority.LOW)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(queue.get(), 0.05)
    monkeypatch.setattr("trainingtask_operator.cache.workqueue.LOW_PRIORITY_MAX_WAIT_SECONDS", 0.0)
    assert await asyncio.wait_for(queue.get(), LATE) == "low"


async def test_a_key_raised_while_in_processing_is_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainingtask_operator.cache.workqueue.LOW_PRIORITY_QUIET_SECONDS", NEVER)
    queue: WorkQueue[str] = WorkQueue()
    queue.add("a")
    await queue.get()
    queue.add("a", priority=Priority.LOW)
    queue.add("a")
    queue.done("a")
    assert await asyncio.wait_for(queue.get(), LATE) == "a"


async def test_a_stopped_queue_hands_out_nothing_and_wakes_the_workers() -> None:
    queue: WorkQueue[str] = WorkQueue()
    waiting = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    queue.stop()
    assert await asyncio.wait_for(waiting, LATE) is None
    queue.add("a")
    assert await queue.get() is None


async def test_waiting_and_processing_are_timed() -> None:
    queue: WorkQueue[str] = WorkQueue()
    assert (queue.longest_wait_seconds, queue.longest_processing_seconds) == (0.0, 0.0)
    queue.add("a")
    await asyncio.sleep(0.02)
    assert queue.longest_wait_seconds >= 0.01
    await queue.get()
    await asyncio.sleep(0.02)
    assert (queue.longest_wait_seconds, queue.is_processing("a")) == (0.0, True)
    assert queue.longest_processing_seconds >= 0.01
