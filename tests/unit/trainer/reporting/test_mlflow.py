"""Runs on a real MLflow server, as the trainer records them."""

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from support import specs
from support.mlflow_server import MLflow, read_entries, run_mlflow
from support.results import RESULTS
from trainingtask_api import names
from trainingtask_api.reasons import Reason
from trainingtask_api.status import ExitCode, Failure, Phase
from trainingtask_api.task import TrainingTask
from trainingtask_trainer.__main__ import main
from trainingtask_trainer.reporting.mlflow import RunSource, create_mlflow_sink
from trainingtask_trainer.reporting.progress import CurvePoint, Step
from trainingtask_trainer.reporting.reporter import Reporter

CURVE = [CurvePoint(step, training_loss=1 / step, learning_rate=0.1) for step in (1, 2)]
LAST = CurvePoint(3, training_loss=0.2, validation_loss=0.3, mean_average_precision=0.9)
UID = "6f1b7f5e-0000-4000-8000-000000000000"


@pytest.fixture(scope="session")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MLflow]:
    with run_mlflow(tmp_path_factory.mktemp("mlflow")) as url:
        yield MLflow(url)


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for the server as long as a busy machine may need."""
    monkeypatch.setattr("trainingtask_trainer.reporting.mlflow._FINAL_TIMEOUT", 300.0)
    monkeypatch.setattr("trainingtask_trainer.reporting.mlflow_client._TIMEOUT", httpx.Timeout(120.0))


def track(url: str, experiment: str, attempt: int = 1, uid: str = UID) -> Reporter:
    """Return the reporter of an attempt that reports to this server alone."""
    spec = specs.changed(specs.CLASSICAL, tracking={"mlflow": {"uri": url, "experiment": experiment}})
    task = TrainingTask.model_validate(specs.task("a-task", spec, "team"))
    reporter = Reporter([], attempt)
    tracker = create_mlflow_sink(RunSource(task, uid, lambda: reporter.curve, lambda: reporter.artifacts))
    assert tracker is not None
    reporter.track(tracker)
    return reporter


def report_curve(reporter: Reporter, curve: list[CurvePoint]) -> None:
    reporter.report_step(Step(1, 1, curve[-1].step, 3, 10, loss=0.5, curve=curve))


def test_a_finished_training_is_a_run(mlflow: MLflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(names.ENV_IMAGE, "trainer:1")
    (tmp_path / "README.md").write_text("# Card")
    reporter = track(mlflow.url, "Finished")
    report_curve(reporter, [*CURVE, LAST])
    reporter.keep_artifacts([tmp_path / "README.md"])
    long = RESULTS.model_copy(update={"arguments": RESULTS.arguments | {"model.labels:all/x": "x" * 9000}})
    reporter.report_success(long)

    assert reporter.report.results == long
    [run] = mlflow.list_runs("Finished")
    info = run["info"]
    assert (info["run_name"], info["status"]) == ("a-task", "FINISHED")
    assert info["end_time"] >= info["start_time"] > 1_700_000_000_000
    page = f"{mlflow.url}/#/experiments/{info['experiment_id']}/runs/{info['run_id']}"
    assert reporter.report.tracking_url == page
    params = read_entries(run["data"]["params"])
    assert (params["dataset.name"], params["training.learningRate"]) == ("table", "5e-05")
    assert params["model.labels:all_x"] == "x" * 6000
    metrics = read_entries(run["data"]["metrics"])
    assert (metrics["evaluation.micro.f1"], metrics["evaluation.labelPrior.microF1"]) == (0.5454, 0.3)
    assert (metrics["trainRows"], metrics["runtimeSeconds"], metrics["training_loss"]) == (100, 4, 0.2)
    assert mlflow.read_curve(info["run_id"], "training_loss") == [(1, 1), (2, 0.5), (3, 0.2)]
    assert mlflow.read_curve(info["run_id"], "mean_average_precision") == [(3, 0.9)]
    assert mlflow.read_curve(info["run_id"], "evaluation.micro.f1") == [(8, 0.5454)]
    tags = read_entries(run["data"]["tags"])
    assert {key: value for key, value in tags.items() if key.startswith("trainingtask.")} == {
        "trainingtask.uid": UID,
        "trainingtask.namespace": "team",
        "trainingtask.name": "a-task",
        "trainingtask.attempt": "1",
        "trainingtask.image": "trainer:1",
        "trainingtask.dataFingerprint": "f" * 64,
    }
    assert mlflow.read_artifact(run, "README.md") == b"# Card"


def test_a_retry_goes_on_with_the_same_run(mlflow: MLflow) -> None:
    first = track(mlflow.url, "Retried")
    report_curve(first, CURVE)
    failure = Failure(reason=Reason.INTERRUPTED, message="SIGTERM", phase=Phase.TRAINING)
    first.report_failure(failure, ExitCode.INTERRUPTED)
    [run] = mlflow.list_runs("Retried")
    assert run["info"]["status"] == "KILLED"

    again = [dataclasses.replace(CURVE[1], training_loss=0.5000001), LAST]
    for attempt, uid in ((2, UID), (3, UID), (1, "another")):
        reporter = track(mlflow.url, "Retried", attempt, uid)
        report_curve(reporter, again)
        reporter.report_success(RESULTS.model_copy(update={"arguments": {"cpuThreads": attempt}}))
        assert reporter.report.results is not None
        assert reporter.report.results.warnings == []
    other, run = mlflow.list_runs("Retried")
    assert read_entries(other["data"]["tags"])["trainingtask.uid"] == "another"
    assert (run["info"]["status"], read_entries(run["data"]["tags"])["trainingtask.attempt"]) == ("FINISHED", "3")
    assert read_entries(run["data"]["params"]) == {"cpuThreads": "2"}
    assert mlflow.read_curve(run["info"]["run_id"], "training_loss") == [(1, 1), (2, 0.5), (3, 0.2)]


def test_a_failed_training_is_a_failed_run(mlflow: MLflow) -> None:
    reporter = track(mlflow.url, "Failed")
    failure = Failure(reason=Reason.INVALID_DATA, message="no rows", phase=Phase.LOADING)
    reporter.report_failure(failure, ExitCode.USER_ERROR)
    [run] = mlflow.list_runs("Failed")
    assert run["info"]["status"] == "FAILED"


def test_artifacts_that_the_server_does_not_store_are_told(mlflow: MLflow, tmp_path: Path) -> None:
    location = {"name": "Elsewhere", "artifact_location": f"file://{tmp_path}/artifacts"}
    mlflow.call("POST", "mlflow/experiments/create", json=location)
    (tmp_path / "README.md").write_text("# Card")
    reporter = track(mlflow.url, "Elsewhere")
    reporter.keep_artifacts([tmp_path / "README.md"])
    reporter.report_success(RESULTS)
    assert mlflow.list_runs("Elsewhere")[0]["info"]["status"] == "FINISHED"
    assert reporter.report.results is not None
    [warning] = reporter.report.results.warnings
    assert warning.endswith("has no README.md: the server does not store artifacts itself (--serve-artifacts)")


def test_an_experiment_that_was_deleted_is_told(mlflow: MLflow) -> None:
    created = mlflow.call("POST", "mlflow/experiments/create", json={"name": "Deleted"})
    mlflow.call("POST", "mlflow/experiments/delete", json=created)
    reporter = track(mlflow.url, "Deleted")
    reporter.report_success(RESULTS)
    assert reporter.report.results is not None
    [warning] = reporter.report.results.warnings
    assert "is missing: it answers 400 (INVALID_PARAMETER_VALUE: " in warning


@pytest.mark.parametrize("is_own", [True, False])
def test_the_command_records_its_run(
    mlflow: MLflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_task: Callable[..., Path], is_own: bool
) -> None:
    uri = "http://127.0.0.1:9" if is_own else mlflow.url
    monkeypatch.setenv(names.ENV_MLFLOW_URI, uri)
    monkeypatch.setenv(names.ENV_MLFLOW_EXPERIMENT, "The cluster's")
    spec: dict[str, Any] = specs.changed(specs.CLASSICAL, dataset__sampleSize=100, output__volumeClaim="models")
    if is_own:
        spec["tracking"] = {"mlflow": {"uri": mlflow.url}}
    history = f"--history=sqlite:///{tmp_path}/history.db"
    assert main(["run", str(write_task(spec)), f"--output-dir={tmp_path}", history]) == ExitCode.SUCCESS
    [run] = mlflow.list_runs("default" if is_own else "The cluster's")
    written = (tmp_path / "a-task" / "results.json").read_bytes()
    assert mlflow.read_artifact(run, "results.json") == written
    assert mlflow.read_artifact(run, "README.md") == (tmp_path / "a-task" / "README.md").read_bytes()
    score = json.loads(written)["evaluation"]["micro"]["f1"]
    assert read_entries(run["data"]["metrics"])["evaluation.micro.f1"] == score
    assert read_entries(run["data"]["params"])["model.name"] == "logistic_regression"
