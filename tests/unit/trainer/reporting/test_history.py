"""The run's row, curve and phases, as the trainer writes them."""

import math
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine
from sqlmodel import Session, select

from support.kubectl import eventually
from support.ports import free_port
from support.results import RESULTS
from support.silent_proxy import use_silent_proxy
from support.specs import CLASSICAL
from trainingtask_api import names
from trainingtask_api.status import Failure, Phase, TrainingReport
from trainingtask_api.task import TrainingTask
from trainingtask_history.access import ALL
from trainingtask_history.engine import open_history
from trainingtask_history.errors import HistoryError
from trainingtask_history.queries import get_events, get_metrics, get_run
from trainingtask_history.tables import TrainingRun, run_id
from trainingtask_trainer.errors import Interrupted, diagnose
from trainingtask_trainer.reporting import history
from trainingtask_trainer.reporting.history import HistorySink, RunOrigin, create_history_sink
from trainingtask_trainer.reporting.progress import CurvePoint

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
FAILURE = Failure(reason="InvalidData", message="Loading failed: no rows", phase=Phase.LOADING)


def report(phase: Phase, **fields: Any) -> TrainingReport:
    return TrainingReport(attempt=1, phase=phase, start_time=NOW, **fields)


def points(engine: Engine) -> set[tuple[str, int, float]]:
    try:
        curves = get_metrics(engine, ALL, [run_id("uid-1", 1)]).values()
    except HistoryError:  # no table yet
        return set()
    return {(name, *point) for names in curves for name, curve in names.items() for point in curve}


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/history.db"


@pytest.fixture
def finish(url: str, make_task: Callable[..., TrainingTask]) -> Callable[[TrainingReport], TrainingRun]:
    def finish(last: TrainingReport) -> TrainingRun:
        sink = HistorySink(url, make_task(CLASSICAL), RunOrigin("uid-1", "image:1", "node-1"))
        sink.send(report(Phase.STARTING))
        sink.finish(last, None)
        sink.wait()
        engine = open_history(url)
        with Session(engine) as session:
            found = session.exec(select(TrainingRun)).one()
        engine.dispose()
        return found

    return finish


def test_row_of_a_success(finish: Callable[[TrainingReport], TrainingRun]) -> None:
    page = "https://mlflow.example.com/#/experiments/1/runs/a"
    row = finish(report(Phase.DONE, results=RESULTS, finish_time=NOW + timedelta(seconds=9), tracking_url=page))
    assert (row.status, row.total_time, row.name, row.task_uid) == ("Succeeded", 9, "a-task", "uid-1")
    assert (row.trainer_image, row.node, row.tracking_url) == ("image:1", "node-1", page)
    assert row.training_args == RESULTS.arguments
    assert row.evaluate_result is not None
    assert row.evaluate_result["micro"]["f1"] == 0.5454
    assert row.training_result is not None
    assert row.training_result["global_step"] == 8
    assert row.training_result.keys().isdisjoint({"arguments", "evaluation"})


def test_row_is_written_although_the_database_was_away_at_the_start(
    url: str, tmp_path: Path, make_task: Callable[..., TrainingTask]
) -> None:
    (tmp_path / "history.db").mkdir()  # a folder is no database
    sink = HistorySink(url, make_task(CLASSICAL), RunOrigin("uid-1", None, None))
    sink.send(report(Phase.STARTING))
    sink.send(report(Phase.TRAINING))
    time.sleep(0.2)
    (tmp_path / "history.db").rmdir()
    sink.finish(report(Phase.DONE, results=RESULTS, finish_time=NOW), None)
    sink.wait()
    engine = open_history(url)
    with Session(engine) as session:
        assert session.exec(select(TrainingRun)).one().status == "Succeeded"
    engine.dispose()


