import io
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import kubernetes.client
import pytest

from support.results import RESULTS
from support.silent_proxy import use_silent_proxy
from trainingtask_api.formatting import format_time_left
from trainingtask_api.status import ExitCode, Failure, Phase, Results, Source, SourceObject, TrainingReport
from trainingtask_api.task import Metadata
from trainingtask_trainer.reporting import kube_status, termination
from trainingtask_trainer.reporting.background import (
    BackgroundSink,
    DeliveryError,
    PermanentDeliveryError,
    compute_interval,
)
from trainingtask_trainer.reporting.console import ConsoleSink
from trainingtask_trainer.reporting.kube_status import EarlierSources, create_apply, create_status_sink
from trainingtask_trainer.reporting.progress import Step
from trainingtask_trainer.reporting.reporter import Reporter

NEVER = 3600.0  # seconds; a test that waits for it is ended long before
METADATA = Metadata(name="a-task", namespace="team", uid="uid-1")
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ETAG = "d41d8cd98f00b204e9800998ecf8427e-12"
FAILURE = Failure(reason="InvalidData", message="Loading failed: no rows", phase=Phase.LOADING)


def report(phase: Phase = Phase.TRAINING, **fields: Any) -> TrainingReport:
    return TrainingReport(attempt=1, phase=phase, start_time=NOW, **fields)


class Receiver:
    """Takes reports, after failing a given number of times."""

    def __init__(self, failures: int = 0, error: Exception | None = None) -> None:
        self.reports: list[TrainingReport] = []
        self.calls = 0
        self.failures = failures
        self.error = error or DeliveryError("away")
        self.taken = threading.Event()

    def __call__(self, report: TrainingReport) -> None:
        self.calls += 1
        if self.calls <= self.failures:
            raise self.error
        self.reports.append(report)
        self.taken.set()


class TestBackgroundSink:
    def test_newest_report_wins_and_the_last_does_not_wait(self) -> None:
        receiver = Receiver()
        sink = BackgroundSink("test", receiver, interval=60, final_timeout=NEVER)
        sink.send(report(step=0))
        assert receiver.taken.wait(60)
        for step in range(1, 50):
            sink.send(report(step=step))
        sink.finish(report(Phase.DONE), None)
        sink.wait()
        assert [(r.phase, r.step) for r in receiver.reports] == [(Phase.TRAINING, 0), (Phase.DONE, None)]

    def test_last_report_is_tried_again(self) -> None:
        receiver = Receiver(failures=2)
        sink = BackgroundSink("test", receiver, interval=60, final_timeout=NEVER)
        sink.finish(report(Phase.DONE), None)
        sink.wait()
        assert [r.phase for r in receiver.reports] == [Phase.DONE]

    def test_last_report_is_not_held_up_by_an_outage_before_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("trainingtask_trainer.reporting.background._INITIAL_BACKOFF", NEVER)
        receiver = Receiver(failures=1)
        sink = BackgroundSink("test", receiver, interval=60, final_timeout=NEVER)
        sink.send(report())
        while not receiver.calls:
            time.sleep(0.01)
        sink.finish(report(Phase.DONE), None)
        sink.wait()
        assert [r.phase for r in receiver.reports] == [Phase.DONE]

    def test_last_report_is_given_up_in_time(self, caplog: pytest.LogCaptureFixture) -> None:
        sink = BackgroundSink("test", Receiver(failures=1000), interval=60, final_timeout=NEVER)
        sink.finish(report(Phase.DONE), 0.3)
        sink.wait()
        assert "The last report did not reach test" in caplog.text

    def test_a_receiver_that_hangs_holds_nobody_up(self) -> None:
        never = threading.Event()
        sink = BackgroundSink("test", lambda _: never.wait(), interval=0, final_timeout=0.2)  # type: ignore[arg-type, return-value]
        for step in range(100):
            sink.send(report(step=step))
        sink.finish(report(Phase.DONE), None)
        sink.wait()
        assert not sink.is_delivered
        never.set()

    def test_a_receiver_that_is_gone_is_left_alone(self) -> None:
        receiver = Receiver(failures=1000, error=PermanentDeliveryError("deleted"))
        sink = BackgroundSink("test", receiver, interval=0, final_timeout=NEVER)
        sink.finish(report(Phase.DONE), None)
        sink.wait()
        assert receiver.calls == 1

    def test_a_defect_ends_the_deliveries_with_a_line_in_the_log(self, caplog: pytest.LogCaptureFixture) -> None:
        receiver = Receiver(failures=1000, error=RecursionError("too deep"))
        sink = BackgroundSink("test", receiver, interval=0, final_timeout=NEVER)
        sink.finish(report(Phase.DONE), None)
        sink.wait()
        assert isinstance(sink.error, PermanentDeliveryError)
        assert str(sink.error) == "unexpected RecursionError, see the trainer's log"
        assert "test takes no more reports" in caplog.text
        assert "RecursionError: too deep" in caplog.text
        assert receiver.calls == 1


