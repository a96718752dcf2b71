"""Recorded runs, read from a real database and over HTTP with equal results."""

import csv
import io
import json
import socket
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
import yaml

from support.results import RESULTS
from trainingtask_api import names
from trainingtask_cli.errors import CommandError, TemporaryError, UsageError
from trainingtask_cli.history import ENV_SERVER, ENV_TOKEN, open_source, parse_since
from trainingtask_cli.history_client import DatabaseRunSource, HttpRunSource, is_confidential, list_newest
from trainingtask_history.engine import open_history
from trainingtask_history.migrations.runner import migrate
from trainingtask_history.read_models import RunSummary
from trainingtask_history.rows import build_result_columns
from trainingtask_history.store import record, record_many
from trainingtask_history.tables import RunEvent, RunStatus, TrainingRun, run_id

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
RUNS = 7  # t0 to t6, the newest last


def a_run(number: int, **more: Any) -> TrainingRun:
    made = NOW - timedelta(hours=RUNS - number)
    values = {
        "id": run_id(f"uid-{number}", 1),
        "task_uid": f"uid-{number}",
        "namespace": "team-a" if number % 2 else "team-b",
        "name": f"t{number}",
        "attempt": 1,
        "dataset": "table",
        "model": "bert",
        "device": "cpu",
        "status": RunStatus.SUCCEEDED,
        "create_time": made,
        "start_time": made + timedelta(minutes=1),
        "finish_time": made + timedelta(minutes=3, seconds=10),
        "total_time": 130.0,
        "score": 0.5454,
        "spec": {"dataset": {"name": "table"}, "model": {"name": "bert"}, "training": {"seed": number}},
        **build_result_columns(RESULTS.model_copy(update={"warnings": ["rare labels were not learnt"]})),
    }
    return TrainingRun(**(values | more))


FAILED = {
    "status": RunStatus.FAILED,
    "error_reason": "OOMKilled",
    "error_message": "The trainer needed more than 48Mi.",
    "log_tail": "epoch 1\n\x1b[31mKilled\n",
    "score": None,
    "training_args": None,
    "training_result": None,
    "evaluate_result": None,
    "labels": {"team": "blue"},
    "node": "n1",
}


@pytest.fixture
def database(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path / 'history.db'}"
    engine = open_history(url)
    migrate(engine)
    record_many(engine, [a_run(number, **(FAILED if number == 3 else {})) for number in range(RUNS)])
    event = RunEvent(
        run_id=run_id("uid-3", 1),
        time=NOW - timedelta(hours=4) + timedelta(minutes=2),
        type="Failed",
        reason="OOMKilled",
        message="The trainer needed more than 48Mi.",
    )
    record(engine, a_run(3, **FAILED), events=[event])
    engine.dispose()
    return url


@pytest.fixture
def web(server: Any, database: str) -> Any:
    """A server that answers as the web app does, from the database."""
    source = DatabaseRunSource(database)

    def answer(_: str, path: str) -> tuple[int, Any]:
        url = urlsplit(path)
        query = dict(parse_qsl(url.query))
        _, _, rest = url.path.partition("/api/v1/runs")
        if not rest:
            limit, cursor = int(query.pop("limit")), query.pop("cursor", None)
            try:
                items, following = source.list_page(query, limit, cursor)
            except UsageError as error:
                return 422, {"detail": str(error)}
            return 200, {"items": items, "next": following}
        key, _, part = rest.strip("/").partition("/")
        run = source.get_run(uuid.UUID(key))
        if run is None:
            return 404, {"detail": "There is no such run, or it is not yours to see."}
        return 200, {"items": source.get_events(uuid.UUID(key))} if part == "events" else run

    server.respond = answer
    return server


@pytest.fixture(params=["database", "server"])
def where(request: pytest.FixtureRequest, database: str) -> str:
    """The option that names the history."""
    if request.param == "database":
        return f"--database={database}"
    return f"--server={request.getfixturevalue('web').url}/"


Cli = Callable[..., Any]


