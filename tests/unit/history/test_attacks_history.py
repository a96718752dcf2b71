"""Attacks on the history by a trainer of one namespace, with its role's password."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlmodel import Session, col, select

from support.kubectl import eventually
from support.stored_runs import NOW
from support.tenants import NAMESPACES, PASSWORD, Tenants, make_event, make_point, make_run, record_runs, tenants
from trainingtask_history import roles, store
from trainingtask_history.errors import HistoryError, HistoryLocked, HistoryUnavailable
from trainingtask_history.maintenance import OpenRun, cancel_run, list_open_runs, prune
from trainingtask_history.migrations.runner import migrate
from trainingtask_history.store import record, record_many
from trainingtask_history.tables import MetricPoint, RunEvent, TrainingRun
from trainingtask_operator.history.backlog import Backlog
from trainingtask_operator.history.recorder import RunRecorder

__all__ = ["tenants"]


def get_runs(tenants: Tenants) -> dict[str, TrainingRun]:
    """Return all rows by the names of their tasks."""
    with Session(tenants.owner) as session:
        return {run.name: run for run in session.exec(select(TrainingRun))}


@contextlib.contextmanager
def hold_transaction(tenants: Tenants, *statements: str) -> Iterator[Connection]:
    """Execute statements as a trainer of team-a without timeouts, and keep the transaction open."""
    with tenants.a.connect() as connection:
        for setting in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"):
            connection.execute(text(f"SET {setting} = 0"))
        for statement in statements:
            connection.execute(text(statement))
        yield connection


@contextlib.asynccontextmanager
async def run_writer(tenants: Tenants) -> AsyncIterator[RunRecorder]:
    url = tenants.server.url(tenants.database, tenants.database, tenants.database)
    writer = RunRecorder(url, retry_seconds=0.1, trainers=dict.fromkeys(NAMESPACES, PASSWORD))
    task = asyncio.create_task(writer.run())
    try:
        yield writer
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def test_rows_of_another_namespace_cannot_be_read(tenants: Tenants) -> None:
    record_runs(tenants.owner, make_run("team-a"), make_run("team-b", spec={"secret": "plan"}))
    with tenants.a.connect() as connection:
        seen = connection.execute(text("SELECT namespace FROM training_run")).scalars().all()
    assert seen == ["team-a"]


def test_an_open_row_of_another_namespace_cannot_be_finished(tenants: Tenants) -> None:
    record_runs(tenants.owner, make_run("team-b", "-victim"))
    forged = make_run("team-b", "-victim", status="Succeeded", finish_time=NOW, score=0.99)
    with pytest.raises(HistoryError, match="row-level security"):
        record(tenants.a, forged)
    with tenants.a.begin() as connection:
        changed = connection.execute(text("UPDATE training_run SET status = 'Succeeded', score = 0.99"))
        assert changed.rowcount == 0
    assert get_runs(tenants)["task-victim"].status == "Running"


@pytest.mark.parametrize("victim", ["own finished", "other's open", "other's finished"])
def test_events_and_points_are_added_to_own_open_runs_alone(tenants: Tenants, victim: str) -> None:
    namespace = "team-a" if victim.startswith("own") else "team-b"
    end = {"status": "Succeeded", "finish_time": NOW} if victim.endswith("finished") else {}
    run = make_run(namespace, **end)
    record_runs(tenants.owner, run)
    for forged in (make_event(run, reason="Forged"), make_point(run, step=7)):
        table = "run_event" if isinstance(forged, RunEvent) else "metric_point"
        values = ", ".join(f":{name}" for name in type(forged).model_fields)
        with pytest.raises(DBAPIError, match="row-level security"), tenants.a.begin() as connection:
            connection.execute(text(f"INSERT INTO {table} VALUES ({values})"), forged.model_dump())
    with Session(tenants.owner) as session:
        assert session.exec(select(RunEvent.reason)).all() == ["Training"]
        assert session.exec(select(col(MetricPoint.step))).all() == [1]


def test_a_row_that_squats_on_another_runs_id_is_removed(tenants: Tenants) -> None:
    """Team-a writes rows for the attempts of a task of team-b before team-b does."""
    victim = make_run("team-b", "-victim")
    record(tenants.a, make_run("team-a", "-forged", id=victim.id, status="Failed", finish_time=NOW))
    other = make_run("team-b", "-other")
    record(tenants.a, make_run("team-a", "-twin", id=uuid.uuid4(), task_uid=other.task_uid))
    own = make_run("team-a", "-own")
    record(tenants.a, own)
    assert record_many(tenants.owner, [victim, other, own], events=[make_event(victim)]) == set()
    found = get_runs(tenants)
    assert {name: run.namespace for name, run in found.items()} == {
        "task-victim": "team-b",
        "task-other": "team-b",
        "task-own": "team-a",
    }
    assert found["task-victim"].status == "Running"


def test_a_locked_row_is_left_out_and_others_are_written_at_once(tenants: Tenants) -> None:
    held, free = make_run("team-a"), make_run("team-b")
    record_runs(tenants.owner, held, free)
    with hold_transaction(tenants, "SELECT id FROM training_run FOR UPDATE"):
        later = [make_run(namespace, status="Succeeded", finish_time=NOW) for namespace in NAMESPACES]
        assert record_many(tenants.owner, later, events=[make_event(run, reason="Done") for run in later]) == {held.id}
        cancel_run(tenants.owner, OpenRun(held.id, held.task_uid, "team-a", "task", None), NOW)
    with Session(tenants.owner) as session:
        ended = {run.namespace: run.status for run in session.exec(select(TrainingRun))}
    assert ended == {"team-a": "Running", "team-b": "Succeeded"}
    assert record_many(tenants.owner, later) == set()


def test_a_run_whose_row_is_locked_is_deleted_later(tenants: Tenants) -> None:
    old = {"create_time": NOW, "finish_time": NOW, "status": "Failed"}
    record_runs(tenants.owner, make_run("team-a", **old), make_run("team-b", **old))
    with hold_transaction(tenants, "SELECT id FROM training_run FOR UPDATE"):
        assert prune(tenants.owner, NOW + timedelta(days=1)) == 3, "the other run, with its event and its point"
    assert prune(tenants.owner, NOW + timedelta(days=1)) == 3


async def test_the_writer_continues_while_a_tenant_locks_its_rows(tenants: Tenants) -> None:
    held = [make_run("team-a", f"-{number}") for number in range(3)]
    record_runs(tenants.owner, *held)
    uncommitted = make_run("team-a", "-uncommitted")
    columns = "id, task_uid, namespace, name, attempt, dataset, model, device, status"
    insert = f"INSERT INTO training_run ({columns}) VALUES ('{uncommitted.id}', '{uncommitted.task_uid}', 'team-a', 'x', 1, 'd', 'm', 'cpu', 'Running')"
    async with run_writer(tenants) as writer:
        with hold_transaction(tenants, "SELECT id FROM training_run FOR UPDATE", insert) as connection:
            ends = [make_run("team-a", f"-{number}", status="Failed", finish_time=NOW) for number in range(3)]
            free = make_run("team-b", status="Succeeded", finish_time=NOW)
            writer.submit([*ends, uncommitted, free])
            await asyncio.to_thread(eventually, "the free row", lambda: writer.is_recorded([free]))
            # The insert of the uncommitted row blocks: its session is ended, which frees all its rows.
            await asyncio.to_thread(eventually, "the others", lambda: writer.backlog == 0)
            connection.invalidate()
    assert {run.status for run in get_runs(tenants).values()} == {"Running", "Failed", "Succeeded"}


async def test_an_advisory_lock_does_not_stop_the_operator(tenants: Tenants) -> None:
    with hold_transaction(
        tenants, "SELECT pg_advisory_lock(8387236814263644531)", "SELECT id FROM training_run FOR UPDATE"
    ):
        async with run_writer(tenants) as writer:
            run = make_run("team-b")
            writer.submit([run])
            await asyncio.to_thread(eventually, "a row after the start", lambda: writer.backlog == 0)


def test_a_long_transaction_is_ended_despite_its_session_settings(
    tenants: Tenants, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hold_transaction(tenants, "SELECT id FROM training_run FOR UPDATE") as connection:
        assert roles.end_long_transactions(tenants.owner) == 0
        monkeypatch.setattr(roles, "_MAX_TRANSACTION_SECONDS", 0)
        assert roles.end_long_transactions(tenants.owner) == 1
        with pytest.raises(DBAPIError, match="terminat"):
            connection.execute(text("SELECT 1"))
        connection.invalidate()


def test_one_namespaces_connections_leave_room_for_others(tenants: Tenants) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(10):
            stack.enter_context(tenants.a.connect())
        with pytest.raises(DBAPIError, match="too many connections for role"):
            tenants.a.connect()
        record(tenants.b, make_run("team-b"))


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("create_time", "'infinity'"),
        ("create_time", "'-infinity'"),
        ("start_time", "'294000-01-01'"),
        ("report_time", "now() + interval '1 hour'"),
        ("finish_time", "now() + interval '1 hour'"),
        ("total_time", "'NaN'"),
        ("score", "'Infinity'"),
        ("score", "1.5"),
        ("attempt", "0"),
        ("step", "-1"),
        ("name", "''"),
        ("name", "'../../secrets'"),
        ("spec", "to_jsonb(repeat('x', 3 * 1024 * 1024))"),
        ("evaluate_result", "to_jsonb(repeat('x', 3 * 1024 * 1024))"),
    ],
)
def test_a_value_out_of_bounds_is_refused(tenants: Tenants, column: str, value: str) -> None:
    record_runs(tenants.owner, make_run("team-a"))
    with pytest.raises(DBAPIError, match=r"check constraint|row-level security"), tenants.a.begin() as connection:
        connection.execute(text(f"UPDATE training_run SET {column} = {value}"))


@pytest.mark.parametrize("value", ["'NaN'", "'Infinity'", "'-Infinity'"])
def test_a_non_finite_point_is_refused(tenants: Tenants, value: str) -> None:
    run = make_run("team-a")
    record_runs(tenants.owner, run)
    with pytest.raises(DBAPIError, match="check constraint"), tenants.a.begin() as connection:
        connection.execute(text(f"INSERT INTO metric_point VALUES ('{run.id}', 'training_loss', 2, {value})"))


def test_an_event_at_an_infinite_time_is_refused(tenants: Tenants) -> None:
    run = make_run("team-a")
    record_runs(tenants.owner, run)
    with pytest.raises(DBAPIError, match="check constraint"), tenants.a.begin() as connection:
        connection.execute(text(f"INSERT INTO run_event VALUES ('{run.id}', 'infinity', 'Phase', 'Training', '')"))


def test_many_open_rows_of_a_namespace_do_not_hide_others(tenants: Tenants, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainingtask_history.maintenance._MAX_OPEN_RUNS", 10)
    early, late = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC)
    for number in range(30):
        record(tenants.a, make_run("team-a", f"-{number}", node="node-1", create_time=early))
    record(tenants.b, make_run("team-b", node="node-1", create_time=late))
    found = list_open_runs(tenants.owner)
    assert len(found) == 10
    assert "team-b" in {run.namespace for run in found}


@pytest.mark.parametrize("end", ["Succeeded", None], ids=["finished", "open"])
def test_a_squatting_row_committed_during_an_upsert_is_deleted(
    tenants: Tenants, end: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Team-a commits a row for a run of team-b while the operator's upsert waits for it: they must not be merged."""
    monkeypatch.setattr(store, "_LIMIT_LOCK_WAIT", text("SET LOCAL lock_timeout = '100s'"))
    victim = make_run(
        "team-b", "-victim", namespace_uid="uid-of-namespace-b", log_tail="secret", finish_time=NOW, status="Failed"
    )
    state = f"'{end}', now()" if end else "'Running', NULL"
    squatter = (
        "INSERT INTO training_run (id, task_uid, namespace, name, attempt, dataset, model, device, status, finish_time)"
        f" VALUES ('{victim.id}', '{victim.task_uid}', 'team-a', 'forged', 1, 'd', 'm', 'cpu', {state})"
    )
    with hold_transaction(tenants, squatter) as connection, ThreadPoolExecutor(1) as pool:
        writing = pool.submit(record_many, tenants.owner, [victim])
        waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
        eventually("the operator waits", lambda: connection.execute(waiting).scalar_one())
        connection.commit()
        with pytest.raises(HistoryLocked):
            writing.result(timeout=120)
    assert record_many(tenants.owner, [victim]) == set()
    (row,) = get_runs(tenants).values()
    assert (row.namespace, row.name, row.status, row.namespace_uid) == (
        "team-b",
        "task-victim",
        "Failed",
        "uid-of-namespace-b",
    )