class ApiServer(ThreadingHTTPServer):
    """Keeps the patches it gets; answers with the given statuses, then with 200."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _ApiHandler)
        self.requests: list[tuple[str, dict[str, list[str]], str, dict[str, Any]]] = []
        self.answers: list[tuple[int, str]] = []


class _ApiHandler(BaseHTTPRequestHandler):
    server: ApiServer

    def do_PATCH(self) -> None:
        url = urlsplit(self.path)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append((url.path, parse_qs(url.query), self.headers["Content-Type"], body))
        status, content = self.server.answers.pop(0) if self.server.answers else (200, "{}")
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content.encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with ApiServer() as instance:
        thread = threading.Thread(target=instance.serve_forever, daemon=True)
        thread.start()
        yield instance
        instance.shutdown()
        thread.join()


def sink_to(server: ApiServer, earlier: EarlierSources | None = None) -> BackgroundSink:
    configuration = kubernetes.client.Configuration()
    configuration.host = f"http://127.0.0.1:{server.server_port}"
    return create_status_sink(METADATA, create_apply(configuration, METADATA), earlier)


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for an answer as long as a busy machine may need."""
    monkeypatch.setattr(kube_status, "_REQUEST_TIMEOUT", (60.0, 120.0))


class TestStatus:
    def test_applies_its_own_field_of_this_very_task(self, server: ApiServer) -> None:
        sink = sink_to(server)
        sink.finish(report(Phase.DONE, results=RESULTS, score="0.545"), None)
        sink.wait()
        _, (path, query, content_type, body) = server.requests
        assert path == "/apis/trainingtask.dev/v1alpha1/namespaces/team/trainingtasks/a-task/status"
        assert query == {"fieldManager": ["trainingtask-trainer"], "force": ["true"]}
        assert content_type == "application/apply-patch+yaml"
        assert body["metadata"] == {"name": "a-task", "namespace": "team", "uid": "uid-1"}
        assert set(body["status"]) == {"training"}
        assert TrainingReport.model_validate(body["status"]["training"]).results == RESULTS

    def test_tries_again_while_refused_or_away(self, server: ApiServer) -> None:
        server.answers = [(503, "{}"), (403, "{}")]
        sink = sink_to(server)
        sink.finish(report(Phase.DONE), None)
        sink.wait()
        assert len(server.requests) == 4  # with the one that reads

    def test_commits_of_earlier_attempts_are_read_and_kept(self, server: ApiServer) -> None:
        def source(field: str, commit: str | None) -> dict[str, Any]:
            return {"field": field, "address": "a/b", "commit": commit, "objects": []}

        kept, replaced = source("model.checkpoint", "a" * 40), source("dataset.hub", "b" * 40)
        hostile = [source("preprocessor.checkpoint", "../../etc"), source("dataset.uri", None), {"field": 1}, "x"]
        status = {"training": {"attempt": 1, "phase": "Failed", "sources": [*hostile, kept, replaced]}}
        server.answers = [(200, json.dumps({"status": status}))]
        earlier: EarlierSources = Future()
        sink = sink_to(server, earlier)
        own = Source(field="dataset.hub", address="a/b", commit="c" * 40)
        sink.finish(report(Phase.LOADING, sources=[own]), None)
        sink.wait()
        assert [entry.field for entry in earlier.result()] == ["model.checkpoint", "dataset.hub"]
        (_, query, content_type, read), (*_, applied) = server.requests
        assert query == {"fieldManager": ["trainingtask-trainer-reader"], "force": ["true"], "dryRun": ["All"]}
        assert content_type == "application/apply-patch+yaml"
        assert read["status"] == {"training": {"attempt": 1, "phase": "Loading"}}
        assert applied["status"]["training"]["sources"] == [own.to_json(), Source.model_validate(kept).to_json()]

    def test_a_status_that_is_never_read_holds_up_no_report(
        self, server: ApiServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(kube_status, "_READ_TIMEOUT", 0)
        server.answers = [(500, "{}")]
        earlier: EarlierSources = Future()
        sink = sink_to(server, earlier)
        sink.finish(report(Phase.DONE), None)
        sink.wait()
        assert isinstance(earlier.exception(), DeliveryError)
        assert "sources" not in server.requests[-1][3]["status"]["training"]

    def test_the_api_server_is_asked_without_a_proxy(self, server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
        with use_silent_proxy(monkeypatch):
            sink = sink_to(server)
            sink.finish(report(Phase.DONE), 60)
            sink.wait()
            assert len(server.requests) == 2

    @pytest.mark.parametrize("answer", [(404, "{}"), (409, '{"message": "Precondition failed: UID in precondition"}')])
    def test_leaves_another_task_of_the_name_alone(self, server: ApiServer, answer: tuple[int, str]) -> None:
        server.answers = [answer]
        sink = sink_to(server)
        sink.finish(report(Phase.DONE), None)
        sink.wait()
        assert len(server.requests) == 1

    def test_an_absent_server_is_no_crash(self) -> None:
        configuration = kubernetes.client.Configuration()
        configuration.host = "http://127.0.0.1:9"
        with pytest.raises(DeliveryError):
            create_apply(configuration, METADATA)({})

    def test_outside_a_cluster_is_no_crash(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
        with pytest.raises(DeliveryError, match="Service host/port is not set"):
            kube_status._create_in_cluster_apply(METADATA)


def read_message(results: Results) -> TrainingReport:
    text = termination.encode_message(report(Phase.DONE, results=results, score="0.545"))
    assert len(text) <= termination.MAX_MESSAGE_BYTES
    return TrainingReport.model_validate_json(text)


class TestTermination:
    def test_small_report_is_kept_whole(self) -> None:
        whole = report(Phase.DONE, results=RESULTS, score="0.545", finish_time=NOW)
        assert TrainingReport.model_validate_json(termination.encode_message(whole)) == whole

    def test_results_give_way_and_json_stays_json(self) -> None:
        label = RESULTS.evaluation.per_label[0]
        evaluation = RESULTS.evaluation.model_copy(update={"per_label": [label] * 60})
        long = RESULTS.model_copy(update={"evaluation": evaluation})
        shorter = RESULTS.evaluation.model_copy(update={"per_label": []})
        assert read_message(long).results == RESULTS.model_copy(update={"evaluation": shorter})
        arguments = {f"argument{number}": "x" * 100 for number in range(60)}
        longer = long.model_copy(update={"arguments": arguments})
        assert read_message(longer).results == RESULTS.model_copy(update={"evaluation": shorter, "arguments": {}})
        huge = longer.model_copy(update={"data_fingerprint": "x" * 5000})
        assert (read_message(huge).results, read_message(huge).score) == (None, "0.545")

    def test_long_failure_is_cut_to_fit(self) -> None:
        failure = FAILURE.model_copy(update={"message": "\N{SNOWMAN}" * 2048})
        text = termination.encode_message(report(Phase.FAILED, failure=failure))
        assert len(text) <= termination.MAX_MESSAGE_BYTES
        failed = TrainingReport.model_validate_json(text)
        assert failed.failure is not None
        assert failed.failure.message.startswith("\N{SNOWMAN}" * 900)

    @pytest.mark.parametrize("failure", [None, FAILURE])
    @pytest.mark.parametrize(("files", "kept"), [(12, 12), (32, 0)])
    def test_names_of_many_files_give_way(self, failure: Failure | None, files: int, kept: int) -> None:
        names = [
            f"part-{number:05}-c3d3ffc4-8fc5-4dc1-b7c5-9f3a11e5e7b4-c000.snappy.parquet" for number in range(files)
        ]
        objects = [SourceObject(name=name, size=10**8, etag=ETAG) for name in names]
        source = Source(field="dataset.uri", address="s3://data/tickets/", object_count=files, objects=objects)
        whole = report(Phase.DONE, results=None if failure else RESULTS, failure=failure, sources=[source])
        read = TrainingReport.model_validate_json(termination.encode_message(whole))
        assert read.sources is not None
        assert [(one.object_count, len(one.objects)) for one in read.sources] == [(files, kept)]

    def test_any_report_fits(self) -> None:
        addresses = [f"s3://{letter * 1000}/" for letter in "abc"]
        sources = [Source(field="dataset.uri", address=address) for address in addresses]
        url = "https://tracker.example.com/" + "x" * 2000
        text = termination.encode_message(report(Phase.DONE, results=RESULTS, sources=sources, tracking_url=url))
        assert len(text) <= termination.MAX_MESSAGE_BYTES
        assert TrainingReport.model_validate_json(text).phase == Phase.DONE

    def test_written_only_where_the_file_is(self, tmp_path: Path) -> None:
        path = tmp_path / "termination-log"
        sink = termination.TerminationSink(path)
        sink.finish(report(Phase.FAILED, failure=FAILURE), None)
        assert not path.exists()
        path.touch()
        sink.finish(report(Phase.FAILED, failure=FAILURE), None)
        assert json.loads(path.read_text())["failure"]["reason"] == "InvalidData"


class TestReporter:
    def test_rate_and_time_left_leave_out_the_loading_of_weights(self) -> None:
        time_now = NOW
        reporter = Reporter([], now=lambda: time_now)
        reporter.start_phase(Phase.TRAINING)
        time_now += timedelta(seconds=100)  # the weights are loaded
        reporter.report_step(Step(epoch=1, epochs=2, step=40, total_steps=100, rows=320, loss=None, resumed_from=40))
        assert (reporter.report.progress, reporter.report.eta, reporter.report.samples_per_second) == (
            "40%",
            None,
            None,
        )
        time_now += timedelta(seconds=10)
        reporter.report_step(Step(epoch=2, epochs=2, step=60, total_steps=100, rows=480, loss=1 / 3, resumed_from=40))
        assert (reporter.report.progress, reporter.report.eta, reporter.report.samples_per_second) == ("60%", "20s", 16)
        assert (reporter.report.loss, reporter.report.resumed_from_step) == (0.3333, 40)

    def test_a_late_sink_hears_where_things_stand(self) -> None:
        console = io.StringIO()
        reporter = Reporter([])
        reporter.start_phase(Phase.LOADING)
        reporter.add_sink(ConsoleSink(console, console))
        assert console.getvalue() == "Loading\n"

    def test_log_gets_few_lines_and_the_scores(self) -> None:
        output, progress = io.StringIO(), io.StringIO()
        reporter = Reporter([ConsoleSink(output, progress)])
        reporter.start_phase(Phase.TRAINING)
        for step in range(1, 1001):
            reporter.report_step(Step(epoch=1, epochs=1, step=step, total_steps=1000, rows=step, loss=0.25))
        assert len(progress.getvalue().splitlines()) <= 4
        assert "0% epoch 1/1 step 1/1000, loss 0.2500" in progress.getvalue()
        for _ in range(3):  # batches of the validation
            reporter.report_step(Step(epoch=1, epochs=1, step=1000, total_steps=1000, rows=1000, loss=0.25))
        assert progress.getvalue().count("100% epoch 1/1 step 1000/1000, loss 0.2500") == 1
        reporter.report_success(RESULTS)
        rows = [line.split() for line in output.getvalue().splitlines()]
        assert ["micro", "0.500", "0.600", "0.545"] in rows
        assert ["macro", "-", "0.500", "0.440"] in rows
        assert ["micro-F1", "0.545", "0.300", "0.000", "0.510-0.581"] in rows

    def test_each_phase_tells_at_once_where_it_begins(self) -> None:
        output, progress = io.StringIO(), io.StringIO()
        reporter = Reporter([ConsoleSink(output, progress)])
        reporter.start_phase(Phase.LOADING)
        reporter.report_loading(rows=10)
        reporter.start_phase(Phase.TRAINING)
        reporter.report_step(Step(epoch=1, epochs=1, step=0, total_steps=9, rows=0, loss=None))
        assert progress.getvalue().splitlines()[-1] == "0% epoch 1/1 step 0/9"

    def test_terminal_gets_a_bar(self) -> None:
        class Terminal(io.StringIO):
            def isatty(self) -> bool:
                return True

        terminal = Terminal()
        reporter = Reporter([ConsoleSink(terminal, terminal)])
        reporter.start_phase(Phase.TRAINING)
        for step in (1, 2):
            reporter.report_step(Step(epoch=1, epochs=1, step=step, total_steps=2, rows=step, loss=0.25))
        reporter.start_phase(Phase.EVALUATING)
        assert "0/2" in terminal.getvalue()
        assert terminal.getvalue().endswith("Evaluating\n")

    def test_failure_is_a_sentence_on_the_console(self) -> None:
        output, progress = io.StringIO(), io.StringIO()
        Reporter([ConsoleSink(output, progress)]).report_failure(FAILURE, ExitCode.USER_ERROR)
        assert progress.getvalue() == "InvalidData: Loading failed: no rows\n"
        assert output.getvalue() == ""


@pytest.mark.parametrize(("age", "shortest", "interval"), [(0, 2, 2), (300, 2, 5), (36_000, 2, 10), (36_000, 60, 60)])
def test_a_long_training_is_told_about_more_seldom(age: float, shortest: float, interval: float) -> None:
    assert compute_interval(age, shortest) == interval


@pytest.mark.parametrize(("seconds", "words"), [(0.4, "0s"), (59, "59s"), (130, "2m10s"), (3900, "1h05m")])
def test_durations_in_words(seconds: float, words: str) -> None:
    assert format_time_left(seconds) == words
