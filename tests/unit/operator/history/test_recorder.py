import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from support import specs
from support.in_memory_api_server import NOW, FakeCluster, job_condition, pod, terminated
from support.kubectl import eventually
from support.postgres import Postgres
from support.reconcile import KEY, add_task, get_job, run_pod
from support.results import RESULTS
from trainingtask_api import TrainingTask, names
from trainingtask_history.access import ALL
from trainingtask_history.engine import open_history
from trainingtask_history.errors import HistoryUnavailable
from trainingtask_history.maintenance import OpenRun
from trainingtask_history.queries import get_events
from trainingtask_history.tables import RunEvent, TrainingRun, run_id
from trainingtask_operator import metrics
from trainingtask_operator.controller.reconciler import Reconciler
from trainingtask_operator.history.backlog import MAX_LOG_TRIES, Backlog
from trainingtask_operator.history.recorder import RunRecorder
from trainingtask_operator.history.retention import delete_expired_runs
from trainingtask_operator.settings import Settings


def make_row(attempt: int = 1, **fields: object) -> TrainingRun:
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


def read_statuses(url: str) -> dict[uuid.UUID, str]:
    engine = open_history(url)
    try:
        with engine.connect() as connection:
            return {found.id: found.status for found in connection.execute(text("select id, status from training_run"))}
    finally:
        engine.dispose()


