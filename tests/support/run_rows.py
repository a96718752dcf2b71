"""Rows of a history for tests of reading."""

from datetime import UTC, datetime, timedelta
from typing import Any

from trainingtask_history.tables import TrainingRun, run_id

NOON = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)


def a_run(number: int, **changes: Any) -> TrainingRun:
    """Return the only run of a task; higher numbers are newer, by a minute each."""
    created = NOON + timedelta(minutes=number)
    fields: dict[str, Any] = {
        "id": run_id(f"uid-{number}", 1),
        "task_uid": f"uid-{number}",
        "namespace": "team-a",
        "namespace_uid": "uid-of-team-a",
        "name": f"task-{number}",
        "attempt": 1,
        "dataset": "go_emotions",
        "model": "bert",
        "device": "cpu",
        "status": "Succeeded",
        "create_time": created,
        "start_time": created + timedelta(seconds=5),
        "finish_time": created + timedelta(seconds=65),
        "total_time": 60.0,
        "score": 0.5,
    }
    return TrainingRun(**(fields | changes))


def of_team_b(number: int, **changes: Any) -> TrainingRun:
    """Return a run of the other team."""
    return a_run(number, **({"namespace": "team-b", "namespace_uid": "uid-of-team-b"} | changes))
