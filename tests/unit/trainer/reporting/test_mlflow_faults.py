"""MLflow servers that are away, slow or hostile: a training neither fails nor waits for them, and the token stays secret."""

import base64
import gzip
import io
import json
import socket
import threading
import time
from pathlib import Path

import pytest

from support import specs
from support.http_server import Answer, HttpServer, Request, serve_http
from support.mlflow_answers import answer_as_mlflow, answer_json
from support.ports import free_port
from support.results import RESULTS
from trainingtask_api import names
from trainingtask_api.reasons import Reason
from trainingtask_api.status import MAX_WARNINGS, ExitCode, Failure, Phase
from trainingtask_api.task import TrainingTask
from trainingtask_trainer import run
from trainingtask_trainer.reporting import mlflow
from trainingtask_trainer.reporting.console import ConsoleSink
from trainingtask_trainer.reporting.mlflow import RunSource, create_mlflow_sink
from trainingtask_trainer.reporting.progress import CurvePoint, Step
from trainingtask_trainer.reporting.reporter import Reporter

TOKEN = "a-very-secret-token"
CURVE = [CurvePoint(1, training_loss=0.5)]


@pytest.fixture(autouse=True)
def _token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", f"{TOKEN}\n")


def track(url: str) -> Reporter:
    """Return the reporter of a training that reports to this server alone."""
    task = TrainingTask.model_validate(
        specs.task("a-task", specs.changed(specs.CLASSICAL, tracking={"mlflow": {"uri": url}}), "team")
    )
    reporter = Reporter([])
    tracker = create_mlflow_sink(RunSource(task, "uid-1", lambda: reporter.curve, lambda: reporter.artifacts))
    assert tracker is not None
    reporter.track(tracker)
    return reporter


def end_with_warning(reporter: Reporter, **changes: list[str]) -> str:
    """End a training, and return the last warning of its results."""
    reporter.report_success(RESULTS.model_copy(update=changes))
    assert reporter.report.results is not None
    warning = reporter.report.results.warnings[-1]
    assert warning.startswith("tracking.mlflow: ")
    assert TOKEN not in warning
    return warning


def list_paths(server: HttpServer) -> list[str]:
    return [request.path.partition("?")[0].removeprefix("/api/2.0/") for request in server.requests]


def wait_for_failure(reporter: Reporter) -> None:
    """Wait until a report could not be delivered."""
    while not reporter._tracker or reporter._tracker.error is None:  # type: ignore[attr-defined]
        time.sleep(0.01)


def test_a_server_that_is_away_is_one_warning() -> None:
    port = free_port()
    reporter = track(f"http://127.0.0.1:{port}")
    reporter.report_step(Step(1, 1, 1, 1, 10, loss=0.5, curve=CURVE))
    wait_for_failure(reporter)
    warning = end_with_warning(reporter)
    assert f"the training's run on '127.0.0.1:{port}' is missing: no connection (" in warning
    assert warning.endswith("see that the server is up, and that the trainer's pod can reach it")
    assert reporter.report.tracking_url is None


def test_a_server_that_comes_back_gets_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow, "_FINAL_TIMEOUT_IN_OUTAGE", 60.0)
    with serve_http(lambda _: Answer(503, b"<p>starting</p>")) as server:
        reporter = track(server.url)
        reporter.report_step(Step(1, 1, 1, 1, 10, loss=0.5, curve=CURVE))
        while not server.requests:
            time.sleep(0.01)
        server.answer = answer_as_mlflow
        reporter.report_success(RESULTS)
        assert reporter.report.results == RESULTS
        sent = [json.loads(request.body) for request in server.requests if request.path.endswith("log-batch")]
        assert sent[0]["metrics"][0].items() >= {"key": "training_loss", "step": 1, "value": 0.5}.items()
        assert json.loads(server.requests[-1].body).items() >= {"run_id": "r1", "status": "FINISHED"}.items()


def test_a_silent_server_holds_up_no_step_and_not_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow, "_FINAL_TIMEOUT", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        reporter = track(f"http://127.0.0.1:{silent.getsockname()[1]}")
        for step in range(1, 500):
            reporter.report_step(Step(1, 1, step, 500, 10, loss=0.5, curve=CURVE))
        assert "is missing: no answer in time; see that" in end_with_warning(reporter)


def test_a_server_that_was_away_gets_one_more_try_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow, "_FINAL_TIMEOUT", 600.0)
    monkeypatch.setattr(mlflow, "_FINAL_TIMEOUT_IN_OUTAGE", 0.1)
    with serve_http(lambda _: Answer(503)) as server:
        reporter = track(server.url)
        wait_for_failure(reporter)
        assert "is missing: it answers 503; see that" in end_with_warning(reporter)