@contextlib.asynccontextmanager
async def running(recorder: RunRecorder) -> AsyncIterator[None]:
    task = asyncio.create_task(recorder.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def wait_until_written(recorder: RunRecorder) -> None:
    await asyncio.to_thread(eventually, "an empty backlog", lambda: not recorder.backlog)


async def test_rows_are_written_and_of_two_versions_the_later_counts(postgres_server: Postgres) -> None:
    url = database_url(postgres_server)
    recorder = RunRecorder(url)
    early = make_row()
    late = TrainingRun(**{**early.model_dump(), "status": "Succeeded", "finish_time": datetime.now(UTC)})
    recorder.submit([early])
    recorder.submit([late])
    async with running(recorder):
        await wait_until_written(recorder)
        assert read_statuses(url) == {late.id: "Succeeded"}
        recorder.submit([late])
        assert recorder.backlog == 0, "an unchanged row costs nothing"


async def test_a_later_open_version_does_not_replace_a_final_one(postgres_server: Postgres) -> None:
    """The task is deleted while a reconcile waits for the API server."""
    url = database_url(postgres_server)
    recorder = RunRecorder(url)
    cancelled = make_row(status="Cancelled", finish_time=datetime.now(UTC))
    interrupted = TrainingRun(**{**cancelled.model_dump(), "status": "Interrupted", "finish_time": None})
    recorder.submit([cancelled])
    recorder.submit([interrupted])
    async with running(recorder):
        await wait_until_written(recorder)
    assert read_statuses(url) == {cancelled.id: "Cancelled"}


async def test_the_table_is_made_before_there_is_a_row(postgres_server: Postgres) -> None:
    url = database_url(postgres_server)

    def empty_table() -> bool:
        try:
            return read_statuses(url) == {}
        except ProgrammingError:  # not there yet
            return False

    async with running(RunRecorder(url)):
        await asyncio.to_thread(eventually, "a table", empty_table)


async def test_an_unreachable_database_gets_every_row_afterwards(postgres_server: Postgres) -> None:
    url = database_url(postgres_server)
    recorder = RunRecorder(url, retry_seconds=0.1)
    rows = [make_row() for _ in range(50)]
    async with running(recorder):
        recorder.submit(rows[:10])
        await wait_until_written(recorder)
        await asyncio.to_thread(postgres_server.stop)
        try:
            recorder.submit(rows[10:])
            assert recorder.backlog == 40
        finally:
            await asyncio.to_thread(postgres_server.start)
        await wait_until_written(recorder)
    assert set(read_statuses(url)) == {one.id for one in rows}


async def test_a_row_that_the_database_refuses_delays_no_other(
    postgres_server: Postgres,
    caplog: pytest.LogCaptureFixture,
) -> None:
    url = database_url(postgres_server)
    recorder = RunRecorder(url, retry_seconds=3600)
    beside, after = make_row(), make_row()
    recorder.submit([make_row(attempt=2**40), beside, make_row(score=5.0)])
    async with running(recorder):
        await asyncio.to_thread(eventually, "the row beside them", lambda: "refused" in caplog.text)
        recorder.submit([after])
        await asyncio.to_thread(eventually, "a row after them", lambda: recorder.backlog == 2)
        assert set(read_statuses(url)) == {beside.id, after.id}


async def test_a_refused_row_is_dropped_once_its_task_is_deleted(
    postgres_server: Postgres, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = RunRecorder(database_url(postgres_server), retry_seconds=0.001)
    finished = make_row(name="finished", status="Failed", finish_time=datetime.now(UTC), score=5.0)
    cancelled = make_row(name="cancelled", status="Cancelled", finish_time=datetime.now(UTC), score=5.0)
    recorder.submit([finished, cancelled])
    dropped = metrics.INVALID_RECORDS.labels("row")._value.get
    before = dropped()
    async with running(recorder):
        await asyncio.to_thread(eventually, "one row less", lambda: recorder.backlog == 1)
        assert "n/cancelled cannot be read and is skipped" in caplog.text
        task = specs.task("finished", specs.CLASSICAL)
        task["metadata"]["uid"] = finished.task_uid
        recorder.forget(TrainingTask.model_validate(task))
        await wait_until_written(recorder)
    assert "n/finished cannot be read and is skipped" in caplog.text
    assert dropped() == before + 2


async def test_a_task_with_a_forged_score_is_recorded_and_deleted(
    postgres_server: Postgres, cluster: FakeCluster, settings: Settings
) -> None:
    url = database_url(postgres_server)
    recorder = RunRecorder(url)
    reconciler = Reconciler(cluster, cluster, settings, recorder, clock=lambda: NOW)
    task = add_task(cluster, runPolicy={"ttlSecondsAfterFinished": 0, "deleteTask": True})
    await run_pod(cluster, reconciler, task)
    results = RESULTS.to_json()
    results["evaluation"]["micro"]["f1"] = 5.0
    report = {"attempt": 1, "phase": "Done", "finishTime": "2026-01-01T00:01:00Z", "results": results}
    uid = task["metadata"]["uid"]
    await cluster.apply_status(*KEY, uid, {"training": report}, manager=names.TRAINER_FIELD_MANAGER)
    cluster.pods[uid] = [pod(task, phase="Succeeded", state=terminated(0))]
    get_job(cluster, task)["status"] = {"conditions": [job_condition("Complete")]}
    await reconciler.reconcile(*KEY)
    async with running(recorder):
        await wait_until_written(recorder)
    await reconciler.reconcile(*KEY)
    assert KEY not in cluster.tasks
    engine = open_history(url)
    with engine.connect() as connection:
        row = connection.execute(text("select status, score, training_result from training_run")).one()
    engine.dispose()
    assert (row.status, row.score, row.training_result["labels"]) == ("Succeeded", None, RESULTS.labels)


async def test_the_row_of_an_ended_attempt_is_written_with_the_log_of_its_pod(
    postgres_server: Postgres,
) -> None:
    calls: list[tuple[str, str]] = []

    async def read_log(namespace: str, pod: str) -> str:
        calls.append((namespace, pod))
        return "Killed"

    url = database_url(postgres_server)
    recorder = RunRecorder(url, read_log=read_log)
    early = make_row()
    interrupted = TrainingRun(**{**early.model_dump(), "status": "Interrupted"})
    late = TrainingRun(**{**early.model_dump(), "status": "Failed", "finish_time": datetime.now(UTC)})
    async with running(recorder):
        recorder.submit([early], {early.id: "pod-1"})
        await wait_until_written(recorder)
        assert calls == []
        recorder.submit([interrupted], {early.id: "pod-1"})
        await wait_until_written(recorder)
        assert calls == [("n", "pod-1")]
        assert not recorder.is_recorded([late])
        for _ in range(2):
            recorder.submit([late])  # the pod of a group is deleted by then
            await wait_until_written(recorder)
        assert (len(calls), recorder.is_recorded([late])) == (1, True)
    engine = open_history(url)
    with engine.connect() as connection:
        assert connection.execute(text("select log_tail from training_run")).scalar_one() == "Killed"
    engine.dispose()


@pytest.mark.parametrize(
    ("answers", "stored"),
    [
        pytest.param([""], "", id="there is none"),
        pytest.param([None, None, "Killed"], "Killed", id="it cannot be read twice"),
        pytest.param([None] * MAX_LOG_TRIES, None, id="it cannot be read at all"),
    ],
)
async def test_a_row_is_final_once_its_log_was_read_or_tried_often_enough(
    postgres_server: Postgres, answers: list[str | None], stored: str | None
) -> None:
    """Its task and pod may be deleted then."""
    url = database_url(postgres_server)
    failed = make_row(status="Failed", finish_time=datetime.now(UTC))
    left = iter(answers)
    seen: list[tuple[bool, bool]] = []

    async def read_log(namespace: str, pod: str) -> str | None:
        seen.append((failed.id in await asyncio.to_thread(read_statuses, url), recorder.is_recorded([failed])))
        return next(left)

    recorder = RunRecorder(url, retry_seconds=0.001, read_log=read_log)
    recorder.submit([failed], {failed.id: "pod-1"})
    async with running(recorder):
        await wait_until_written(recorder)
    assert recorder.is_recorded([failed])
    assert seen == [(False, False), *[(True, False)] * (len(answers) - 1)], "written at once, but not final"
    engine = open_history(url)
    with engine.connect() as connection:
        assert connection.execute(text("select log_tail from training_run")).scalar_one() == stored
    engine.dispose()


async def test_rows_of_tasks_deleted_while_no_operator_ran_are_closed(postgres_server: Postgres) -> None:
    url = database_url(postgres_server)
    recorder = RunRecorder(url)
    gone, there = make_row(node="node-1"), make_row(node="node-1")
    known = {there.task_uid}

    async def exists(run: OpenRun) -> bool:
        return run.task_uid in known

    with pytest.raises(HistoryUnavailable):
        await recorder.close_orphans(exists)
    async with running(recorder):
        recorder.submit([gone, there])
        await wait_until_written(recorder)
        await recorder.close_orphans(exists)
    assert read_statuses(url) == {gone.id: "Cancelled", there.id: "Running"}


async def test_a_row_in_the_backlog_is_not_closed_as_an_orphan(
    postgres_server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its task finished and was deleted while the database was unreachable: the row has the outcome."""
    url = database_url(postgres_server)
    recorder = RunRecorder(url)
    done = make_row(node="node-1")

    async def gone(_: OpenRun) -> bool:
        return False

    async with running(recorder):
        recorder.submit([done])
        await wait_until_written(recorder)
        monkeypatch.setattr(recorder._backlog, "_added", asyncio.Event())  # so that no row is written
        recorder.submit([TrainingRun(**done.model_dump() | {"status": "Succeeded", "finish_time": datetime.now(UTC)})])
        await recorder.close_orphans(gone)
    assert read_statuses(url) == {done.id: "Running"}


def as_task(row: TrainingRun) -> dict[str, object]:
    return {"metadata": {"uid": row.task_uid}, "status": {"attempt": row.attempt}}


async def test_the_recorded_tasks_are_found_with_one_query(postgres_server: Postgres) -> None:
    url = database_url(postgres_server)
    now = datetime.now(UTC)
    complete = make_row(status="Succeeded", finish_time=now)
    open_one = make_row()
    without_log = make_row(status="Failed", finish_time=now)
    with_log = make_row(status="Failed", finish_time=now, log_tail="Killed")
    unvouched = make_row(status="Succeeded", finish_time=now)  # finished by its trainer, not yet by the operator
    before = RunRecorder(url)
    async with running(before):
        before.submit([unvouched])
        before.get_namespace_uid = {"n": "uid-of-n"}.get
        before.submit([complete, open_one, without_log, with_log])
        await wait_until_written(before)
    after = RunRecorder(url)
    async with running(after):
        rows = [complete, open_one, without_log, with_log, unvouched, make_row()]
        assert await after.find_recorded([as_task(one) for one in rows]) == {complete.task_uid, with_log.task_uid}
        after.submit([complete, with_log])
        assert after.backlog == 0, "what is recorded is not written again"
        after.submit([without_log])
        assert after.backlog == 1


async def test_dropped_rows_are_requested_again_once_there_is_room(
    postgres_server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = database_url(postgres_server)
    recorder = RunRecorder(url, retry_seconds=0.05)
    monkeypatch.setattr(Backlog, "MAX_ROWS", 4)
    rows = {one.name: one for one in (make_row(name=f"t{number}") for number in range(10))}
    recorder.request_rows = lambda key: recorder.submit([rows[key[1]]])
    recorder.submit(list(rows.values()))
    assert recorder.backlog == 4
    async with running(recorder):
        await wait_until_written(recorder)  # which makes the table, too
        await asyncio.to_thread(eventually, "all ten", lambda: len(read_statuses(url)) == 10)


async def test_a_stop_waits_for_the_rows_but_not_for_ever(
    postgres_server: Postgres, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = RunRecorder(database_url(postgres_server))
    async with running(recorder):
        recorder.submit([make_row() for _ in range(300)])
        await recorder.flush(120)
        assert recorder.backlog == 0
        await recorder.flush(0)
    unreachable = RunRecorder("postgresql://nobody:nothing@127.0.0.1:1/none")
    unreachable.submit([make_row()])
    async with running(unreachable):
        await unreachable.flush(0.2)
    assert "1 rows are left for the next start" in caplog.text


async def test_events_of_an_unchanged_row_are_written(postgres_server: Postgres) -> None:
    url = database_url(postgres_server)
    recorder = RunRecorder(url)
    waiting = make_row(status="Pending")

    def event(reason: str) -> RunEvent:
        return RunEvent(run_id=waiting.id, time=datetime.now(UTC), type="Running", reason=reason, message="")

    starting, unschedulable, pulling = event("Starting"), event("Unschedulable"), event("ImagePullFailed")
    recorder.submit([waiting], events=[starting])
    recorder.submit([waiting], events=[unschedulable])  # before the first is written
    async with running(recorder):
        await wait_until_written(recorder)
        recorder.submit([waiting], events=[pulling])
        assert recorder.backlog == 1
        await wait_until_written(recorder)
        recorder.submit([waiting], events=[pulling])
        assert recorder.backlog == 0
    engine = open_history(url)
    reasons = [one.reason for one in get_events(engine, ALL, waiting.id)]
    engine.dispose()
    assert reasons == ["Starting", "Unschedulable", "ImagePullFailed"]


async def test_runs_are_deleted_when_they_are_old(postgres_server: Postgres) -> None:
    url = database_url(postgres_server)
    recorder = RunRecorder(url)
    now = datetime.now(UTC)
    old = make_row(status="Failed", create_time=now - timedelta(days=40), finish_time=now - timedelta(days=31))
    young = make_row(status="Failed", create_time=now - timedelta(days=40), finish_time=now - timedelta(days=29))
    async with running(recorder):
        recorder.submit([old, young, make_row(create_time=now)])
        await wait_until_written(recorder)
        pruning = asyncio.create_task(delete_expired_runs(recorder, timedelta(days=30)))
        await asyncio.to_thread(eventually, "the old run's end", lambda: len(read_statuses(url)) == 2)
        assert old.id not in read_statuses(url)
        pruning.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await pruning