def names_in(result: Any) -> list[str]:
    assert result.exit_code == 0, result.stderr
    return [row["name"] for row in csv.DictReader(io.StringIO(result.stdout))]


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ([], ["t6", "t5", "t4", "t3", "t2", "t1", "t0"]),
        (["-n", "team-a"], ["t5", "t3", "t1"]),
        (["--state", "Failed"], ["t3"]),
        (["--dataset", "table", "--model", "bert", "--limit", "2"], ["t6", "t5"]),
        (["--dataset", "other"], []),
        (["--label", "team=blue"], ["t3"]),
        (["--since", "2026-05-04T09:00:00+00:00"], ["t6", "t5", "t4"]),
        (["--text", "oomkilled 48Mi"], ["t3"]),
    ],
)
def test_runs_are_filtered(filters: list[str], found: list[str], cli: Cli, where: str) -> None:
    assert names_in(cli("history", where, *filters, "-o", "csv")) == found


def test_history_prints_a_table(cli: Cli, where: str) -> None:
    result = cli("history", where, "--limit", "4")
    header, *lines = result.stdout.splitlines()
    assert header.split() == [
        "NAMESPACE",
        "NAME",
        "#",
        "STATE",
        "DATASET",
        "MODEL",
        "DEVICE",
        "SCORE",
        "TOOK",
        "AGE",
        "REASON",
        "RUN",
    ]
    assert [line.split()[1] for line in lines] == ["t6", "t5", "t4", "t3"]
    failed = lines[3].split()
    assert (failed[3], failed[7:9], failed[10:]) == ("Failed", ["-", "2m10s"], ["OOMKilled", str(run_id("uid-3", 1))])
    assert result.stderr == "These are the newest 4; --limit shows more.\n"
    nothing = cli("history", where, "--model", "none")
    assert (nothing.exit_code, nothing.stdout, nothing.stderr) == (0, "", "no run fits\n")


def test_history_prints_the_columns_as_json_yaml_and_csv(cli: Cli, where: str) -> None:
    runs = json.loads(cli("history", where, "--limit", "2", "-o", "json").stdout)
    assert [list(run) for run in runs] == [list(RunSummary.model_fields)] * 2
    assert (runs[0]["name"], runs[0]["score"], runs[0]["create_time"]) == ("t6", 0.5454, "2026-05-04T11:00:00Z")
    assert yaml.safe_load(cli("history", where, "--limit", "2", "-o", "yaml").stdout) == runs
    one = json.loads(cli("history", where, runs[0]["id"], "-o", "json").stdout)
    assert one["spec"]["training"] == {"seed": 6}
    [row] = csv.DictReader(io.StringIO(cli("history", where, runs[0]["id"], "-o", "csv").stdout))
    assert (row["name"], row["score"], row["error_reason"]) == ("t6", "0.5454", "")


def test_a_failed_run_shows_reason_and_log(cli: Cli, where: str) -> None:
    output = cli("history", where, str(run_id("uid-3", 1))).stdout
    lines = [line.split() for line in output.splitlines()]
    assert ["Reason:", "OOMKilled:", "The", "trainer", "needed", "more", "than", "48Mi."] in lines
    assert ["Labels:", "team=blue"] in lines
    assert "+2m" in output
    assert ["training.seed", "3"] in lines
    assert output.endswith("Last lines of the log\nepoch 1\n\ufffd[31mKilled\n")


def test_a_succeeded_run_shows_its_scores(cli: Cli, where: str) -> None:
    output = cli("history", where, str(run_id("uid-4", 1))).stdout
    lines = [line.split() for line in output.splitlines()]
    assert "Scores on 20 test rows, threshold 0.400 (global)" in output
    assert ["micro-F1", "0.545", "0.300", "0.000", "0.510-0.581"] in lines
    assert "! rare labels were not learnt" in output
    assert ["a|b", "7", "0.500", "0.600", "0.545", "-", "0.400"] in lines


def test_a_running_run_shows_its_progress(cli: Cli, database: str) -> None:
    engine = open_history(database)
    none = dict.fromkeys(("finish_time", "total_time", "score", "training_args", "training_result", "evaluate_result"))
    far = {"status": RunStatus.RUNNING, "phase": "Training", "step": 42, "total_steps": 100, "eta": "2m10s"}
    record(engine, a_run(9, **none, **far))
    engine.dispose()
    output = cli("history", f"--database={database}", str(run_id("uid-9", 1))).stdout
    assert "Training, step 42 of 100, 2m10s left" in output


