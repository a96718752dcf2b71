import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from support.kubectl import eventually
from support.postgres import Postgres
from trainingtask_history.access import ALL
from trainingtask_history.engine import open_history
from trainingtask_history.errors import HistoryUnavailable
from trainingtask_history.maintenance import OpenRun
from trainingtask_history.queries import get_events
from trainingtask_history.tables import RunEvent, TrainingRun, run_id
from trainingtask_operator.history.recorder import HistoryWriter


def row(attempt: int = 1, **fields: object) -> TrainingRun:
    uid = str(uuid.uuid4())
    known = {
        "namespace": "n",
        "namespace_uid": "uid-of-n",
        "name": "t",
        "dataset": "d",
        "model": "m",
        "device": "cpu",
        "status": "Running",
    }
    return TrainingRun(id=run_id(uid, attempt), task_uid=uid, attempt=attempt, **{**known, **fields})


def database_url(server: Postgres) -> str:
    name = server.create_database()
    return server.url(name, user=name, password=name)


def stored(url: str) -> dict[uuid.UUID, str]:
    engine = open_history(url)
    try:
        with engine.connect() as connection:
            return {found.id: found.status for found in connection.execute(text("select id, status from training_run"))}
    finally:
        engine.dispose()


@contextlib.asynccontextmanager
async def running(writer: HistoryWriter) -> AsyncIterator[None]:
    task = asyncio.create_task(writer.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def until_written(writer: HistoryWriter) -> None:
    await asyncio.to_thread(eventually, "an empty backlog", lambda: not writer.backlog, 30)


async def test_rows_are_written_and_of_two_versions_the_later_counts(postgres_server: Postgres) -> None:
    url = database_url(postgres_server)
    writer = HistoryWriter(url)
    early = row()
    late = TrainingRun(**{**early.model_dump(), "status": "Succeeded", "finish_time": datetime.now(UTC)})
    writer.submit([early])
    writer.submit([late])
    async with running(writer):
        await until_written(writer)
        assert stored(url) == {late.id: "Succeeded"}
        writer.submit([late])
        assert writer.backlog == 0, "an unchanged row costs nothing"


async def test_the_table_is_made_before_there_is_a_row(postgres_server: Postgres) -> None:
    url = database_url(postgres_server)

    def empty_table() -> bool:
        try:
            return stored(url) == {}
        except ProgrammingError:  # not there yet
            return False

    async with running(HistoryWriter(url)):
        await asyncio.to_thread(eventually, "a table", empty_table, 30)


async def test_a_database_that_is_away_delays_nobody_and_gets_every_row(postgres_server: Postgres) -> None:
    url = database_url(postgres_server)
    writer = HistoryWriter(url, retry_seconds=0.1)
    rows = [row() for _ in range(50)]
    async with running(writer):
        writer.submit(rows[:10])
        await until_written(writer)
        await asyncio.to_thread(postgres_server.stop)
        try:
            writer.submit(rows[10:])
            assert writer.backlog == 40
        finally:
            await asyncio.to_thread(postgres_server.start)
        await until_written(writer)
    assert set(stored(url)) == {one.id for one in rows}


async def test_a_row_that_the_database_refuses_does_not_hold_up_the_others(
    postgres_server: Postgres,
    caplog: pytest.LogCaptureFixture,
) -> None:
    url = database_url(postgres_server)
    writer = HistoryWriter(url, retry_seconds=0.01)
    bad, good = row(attempt=2**40), row()
    writer.submit([bad, good])
    async with running(writer):
        await asyncio.to_thread(eventually, "the good row", lambda: writer.backlog == 1, 30)
        assert set(stored(url)) == {good.id}
    assert "refused" in caplog.text


async def test_a_final_row_takes_the_log_of_its_pod_along_and_an_open_one_waits_for_it(
    postgres_server: Postgres,
) -> None:
    asked: list[tuple[str, str]] = []

    async def read_log(namespace: str, pod: str) -> str:
        asked.append((namespace, pod))
        return "Killed"

    url = database_url(postgres_server)
    writer = HistoryWriter(url, read_log=read_log)
    early = row()
    late = TrainingRun(**{**early.model_dump(), "status": "Failed", "finish_time": datetime.now(UTC)})
    async with running(writer):
        writer.submit([early], {early.id: "pod-1"})
        await until_written(writer)
        assert asked == []
        assert not writer.stored([late])
        writer.submit([late], {late.id: "pod-1"})
        await until_written(writer)
        assert (asked, writer.stored([late])) == ([("n", "pod-1")], True)
        writer.submit([late], {late.id: "pod-1"})
        await until_written(writer)
        assert asked == [("n", "pod-1")], "once"
    engine = open_history(url)
    with engine.connect() as connection:
        assert connection.execute(text("select log_tail from training_run")).scalar_one() == "Killed"
    engine.dispose()


async def test_rows_of_tasks_deleted_while_no_operator_looked_are_closed(postgres_server: Postgres) -> None:
    url = database_url(postgres_server)
    writer = HistoryWriter(url)
    gone, there = row(node="node-1"), row(node="node-1")
    known = {there.task_uid}

    async def exists(run: OpenRun) -> bool:
        return run.task_uid in known

    with pytest.raises(HistoryUnavailable):
        await writer.close_orphans(exists)
    async with running(writer):
        writer.submit([gone, there])
        await until_written(writer)
        await writer.close_orphans(exists)
    assert stored(url) == {gone.id: "Cancelled", there.id: "Running"}


async def test_a_row_that_waits_to_be_written_is_not_closed_as_an_orphan(
    postgres_server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its task ended and was deleted while the database was away: the row knows how it ended."""
    url = database_url(postgres_server)
    writer = HistoryWriter(url)
    done = row(node="node-1")

    async def gone(_: OpenRun) -> bool:
        return False

    async with running(writer):
        writer.submit([done])
        await until_written(writer)
        monkeypatch.setattr(writer, "_some", asyncio.Event())  # nobody writes for now
        writer.submit([TrainingRun(**done.model_dump() | {"status": "Succeeded", "finish_time": datetime.now(UTC)})])
        await writer.close_orphans(gone)
    assert stored(url) == {done.id: "Running"}


def raw(one: TrainingRun) -> dict[str, object]:
    return {"metadata": {"uid": one.task_uid}, "status": {"attempt": one.attempt}}


async def test_after_a_start_the_history_is_asked_what_it_has_in_one_question(postgres_server: Postgres) -> None:
    url = database_url(postgres_server)
    now = datetime.now(UTC)
    complete = row(status="Succeeded", finish_time=now)
    open_one = row()
    without_log = row(status="Failed", finish_time=now)
    with_log = row(status="Failed", finish_time=now, log_tail="Killed")
    unvouched = row(status="Succeeded", finish_time=now)  # finished by its trainer, the operator said nothing yet
    before = HistoryWriter(url)
    async with running(before):
        before.submit([unvouched])
        before.namespace_uid = {"n": "uid-of-n"}.get
        before.submit([complete, open_one, without_log, with_log])
        await until_written(before)
    after = HistoryWriter(url)
    async with running(after):
        rows = [complete, open_one, without_log, with_log, unvouched, row()]
        assert await after.recorded([raw(one) for one in rows]) == {complete.task_uid, with_log.task_uid}
        after.submit([complete, with_log])
        assert after.backlog == 0, "what is recorded is not written again"
        after.submit([without_log])
        assert after.backlog == 1


async def test_rows_beyond_the_bound_are_asked_for_again_when_there_is_room(
    postgres_server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = database_url(postgres_server)
    writer = HistoryWriter(url, retry_seconds=0.05)
    monkeypatch.setattr(writer, "BACKLOG", 4)
    rows = {one.name: one for one in (row(name=f"t{number}") for number in range(10))}
    writer.again = lambda key: writer.submit([rows[key[1]]])
    writer.submit(list(rows.values()))
    assert writer.backlog == 4
    async with running(writer):
        await until_written(writer)  # which makes the table, too
        await asyncio.to_thread(eventually, "all ten", lambda: len(stored(url)) == 10, 30)


async def test_a_stop_waits_for_the_rows_but_not_for_ever(
    postgres_server: Postgres, caplog: pytest.LogCaptureFixture
) -> None:
    writer = HistoryWriter(database_url(postgres_server))
    async with running(writer):
        writer.submit([row() for _ in range(300)])
        await writer.flush(20)
        assert writer.backlog == 0
        await writer.flush(0)
    away = HistoryWriter("postgresql://nobody:nothing@127.0.0.1:1/none")
    away.submit([row()])
    async with running(away):
        await away.flush(0.2)
    assert "1 rows are left for the next start" in caplog.text


async def test_what_happens_while_a_row_stays_the_same_is_written(postgres_server: Postgres) -> None:
    url = database_url(postgres_server)
    writer = HistoryWriter(url)
    waiting = row(status="Pending")

    def event(reason: str) -> RunEvent:
        return RunEvent(run_id=waiting.id, time=datetime.now(UTC), type="Running", reason=reason, message="")

    starting, unschedulable, pulling = event("Starting"), event("Unschedulable"), event("ImagePullFailed")
    writer.submit([waiting], events=[starting])
    writer.submit([waiting], events=[unschedulable])  # before the first is written
    async with running(writer):
        await until_written(writer)
        writer.submit([waiting], events=[pulling])
        assert writer.backlog == 1
        await until_written(writer)
        writer.submit([waiting], events=[pulling])
        assert writer.backlog == 0
    engine = open_history(url)
    told = [one.reason for one in get_events(engine, ALL, waiting.id)]
    engine.dispose()
    assert told == ["Starting", "Unschedulable", "ImagePullFailed"]


async def test_runs_are_deleted_when_they_are_old(postgres_server: Postgres) -> None:
    url = database_url(postgres_server)
    writer = HistoryWriter(url)
    now = datetime.now(UTC)
    old = row(status="Failed", create_time=now - timedelta(days=40), finish_time=now - timedelta(days=31))
    young = row(status="Failed", create_time=now - timedelta(days=40), finish_time=now - timedelta(days=29))
    async with running(writer):
        writer.submit([old, young, row(create_time=now)])
        await until_written(writer)
        pruning = asyncio.create_task(writer.prune(timedelta(days=30)))
        await asyncio.to_thread(eventually, "the old run's end", lambda: len(stored(url)) == 2, 30)
        assert old.id not in stored(url)
        pruning.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await pruning
