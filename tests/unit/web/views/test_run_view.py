"""A row of the history as a line of the list."""

import uuid
from datetime import timedelta
from typing import Any

import pytest

from support.sample_history import make_sample_history
from support.sample_runs import NOW, SAMPLE, summary
from trainingtask_web.views import run_view


def test_an_active_run_has_progress_and_a_running_duration() -> None:
    run = summary(start_time=NOW - timedelta(minutes=2), step=50, total_steps=200, phase="Training", eta="2m10s")
    view = run_view.build_run_view(run, NOW)
    assert view.is_active
    assert view.duration == "2m"
    assert view.progress == run_view.Progress(25, "Training 25%, 2m10s left")


@pytest.mark.parametrize(
    ("changes", "progress"),
    [
        ({"step": None, "total_steps": None, "eta": ""}, run_view.Progress(None, "Training")),
        ({"step": 300, "total_steps": 200, "eta": None}, run_view.Progress(100, "Training 100%")),
        ({"step": 3, "total_steps": 0, "eta": None}, run_view.Progress(None, "Training")),
        ({"phase": None}, None),
        ({"status": "Suspended"}, None),
        ({"finish_time": NOW}, None),
    ],
)
def test_progress_shows_phase_percentage_and_time_left(
    changes: dict[str, Any], progress: run_view.Progress | None
) -> None:
    assert run_view.build_run_view(summary(phase="Training").model_copy(update=changes), NOW).progress == progress


def test_a_run_that_has_not_started_shows_its_creation_time() -> None:
    view = run_view.build_run_view(
        summary(status="Pending", start_time=None, create_time=NOW - timedelta(minutes=3)), NOW
    )
    assert (view.started, view.ago, view.duration) == ("", "created 3m ago", "—")


def test_an_unknown_state_has_a_style() -> None:
    assert run_view.build_run_view(summary(status='Paused"><script>'), NOW).state == "unknown"


def test_the_sample_history_is_deterministic() -> None:
    again = make_sample_history(NOW)
    assert [run.id for run in again.runs] == [run.id for run in SAMPLE.runs]
    assert [run.score for run in again.runs] == [run.score for run in SAMPLE.runs]
    assert {run.status for run in again.runs} == set(run_view._STATES)
    assert len({uuid.UUID(str(run.id)) for run in again.runs}) == 60