def test_a_database_that_was_away_gets_one_more_try_at_the_end(
    make_task: Callable[..., TrainingTask], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "_FINAL_TIMEOUT", 3600.0)
    monkeypatch.setattr(history, "_FINAL_TIMEOUT_IN_OUTAGE", 0.1)
    url = f"postgresql://me:secret@127.0.0.1:{free_port()}/runs"
    sink = HistorySink(url, make_task(CLASSICAL), RunOrigin("uid-1", None, None))
    sink.send(report(Phase.TRAINING))
    while sink.error is None:
        time.sleep(0.01)
    sink.finish(report(Phase.DONE), None)
    sink.wait()
    assert not sink.is_delivered


def test_row_of_a_failure_is_final(finish: Callable[[TrainingReport], TrainingRun]) -> None:
    row = finish(report(Phase.FAILED, failure=FAILURE, finish_time=NOW))
    assert (row.status, row.error_reason, row.error_message) == ("Failed", "InvalidData", FAILURE.message)
    assert row.finish_time is not None


def test_row_of_an_interruption_is_not(finish: Callable[[TrainingReport], TrainingRun]) -> None:
    _, failure = diagnose(Interrupted("SIGTERM"), Phase.TRAINING)
    row = finish(report(Phase.FAILED, failure=failure, finish_time=NOW))
    assert (row.status, row.finish_time) == ("Interrupted", None)
    assert row.error_message == "Training was interrupted by SIGTERM"


def test_curve_and_phases_are_written_as_they_grow(
    url: str, make_task: Callable[..., TrainingTask], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "MIN_HISTORY_INTERVAL", 0.0)
    curve = [CurvePoint(1, training_loss=0.5, learning_rate=1e-3)]
    sink = HistorySink(url, make_task(CLASSICAL), RunOrigin("uid-1", None, None), lambda: curve)
    sink.send(report(Phase.TRAINING, step=1, total_steps=4, eta="3s", report_time=NOW))
    engine = open_history(url)
    key = run_id("uid-1", 1)
    eventually("the first point", lambda: Path(engine.url.database or "").exists() and points(engine))

    curve += [CurvePoint(2, validation_loss=math.inf), CurvePoint(4, training_loss=0.25, mean_average_precision=0.9)]
    end = NOW + timedelta(seconds=9)
    sink.finish(report(Phase.DONE, results=RESULTS, step=4, total_steps=4, finish_time=end, report_time=end), None)
    sink.wait()
    assert points(engine) == {
        ("training_loss", 1, 0.5),
        ("learning_rate", 1, 1e-3),
        ("training_loss", 4, 0.25),
        ("mean_average_precision", 4, 0.9),
    }
    assert [(event.type, event.reason) for event in get_events(engine, ALL, key)] == [
        ("Phase", "Training"),
        ("Phase", "Done"),
    ]
    run = get_run(engine, ALL, key)
    engine.dispose()
    assert run is not None
    assert (run.phase, run.step, run.total_steps, run.eta, run.score) == ("Done", 4, 4, None, 0.5454)


def test_the_database_is_asked_without_a_proxy(
    engine: Engine, make_task: Callable[..., TrainingTask], monkeypatch: pytest.MonkeyPatch
) -> None:
    with use_silent_proxy(monkeypatch):
        url = engine.url.render_as_string(hide_password=False)
        sink = HistorySink(url, make_task(CLASSICAL), RunOrigin("uid-1", "image:1", "node-1"))
        sink.finish(report(Phase.DONE, results=RESULTS), 120)
        sink.wait()
    assert get_run(engine, ALL, run_id("uid-1", 1)) is not None


@pytest.mark.parametrize("url", [None, "mysql://root:hunter2@host/db"])
def test_in_a_pod_without_a_usable_url_the_operator_writes_the_row(
    monkeypatch: pytest.MonkeyPatch,
    make_task: Callable[..., TrainingTask],
    caplog: pytest.LogCaptureFixture,
    url: str | None,
) -> None:
    monkeypatch.setenv(names.ENV_POD_NAME, "a-pod")
    monkeypatch.setenv(names.ENV_HISTORY_URL, url or "")
    assert create_history_sink(None, make_task(CLASSICAL), "uid-1", tuple) is None
    assert "hunter2" not in caplog.text