def test_rows_of_another_release_are_shown(cli: Cli, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'other.db'}"
    engine = open_history(url)
    migrate(engine)
    scores = build_result_columns(RESULTS)["evaluate_result"]
    record(engine, a_run(1, evaluate_result={**scores, "calibration": {"ece": 0.1}}, spec={"new": {"part": 1}}))
    record(engine, a_run(2, evaluate_result={"f1": 0.5}, training_result={"warnings": "many"}, spec=None))
    engine.dispose()
    assert "micro-F1" in cli("history", f"--database={url}", str(run_id("uid-1", 1))).stdout
    assert "Task:" in cli("history", f"--database={url}", str(run_id("uid-2", 1))).stdout


def test_missing_runs_and_invalid_filters_are_named(cli: Cli, where: str) -> None:
    missing = cli("history", where, str(uuid.UUID(int=0)))
    assert (missing.exit_code, missing.stdout) == (1, "")
    assert "there is no run 00000000-0000-0000-0000-000000000000, or it is not yours to see" in missing.stderr
    for arguments, sentence in (
        (["t3"], "'t3' is no id of a run"),
        (["--state", "Lost"], "'Lost' is refused: Input should be 'Pending'"),
        (["--label", "team"], "label"),
        (["--since", "yesterday"], "--since 'yesterday': expected a time"),
        (["--limit", "0"], "Invalid value for '--limit'"),
        (["--server=http://x", "--database=sqlite:///x"], "exclude each other"),
    ):
        result = cli("history", *([] if "--server=http://x" in arguments else [where]), *arguments)
        assert (result.exit_code, result.stdout) == (2, ""), arguments
        assert sentence in result.stderr