def test_planner_estimates_reveal_nothing_of_other_namespaces(tenants: Tenants) -> None:
    failed = {"status": "Failed", "error_reason": "Secret", "error_message": "pw hunter2", "node": "secret-node"}
    record_many(tenants.owner, [make_run("team-b", f"-{number}", **failed) for number in range(3000)])
    tenants.execute("ANALYZE training_run")

    def estimate(column: str, value: str) -> str:
        with tenants.a.connect() as connection:
            plan = connection.execute(text(f"EXPLAIN SELECT 1 FROM training_run WHERE {column} = '{value}'"))
            return "\n".join(plan.scalars())

    for column, value in (("error_reason", "Secret"), ("error_message", "pw hunter2"), ("node", "secret-node")):
        assert estimate(column, value).replace(value, "?") == estimate(column, "absent").replace("absent", "?")


def test_rows_without_times_are_deleted_when_they_are_old(tenants: Tenants) -> None:
    soon = datetime.now(UTC) + timedelta(minutes=5)
    record(tenants.a, make_run("team-a", "-open"))
    record(tenants.a, make_run("team-a", "-finished", status="Failed", finish_time=NOW))
    record(tenants.a, make_run("team-a", "-reports", report_time=soon))
    record(tenants.owner, make_run("team-b", "-of-the-operator", namespace_uid="uid-of-namespace-b"))
    assert prune(tenants.owner, datetime.now(UTC)) == 2
    assert set(get_runs(tenants)) == {"task-reports", "task-of-the-operator"}


