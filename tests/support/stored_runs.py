"""Rows of the history for tests of writing, and reading them back."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Engine
from sqlmodel import Session, select

from trainingtask_history.tables import TrainingRun, run_id

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def make_run(**changes: Any) -> TrainingRun:
    fields: dict[str, Any] = {
        "id": run_id("uid-1", 1),
        "task_uid": "uid-1",
        "namespace": "default",
        "name": "quickstart",
        "attempt": 1,
        "dataset": "support_tickets",
        "model": "logistic_regression",
        "device": "cpu",
        "status": "Running",
    }
    return TrainingRun(**(fields | changes))


def load_run(engine: Engine) -> TrainingRun:
    with Session(engine) as session:
        return session.exec(select(TrainingRun)).one()


def in_utc(time: datetime | None) -> datetime | None:
    """Return a stored time with its zone, which SQLite drops: all times are stored in UTC."""
    return time and (time if time.tzinfo else time.replace(tzinfo=UTC))