def test_long_lists_are_read_page_by_page(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainingtask_cli.history_client._PAGE_SIZE", 3)
    source = DatabaseRunSource(database)
    for limit, more in ((3, True), (5, True), (7, False), (50, False)):
        runs, follows = list_newest(source, {}, limit)
        assert [run["name"] for run in runs] == [
            f"t{number}" for number in range(RUNS - 1, max(-1, RUNS - 1 - limit), -1)
        ]
        assert follows is more


def test_the_token_comes_from_flag_environment_or_kubeconfig(
    cli: Cli, web: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENV_SERVER, web.url)
    assert len(names_in(cli("history", "-o", "csv"))) == RUNS
    monkeypatch.setenv(ENV_TOKEN, "from-the-environment")
    cli("history")
    cli("history", "--token", "from-the-flag")
    assert {request.token for request in web.requests} == {"the-users-token", "from-the-environment", "from-the-flag"}


def test_a_kubeconfig_without_a_token_is_explained(cli: Cli, web: Any, kubeconfig: Path, make: SimpleNamespace) -> None:
    content = make.kubeconfig(web.url)
    content["users"] = [{"name": "me", "user": {}}]
    kubeconfig.write_text(yaml.safe_dump(content))
    result = cli("history", "--server", web.url)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "pass one by --token or TRAININGTASK_TOKEN" in result.stderr


@pytest.mark.parametrize(
    ("url", "safe"),
    [("https://runs.example.com", True), ("http://localhost:8000", True), ("http://127.0.0.1", True), ("http://[::1]:80/x", True), ("http://runs.example.com", False), ("http://localhost.example.com", False), ("runs.example.com", False)],
)  # fmt: skip
def test_the_kubeconfigs_token_is_not_sent_over_plain_http(url: str, safe: bool) -> None:
    assert is_confidential(url) is safe
    if not safe:
        with pytest.raises(CommandError, match="is not sent to"):
            open_source(url, None, None, lambda: pytest.fail("it is not even asked for"))
    assert isinstance(open_source(url, None, "given", lambda: None), HttpRunSource)


def test_a_proxy_gets_no_token_of_a_request_that_stays_on_this_machine(
    web: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")  # nobody is there: a request by way of it fails
    monkeypatch.delenv("NO_PROXY", raising=False)
    runs, _ = HttpRunSource(web.url, "the-users-token").list_page({}, 100, None)
    assert len(runs) == RUNS


def test_a_server_that_is_no_url_is_named(cli: Cli) -> None:
    for token in ([], ["--token=x"]):
        result = cli("history", "--server", "http://[x", *token)
        assert (result.exit_code, result.stderr) == (2, "error: --server 'http://[x' is no URL: Invalid IPv6 URL\n")


def test_the_history_can_be_named_by_the_environment(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="where is the history"):
        open_source(None, None, None, lambda: None)
    monkeypatch.setenv(names.ENV_HISTORY_URL, database)
    assert isinstance(open_source(None, None, None, lambda: None), DatabaseRunSource)
    assert isinstance(open_source("https://x", None, "t", lambda: None), HttpRunSource)
    monkeypatch.setenv(ENV_SERVER, "https://x")
    assert isinstance(open_source(None, None, "t", lambda: None), HttpRunSource)
    assert isinstance(open_source(None, database, None, lambda: None), DatabaseRunSource)


@pytest.mark.parametrize(
    ("code", "answer", "sentence"),
    [
        (401, {"detail": "Who are you?"}, "does not know who you are: pass a token"),
        (403, {"detail": "Not for you."}, "answered 403: Not for you."),
        (503, {"detail": "The history does not answer now."}, "answered 503: The history does not answer now."),
        (404, "404 page not found", "does not answer as the history does (404): check --server"),
        (200, "<html>a portal</html>", "does not answer as the history does: check --server"),
        (200, [1], "does not answer as the history does: check --server"),
        (302, "elsewhere", "does not answer as the history does (302): check --server"),
    ],
)
def test_each_error_response_is_one_sentence(code: int, answer: Any, sentence: str, cli: Cli, server: Any) -> None:
    server.respond = lambda method, path: (code, answer)
    for arguments in ([], [str(uuid.UUID(int=1))]):
        result = cli("history", "--server", server.url, *arguments)
        assert (result.exit_code, result.stdout) == (1, "")
        assert sentence in result.stderr
        assert result.stderr.count("\n") == 1


def test_an_unreachable_history_is_named(cli: Cli, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        for where, sentence in (
            (f"--server=http://127.0.0.1:{port}", "does not answer ([Errno 111] Connection refused): check --server"),
            (f"--database=postgresql://me:the-password@127.0.0.1:{port}/db", f"127.0.0.1:{port} did not answer"),
            (f"--database=sqlite:///{tmp_path / 'none.db'}", "there is no history in"),
            ("--database=mysql://x", "must start with postgresql:// or sqlite:///"),
            ("--server=nonsense", "does not answer (Request URL is missing"),
        ):
            result = cli("history", where, "--token=x")
            assert (result.exit_code, result.stdout) == (1, "")
            assert sentence in result.stderr
            assert "the-password" not in result.stderr
            assert result.stderr.count("\n") == 1
    assert not (tmp_path / "none.db").exists()


def test_a_database_without_a_history_is_named(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "empty.db").touch()
    result = cli("history", f"--database=sqlite:///{tmp_path / 'empty.db'}")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "no such table" in result.stderr


@pytest.mark.parametrize(
    ("text", "when"),
    [
        (None, None),
        ("90m", "2026-05-04T10:30:00+00:00"),
        ("12h", "2026-05-04T00:00:00+00:00"),
        ("7d", "2026-04-27T12:00:00+00:00"),
        ("2w", "2026-04-20T12:00:00+00:00"),
        ("2026-05-04T10:00:00+02:00", "2026-05-04T10:00:00+02:00"),
    ],
)
def test_since_is_a_time_or_an_age(text: str | None, when: str | None) -> None:
    assert parse_since(text, NOW) == when


@pytest.mark.parametrize("text", ["", "7", "d", "999999w", "7 days", "soon", "0001-01-01"])
def test_other_texts_for_since_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="expected a time such as"):
        parse_since(text, NOW)


def test_a_time_without_a_zone_is_local(monkeypatch: pytest.MonkeyPatch) -> None:
    text = parse_since("2026-05-04T10:00", NOW)
    assert text is not None
    assert datetime.fromisoformat(text) == datetime(2026, 5, 4, 10).astimezone()


def test_a_503_is_a_temporary_error(server: Any) -> None:
    server.respond = lambda method, path: (503, {"detail": "later"})
    with pytest.raises(TemporaryError):
        HttpRunSource(server.url, "t").list_page({}, 1, None)