def test_a_migration_does_not_wait_behind_a_tenants_lock(tenants: Tenants, monkeypatch: pytest.MonkeyPatch) -> None:
    """The operator retries later, and ends the transaction that locks the table."""
    with tenants.owner.begin() as connection:
        connection.execute(text("DROP POLICY readers ON training_run"))
    monkeypatch.setattr("trainingtask_history.migrations.runner._LOCK_SECONDS", 1)
    with hold_transaction(tenants, "SELECT id FROM training_run FOR UPDATE") as connection:
        with pytest.raises(HistoryError) as refused:
            migrate(tenants.owner)
        assert not isinstance(refused.value, HistoryUnavailable)
        monkeypatch.setattr(roles, "_MAX_TRANSACTION_SECONDS", 0)
        assert roles.end_long_transactions(tenants.owner) == 1
        connection.invalidate()
        monkeypatch.setattr("trainingtask_history.migrations.runner._LOCK_SECONDS", 60)  # until the session is gone
        migrate(tenants.owner)


async def test_a_session_that_blocks_a_migration_is_ended(tenants: Tenants) -> None:
    """A transaction that blocks the owner is ended even if it is short."""
    with tenants.owner.begin() as connection:
        connection.execute(text("DROP POLICY readers ON training_run"))
    with hold_transaction(tenants, "SELECT id FROM training_run FOR UPDATE") as connection:
        async with run_writer(tenants) as writer:
            writer.submit([make_run("team-b")])
            await asyncio.to_thread(eventually, "a row after the migration", lambda: writer.backlog == 0)
        with pytest.raises(DBAPIError, match="terminat"):
            connection.execute(text("SELECT 1"))
        connection.invalidate()


async def test_rows_beyond_the_backlog_are_written_while_others_are_locked(
    tenants: Tenants, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Backlog, "MAX_ROWS", 8)
    held = [make_run("team-a", f"-{number}") for number in range(8)]
    others = {f"task-{number}": make_run("team-b", f"-{number}") for number in range(6)}
    record_runs(tenants.owner, *held)
    async with run_writer(tenants) as writer:
        writer.request_rows = lambda key: writer.submit([others[key[1]]] if key[0] == "team-b" else [])
        with hold_transaction(tenants, "SELECT id FROM training_run FOR UPDATE"):
            writer.submit([make_run("team-a", f"-{number}", status="Failed", finish_time=NOW) for number in range(8)])
            writer.submit(list(others.values()))
            written = "SELECT count(*) FROM training_run WHERE namespace = 'team-b'"

            def count() -> bool:
                with tenants.owner.connect() as connection:
                    return bool(connection.execute(text(written)).scalar_one() == 6)

            await asyncio.to_thread(eventually, "all rows of team-b", count)
