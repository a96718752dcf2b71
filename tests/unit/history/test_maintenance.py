"""What the owner does to rows, on Postgres and on SQLite: cancelling orphaned runs, deleting old ones."""

from datetime import timedelta

import pytest
from sqlalchemy import Engine
from sqlmodel import Session, select

from support.stored_runs import NOW, load_run, make_run
from trainingtask_history import maintenance
from trainingtask_history.maintenance import cancel_run, list_open_runs, prune
from trainingtask_history.store import record, record_many
from trainingtask_history.tables import MetricPoint, RunEvent, TrainingRun, run_id


def test_old_runs_are_deleted_in_batches_with_events_and_points(engine: Engine) -> None:
    def ended(days: int) -> TrainingRun:
        end = NOW - timedelta(days=days)
        key = run_id(f"uid-{days}", 1)
        return make_run(id=key, task_uid=f"uid-{days}", status="Failed", create_time=end, finish_time=end)

    runs = [ended(days) for days in (1, 5, 31, 32, 33)]
    running = make_run(create_time=NOW - timedelta(days=40))
    events = [RunEvent(run_id=run.id, time=NOW, type="Failed", reason="OOMKilled") for run in runs]
    points = [MetricPoint(run_id=run.id, name="training_loss", step=1, value=1.0) for run in runs]
    record_many(engine, [*runs, running], events=events, points=points)

    month = NOW - timedelta(days=30)
    # Each with its event and its point.
    assert [prune(engine, month, limit=2) for _ in range(3)] == [6, 3, 0]
    with Session(engine) as session:
        left = set(session.exec(select(TrainingRun.id)))
        assert left == {runs[0].id, runs[1].id, running.id}
        assert set(session.exec(select(RunEvent.run_id))) == set(session.exec(select(MetricPoint.run_id)))
        assert set(session.exec(select(RunEvent.run_id))) == {runs[0].id, runs[1].id}


def test_a_run_with_more_points_than_a_statement_can_delete_keeps_no_other(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "_MAX_DELETED_CHILDREN", 3)
    ends = {"status": "Failed", "create_time": NOW, "finish_time": NOW}
    large, small = (make_run(id=run_id(uid, 1), task_uid=uid, **ends) for uid in ("large", "small"))
    points = [MetricPoint(run_id=large.id, name="training_loss", step=step, value=1.0) for step in range(7)]
    record_many(engine, [large, small], points=points)

    day = NOW + timedelta(days=1)
    assert [prune(engine, day) for _ in range(4)] == [3, 3, 3, 0]  # at last the last point and both runs
    with Session(engine) as session:
        assert not session.exec(select(TrainingRun.id)).all()
        assert not session.exec(select(MetricPoint.run_id)).all()


def test_open_rows_of_deleted_tasks_are_listed_and_cancelled(engine: Engine) -> None:
    start = NOW - timedelta(minutes=5)
    record(engine, make_run(node="node-1", start_time=start, create_time=start))
    record(engine, make_run(id=run_id("laptop", 1), task_uid="laptop"))  # runs on no node
    record(engine, make_run(id=run_id("done", 1), task_uid="done", node="node-1", status="Succeeded", finish_time=NOW))
    (found,) = list_open_runs(engine)
    assert (found.task_uid, found.namespace, found.name) == ("uid-1", "default", "quickstart")

    cancel_run(engine, found, NOW)
    assert list_open_runs(engine) == []
    with Session(engine) as session:
        row = session.get_one(TrainingRun, run_id("uid-1", 1))
        assert (row.status, row.error_reason, row.total_time) == ("Cancelled", "Cancelled", 300.0)
        laptop = session.get_one(TrainingRun, run_id("laptop", 1))
        assert laptop.finish_time is None


def test_a_row_that_became_final_meanwhile_is_not_cancelled(engine: Engine) -> None:
    record(engine, make_run(node="node-1"))
    (found,) = list_open_runs(engine)
    record(engine, make_run(status="Succeeded", finish_time=NOW))
    cancel_run(engine, found, NOW)
    assert load_run(engine).status == "Succeeded"