def test_a_refusal_is_told_in_the_servers_words_without_the_token(caplog: pytest.LogCaptureFixture) -> None:
    words = f"the token {TOKEN}\x1b[2J is not known\n" + "x" * 5000 + TOKEN
    error = {"error_code": "UNAUTHENTICATED", "message": words}
    with serve_http(lambda _: answer_json(error, 401)) as server:
        reporter = track(server.url)
        warning = end_with_warning(reporter, warnings=["w"] * MAX_WARNINGS)
        assert reporter.report.results is not None
        assert len(reporter.report.results.warnings) == MAX_WARNINGS
        assert len(server.requests) == 1
        assert server.requests[0].headers["authorization"] == f"Bearer {TOKEN}"
    assert "is missing: it answers 401 (UNAUTHENTICATED: the token *** [2J is not known xxx" in warning
    assert warning.endswith("; correct tracking.mlflow, or the credentials in the variables MLFLOW_TRACKING_*")
    assert len(warning) < 600
    assert TOKEN not in caplog.text


def test_a_user_and_a_password_are_sent_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_TOKEN")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "pä:ss")
    encoded = base64.b64encode("me:pä:ss".encode()).decode()
    with serve_http(lambda _: Answer(403, f"no, {encoded}, pä:ss".encode())) as server:
        assert "it answers 403 (no, ***, ***);" in end_with_warning(track(server.url))
        assert server.requests[0].headers["authorization"] == f"Basic {encoded}"


def test_a_token_is_not_shown_in_part() -> None:
    with serve_http(lambda _: Answer(400, b"x" * 290 + TOKEN.encode() + b"y")) as server:
        assert TOKEN[:5] not in end_with_warning(track(server.url))


@pytest.mark.parametrize("path", ["/api/2.0/?a=b", None])
def test_a_redirect_is_not_followed(path: str | None) -> None:
    with serve_http(answer_as_mlflow) as other:
        to_other = Answer(307, headers={"Location": f"{other.url}{path}" if path else "/login"})
        with serve_http(lambda _: to_other) as server:
            warning = end_with_warning(track(server.url))
        target = f"'{other.url}'" if path else "another path"
        assert f"it redirects to {target}, which is not followed" in warning
        assert other.requests == []


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"<html>", "its answer is not one of MLflow's"),
        (b"[" * 100_000, "its answer is not one of MLflow's"),
        (b'{"experiment": {"experiment_id": "../../x"}}', "its answer is not one of MLflow's"),
        (b"x" * (5 << 20), "its answer is longer than 4 MiB"),
    ],
)
def test_an_answer_that_is_not_mlflows_is_told(content: bytes, cause: str) -> None:
    with serve_http(lambda _: Answer(body=content)) as server:
        assert cause in end_with_warning(track(server.url))


