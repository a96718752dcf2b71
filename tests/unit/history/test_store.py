"""Writing rows on Postgres and on SQLite: idempotence, final rows, events and points."""

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta, timezone

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError
from sqlmodel import Session, col, select

from support.kubectl import eventually
from support.stored_runs import NOW, in_utc, load_run, make_run
from trainingtask_history.errors import HistoryError
from trainingtask_history.migrations.runner import migrate
from trainingtask_history.store import record
from trainingtask_history.tables import OPERATOR_COLUMNS, RUNS, MetricPoint, RunEvent, TrainingRun, run_id


def test_a_finished_row_accepts_its_log_once_and_nothing_else(engine: Engine) -> None:
    record(engine, make_run(status="Failed", finish_time=NOW, error_reason="OOMKilled"))
    record(engine, make_run(status="Failed", finish_time=NOW, error_reason="Other", log_tail="Killed"))
    assert (load_run(engine).error_reason, load_run(engine).log_tail) == ("OOMKilled", "Killed")
    record(engine, make_run(status="Failed", finish_time=NOW, log_tail="Something else"))
    assert load_run(engine).log_tail == "Killed"
    for change in ("log_tail = 'x'", "status = 'Running'", "finish_time = NULL", "error_reason = 'x'"):
        with pytest.raises(DBAPIError, match="final"), engine.begin() as connection:
            connection.execute(text(f"UPDATE training_run SET {change}"))


def test_the_tail_of_a_log_outlives_its_pod(engine: Engine) -> None:
    """The row is written again once the pod, and with it the log, is gone."""
    record(engine, make_run(status="Interrupted", log_tail="Killed"))
    record(engine, make_run(status="Failed", finish_time=NOW, log_tail=""))
    assert (load_run(engine).status, load_run(engine).log_tail) == ("Failed", "Killed")


def test_a_finished_row_is_final_but_for_operator_columns(engine: Engine) -> None:
    record(engine, make_run(status="Succeeded", finish_time=NOW))
    for column in RUNS.columns:
        if column.name not in OPERATOR_COLUMNS:
            with pytest.raises(DBAPIError, match="final"), engine.begin() as connection:
                connection.execute(text(f"UPDATE training_run SET {column.name} = {column.name}"))


def test_operator_columns_of_a_finished_row_are_set_once(engine: Engine) -> None:
    record(engine, make_run(status="Succeeded", finish_time=NOW))
    own = {"log_tail": "done", "namespace_uid": "uid-of-default", "labels": {"team": "nlp"}}
    record(engine, make_run(status="Failed", finish_time=NOW, **own))
    others = {"log_tail": "other", "namespace_uid": "other", "labels": {"team": "other"}}
    record(engine, make_run(status="Failed", finish_time=NOW, **others))
    row = load_run(engine)
    assert {name: getattr(row, name) for name in own} == own
    assert row.status == "Succeeded"
    for column in OPERATOR_COLUMNS:
        with pytest.raises(DBAPIError, match="final"), engine.begin() as connection:
            connection.execute(text(f"UPDATE training_run SET {column} = NULL"))


def test_events_and_points_are_written_once(engine: Engine) -> None:
    run = make_run()
    event = RunEvent(run_id=run.id, time=NOW, type="Running", reason="TrainerRunning", message="It trains.")
    points = [MetricPoint(run_id=run.id, name="training_loss", step=step, value=1 / step) for step in (1, 2)]
    record(engine, run, events=[event], points=points)
    other = MetricPoint(run_id=run.id, name="training_loss", step=2, value=99.0)
    third = MetricPoint(run_id=run.id, name="training_loss", step=3, value=0.1)
    record(engine, run, events=[event], points=[other, third])
    with Session(engine) as session:
        assert [
            (point.step, point.value) for point in session.exec(select(MetricPoint).order_by(col(MetricPoint.step)))
        ] == [
            (1, 1.0),
            (2, 0.5),
            (3, 0.1),
        ]
        assert session.exec(select(RunEvent)).one().message == "It trains."


def test_a_point_of_no_run_is_refused(engine: Engine) -> None:
    point = MetricPoint(run_id=uuid.uuid4(), name="training_loss", step=1, value=1.0)
    with pytest.raises(HistoryError, match="refused"):
        record(engine, make_run(), points=[point])


def test_a_row_is_stored_unchanged(engine: Engine) -> None:
    elsewhere = timezone(timedelta(hours=5, minutes=30))
    record(
        engine,
        make_run(
            status="Succeeded",
            create_time=NOW,
            finish_time=NOW.astimezone(elsewhere),
            total_time=61.5,
            spec={"dataset": {"name": "support_tickets"}, "labels": ["ä", "b"]},
            evaluate_result={"micro": {"f1": 0.75}},
        ),
    )

    row = load_run(engine)
    assert row.id == run_id("uid-1", 1)
    assert (in_utc(row.create_time), in_utc(row.finish_time), row.start_time) == (NOW, NOW, None)
    assert row.total_time == 61.5
    assert row.spec == {"dataset": {"name": "support_tickets"}, "labels": ["ä", "b"]}
    assert row.evaluate_result == {"micro": {"f1": 0.75}}


