import asyncio

import pytest

from trainingtask_operator.cache.workqueue import MAX_DELAY_SECONDS, WorkQueue


async def test_a_key_added_often_is_handed_out_once() -> None:
    queue: WorkQueue[str] = WorkQueue()
    for _ in range(5):
        queue.add("a")
    queue.add("b")
    assert [await queue.get(), await queue.get()] == ["a", "b"]
    assert len(queue) == 0


async def test_a_key_at_work_is_not_handed_to_a_second_worker_but_runs_again() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("a")
    assert await queue.get() == "a"
    queue.add("a")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(queue.get(), 0.05)
    queue.done("a")
    assert await asyncio.wait_for(queue.get(), 1) == "a"
    queue.done("a")
    assert len(queue) == 0


async def test_the_back_off_grows_is_capped_and_is_forgotten() -> None:
    queue: WorkQueue[str] = WorkQueue(jitter=lambda: 1.0)
    delays = [queue.retry("a") for _ in range(30)]
    assert delays == sorted(delays)
    assert delays[1] == 2 * delays[0]
    assert delays[-1] == MAX_DELAY_SECONDS
    queue.forget("a")
    assert queue.retry("a") == delays[0]


async def test_the_jitter_spreads_keys_that_fail_together() -> None:
    least, most = (WorkQueue[str](jitter=lambda value=value: value).retry("a") for value in (0.0, 1.0))  # type: ignore[misc]
    assert least == most / 2


async def test_the_earlier_of_two_wishes_stands() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add_after("a", 60)
    queue.add_after("a", 0.01)
    queue.add_after("a", 60)
    assert await asyncio.wait_for(queue.get(), 2) == "a"


async def test_waiting_workers_are_woken() -> None:
    queue: WorkQueue[int] = WorkQueue()
    workers = [asyncio.create_task(queue.get()) for _ in range(3)]
    await asyncio.sleep(0)
    for key in range(3):
        queue.add(key)
    assert sorted(await asyncio.wait_for(asyncio.gather(*workers), 2)) == [0, 1, 2]


async def test_what_is_for_later_comes_after_the_rest_and_can_become_urgent() -> None:
    queue: WorkQueue[str] = WorkQueue()
    for key in ("old-1", "old-2"):
        queue.add(key, later=True)
    queue.add("new")
    assert len(queue) == 3
    queue.add("old-2")
    assert [await queue.get() for _ in range(3)] == ["new", "old-2", "old-1"]


async def test_what_is_for_later_waits_until_nothing_else_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainingtask_operator.cache.workqueue.QUIET_SECONDS", 0.3)
    queue: WorkQueue[str] = WorkQueue()
    queue.add("first")
    assert await queue.get() == "first"
    queue.add("first", later=True)  # at work: for later all the same
    queue.done("first")
    waiting = asyncio.create_task(queue.get())
    await asyncio.sleep(0.05)
    assert not waiting.done()
    queue.add("second")
    assert await asyncio.wait_for(waiting, 0.1) == "second"
    assert await asyncio.wait_for(queue.get(), 2) == "first"


async def test_routine_is_for_later_and_does_not_make_it_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainingtask_operator.cache.workqueue.QUIET_SECONDS", 60.0)
    queue: WorkQueue[str] = WorkQueue()
    for number in range(5):
        queue.add_after(f"routine-{number}", 0, later=True)
    await asyncio.sleep(0.01)
    queue.add("patient", later=True)
    assert [await asyncio.wait_for(queue.get(), 0.1) for _ in range(6)][-1] == "patient"


async def test_what_is_for_later_has_its_turn_while_others_come_and_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainingtask_operator.cache.workqueue.QUIET_SECONDS", 60.0)
    monkeypatch.setattr("trainingtask_operator.cache.workqueue.PATIENCE_SECONDS", 0.2)
    queue: WorkQueue[str] = WorkQueue()
    queue.add("other")
    await queue.get()
    queue.add("patient", later=True)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(queue.get(), 0.05)
    assert await asyncio.wait_for(queue.get(), 2) == "patient"


async def test_work_that_becomes_urgent_while_it_is_done_is_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainingtask_operator.cache.workqueue.QUIET_SECONDS", 60.0)
    queue: WorkQueue[str] = WorkQueue()
    queue.add("a")
    await queue.get()
    queue.add("a", later=True)
    queue.add("a")
    queue.done("a")
    assert await asyncio.wait_for(queue.get(), 0.1) == "a"


async def test_a_stopped_queue_hands_out_nothing_and_wakes_who_waits() -> None:
    queue: WorkQueue[str] = WorkQueue()
    waiting = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    queue.stop()
    assert await asyncio.wait_for(waiting, 1) is None
    queue.add("a")
    assert await queue.get() is None


async def test_the_age_is_that_of_the_first_and_work_is_timed() -> None:
    queue: WorkQueue[str] = WorkQueue()
    assert (queue.age, queue.oldest_work) == (0.0, 0.0)
    queue.add("a")
    await asyncio.sleep(0.02)
    assert queue.age >= 0.01
    await queue.get()
    await asyncio.sleep(0.02)
    assert (queue.age, queue.is_at_work("a")) == (0.0, True)
    assert queue.oldest_work >= 0.01
