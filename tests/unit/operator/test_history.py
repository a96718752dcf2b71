import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from kubectl import eventually
from postgres import Postgres
from trainingtask_api.run import TrainingRun, run_id
from trainingtask_api.store import open_history
from trainingtask_operator.history import HistoryWriter


def row(attempt: int = 1, **fields: object) -> TrainingRun:
    uid = str(uuid.uuid4())
    known = {"namespace": "n", "name": "t", "dataset": "d", "model": "m", "device": "cpu", "status": "Running"}
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