def test_recording_a_run_is_idempotent(engine: Engine) -> None:
    for _ in range(2):
        record(engine, make_run(start_time=NOW, spec={"device": "cpu"}))

    row = load_run(engine)
    assert (row.status, in_utc(row.start_time), row.spec) == ("Running", NOW, {"device": "cpu"})


def test_none_never_overwrites(engine: Engine) -> None:
    record(engine, make_run(start_time=NOW, spec={"device": "cpu"}, node="node-1"))
    record(engine, make_run(status="Interrupted", trainer_image="trainer:1"))

    row = load_run(engine)
    assert (row.status, in_utc(row.start_time), row.spec, row.node, row.trainer_image) == (
        "Interrupted",
        NOW,
        {"device": "cpu"},
        "node-1",
        "trainer:1",
    )


def test_none_is_null_in_json_columns_too(engine: Engine) -> None:
    record(engine, make_run())

    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM training_run WHERE spec IS NULL")).scalar_one() == 1


def test_a_finished_row_never_changes(engine: Engine) -> None:
    record(engine, make_run(status="Succeeded", finish_time=NOW, total_time=2.0))
    record(engine, make_run(status="Failed", finish_time=NOW + timedelta(hours=1), error_reason="Late", node="node-2"))

    row = load_run(engine)
    assert (row.status, in_utc(row.finish_time), row.error_reason, row.node) == ("Succeeded", NOW, None, None)
    with pytest.raises(DBAPIError, match="final"), engine.begin() as connection:
        connection.execute(text("UPDATE training_run SET status = 'Failed'"))


def test_two_writers_at_once_leave_one_row_and_one_end(engine: Engine) -> None:
    start = threading.Barrier(2)

    def write(status: str) -> None:
        start.wait()
        for _ in range(20):
            record(engine, make_run(start_time=NOW))
        record(engine, make_run(status=status, finish_time=NOW, error_reason=status))

    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(write, status) for status in ("Succeeded", "Failed")]:
            future.result(timeout=60)

    row = load_run(engine)
    assert row.status == row.error_reason
    assert in_utc(row.start_time) == NOW


def test_a_row_inserted_at_the_same_moment_is_updated(postgres: Engine) -> None:
    """Both sessions find no row before either inserts it: an index, of an expression that waits, holds them there."""
    statements = """
        ALTER TABLE training_run DROP CONSTRAINT training_run_pkey CASCADE,
            DROP CONSTRAINT training_run_task_uid_attempt_key;
        CREATE FUNCTION wait_for_test(text) RETURNS text IMMUTABLE LANGUAGE sql AS
            $$ SELECT $1 FROM pg_advisory_xact_lock_shared(1) $$;
        CREATE INDEX ON training_run (wait_for_test(task_uid));
        ALTER TABLE training_run ADD UNIQUE (task_uid, attempt), ADD PRIMARY KEY (id);
    """
    migrate(postgres)
    with postgres.begin() as connection:
        connection.execute(text(statements))
    waiting = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")

    with ThreadPoolExecutor(2) as pool:
        with postgres.connect() as connection:
            connection.execute(text("SELECT pg_advisory_lock(1)"))
            writers = [pool.submit(record, postgres, make_run(node=node)) for node in ("one", "two")]
            eventually("both sessions wait", lambda: connection.execute(waiting).scalar_one() == 2)
            connection.execute(text("SELECT pg_advisory_unlock(1)"))
        for writer in writers:
            writer.result(timeout=60)
    assert load_run(postgres).attempt == 1


def test_attempts_have_rows_of_their_own(engine: Engine) -> None:
    record(engine, make_run())
    record(engine, make_run(id=run_id("uid-1", 2), attempt=2))

    with Session(engine) as session:
        assert {row.attempt for row in session.exec(select(TrainingRun))} == {1, 2}
    with pytest.raises(HistoryError, match=r"refused: .*(unique|UNIQUE)"):
        record(engine, make_run(id=uuid.uuid4()))


def test_a_time_without_zone_is_refused(engine: Engine) -> None:
    with pytest.raises(ValueError, match="start_time has no time zone"):
        record(engine, make_run(start_time=NOW.replace(tzinfo=None)))


def test_characters_that_a_database_cannot_hold_are_replaced(engine: Engine) -> None:
    record(engine, make_run(error_message="x" * 5000, error_reason="a\x00b\udc80", spec={"delimiter": ["\x00", 1]}))

    row = load_run(engine)
    assert (row.error_message, row.error_reason, row.spec) == ("x" * 4096, "a?b?", {"delimiter": ["?", 1]})