@pytest.mark.parametrize("host", ["a" * 70 + ".example", "127.0.0.1:99999", "[::1"])
def test_an_address_that_cannot_be_asked_is_told(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setattr(mlflow, "_FINAL_TIMEOUT", 0.5)
    assert f"run on '{host}' is missing: " in end_with_warning(track(f"http://{host}"))


@pytest.mark.parametrize("status", [413, 500, 503])
def test_artifacts_that_cannot_be_stored_do_not_keep_the_run_open(tmp_path: Path, status: int) -> None:
    def answer(request: Request) -> Answer:
        return Answer(status) if request.method == "PUT" else answer_as_mlflow(request)

    (tmp_path / "README.md").write_text("# Card")
    with serve_http(answer) as server:
        reporter = track(server.url)
        reporter.keep_artifacts([tmp_path / "README.md"])
        assert end_with_warning(reporter).endswith(f"has no README.md: it answers {status}")
        artifact = "mlflow-artifacts/artifacts/1/r1/artifacts/README.md"
        assert list_paths(server)[-2:] == ["mlflow/runs/update", artifact]
        assert list_paths(server).count(artifact) == 1


def test_an_upload_that_takes_too_long_is_told(tmp_path: Path) -> None:
    is_asked, is_over = threading.Event(), threading.Event()

    def answer(request: Request) -> Answer:
        if request.method == "PUT":
            is_asked.set()
            is_over.wait(60)
        return answer_as_mlflow(request)

    (tmp_path / "README.md").write_text("# Card")
    with serve_http(answer) as server:
        reporter = track(server.url)
        reporter.keep_artifacts([tmp_path / "README.md"])
        tracker = reporter._tracker
        assert tracker is not None
        now = reporter.report.start_time
        end = {"phase": Phase.DONE, "results": RESULTS, "finish_time": now, "report_time": now}
        try:
            tracker.finish(reporter.report.model_copy(update=end), None)
            assert is_asked.wait(60)
            assert (tracker.describe_loss() or "").endswith("has no README.md: no answer in time")
            assert "mlflow/runs/update" in list_paths(server)
        finally:
            is_over.set()
        tracker.wait()
        assert tracker.describe_loss() is None


def test_values_that_are_refused_do_not_keep_the_run_open() -> None:
    def answer(request: Request) -> Answer:
        return Answer(413) if request.path.endswith("log-batch") else answer_as_mlflow(request)

    with serve_http(answer) as server:
        assert "is incomplete: it answers 413; correct" in end_with_warning(track(server.url))
        assert json.loads(server.requests[-1].body).items() >= {"run_id": "r1", "status": "FINISHED"}.items()


@pytest.mark.parametrize("status", [200, 400])
def test_a_compressed_answer_is_refused_unread(status: int) -> None:
    bomb = gzip.compress(gzip.compress(bytes(64 << 20)))
    with serve_http(lambda _: Answer(status, bomb, {"Content-Encoding": "gzip, gzip"})) as server:
        assert "its answer is compressed, which it was not asked for" in end_with_warning(track(server.url))
        assert server.requests[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("body", [b"[" * 200_000, b'{"error_code": ' + b"9" * 6000 + b"}"])
def test_an_error_that_cannot_be_parsed_is_told_as_text(body: bytes) -> None:
    with serve_http(lambda _: Answer(400, body)) as server:
        assert f"is missing: it answers 400 ({body[:9].decode()}" in end_with_warning(track(server.url))


@pytest.mark.parametrize("uri", ["mlflow-artifacts://elsewhere/1", "mlflow-artifacts:/../1", "s3://bucket/1", ""])
def test_artifacts_go_to_the_server_itself_alone(tmp_path: Path, uri: str) -> None:
    def answer(request: Request) -> Answer:
        is_new = request.path.endswith("runs/create")
        return (
            answer_json({"run": {"info": {"run_id": "r1", "artifact_uri": uri}}})
            if is_new
            else answer_as_mlflow(request)
        )

    (tmp_path / "README.md").write_text("# Card")
    with serve_http(answer) as server:
        reporter = track(server.url)
        reporter.keep_artifacts([tmp_path / "README.md"])
        assert "has no README.md: the server does not store artifacts itself" in end_with_warning(reporter)
        assert not any(request.method == "PUT" for request in server.requests)


def test_two_tasks_may_create_an_experiment_at_once() -> None:
    absent, exists = ({"error_code": f"RESOURCE_{what}"} for what in ("DOES_NOT_EXIST", "ALREADY_EXISTS"))
    first = {"experiments/get-by-name": answer_json(absent, 404), "experiments/create": answer_json(exists, 400)}

    def answer(request: Request) -> Answer:
        return first.pop(request.path.partition("?")[0].removeprefix("/api/2.0/mlflow/"), None) or answer_as_mlflow(
            request
        )

    with serve_http(answer) as server:
        reporter = track(server.url)
        reporter.report_success(RESULTS)
        assert reporter.report.results == RESULTS


def test_a_launcher_keeps_the_page_that_its_worker_reported() -> None:
    with serve_http(lambda _: Answer(401)) as server:
        reporter = Reporter([ConsoleSink(io.StringIO(), io.StringIO())])
        reporter.report = reporter.report.model_copy(update={"tracking_url": "https://mlflow.example.com/#/1"})
        reporter.track(track(server.url)._tracker)  # type: ignore[arg-type]
        failure = Failure(reason=Reason.PEER_LOST, message="x", phase=Phase.TRAINING)
        reporter.report_failure(failure, ExitCode.FAULT)
    assert reporter.report.tracking_url == "https://mlflow.example.com/#/1"


def test_a_task_that_names_no_server_is_warned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(names.ENV_MLFLOW_URI, raising=False)
    task = TrainingTask.model_validate(specs.task("a-task", specs.GOOD["tracking-by-default"]))
    reporter = Reporter([])
    run._track(task, "uid-1", reporter)
    assert reporter.warnings == [
        "tracking.mlflow has no uri, and the cluster names no MLflow server: no run is recorded"
    ]
