"""The commands from the outside: output, errors and exit codes."""

import csv
import io
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

Cli = Callable[..., Any]
READING = [["list"], ["watch", "a"], ["describe", "a"], ["compare", "a", "b"], ["logs", "a"]]
WRITING = [["cancel", "a", "--yes"], ["retry", "a"], ["submit", "--name=a", "--dataset=support_tickets", "--model=knn"]]


def respond_always(server: Any, code: int, answer: Any) -> None:
    server.respond = lambda method, path: (code, answer)


@pytest.mark.parametrize(
    "command",
    [["describe"], ["watch"], ["compare", "a"], ["logs"], ["cancel", "--yes"], ["retry"], ["download"], ["predict"]],
    ids=lambda command: command[0],
)
def test_an_empty_name_is_refused_before_a_request(command: list[str], cli: Cli, server: Any) -> None:
    result = cli(*command, "")
    assert (result.exit_code, server.requests) == (2, [])
    assert "the name of a task cannot be empty" in result.stderr


@pytest.mark.parametrize("command", [*READING, *WRITING], ids=lambda command: command[0])
class TestRefused:
    """Each command ends with one sentence, whatever fails."""

    def test_forbidden(self, command: list[str], cli: Cli, server: Any, make: SimpleNamespace) -> None:
        message = 'trainingtasks.trainingtask.dev is forbidden: User "me" cannot list resource "trainingtasks"'
        respond_always(server, 403, make.status(403, "Forbidden", message))
        result = cli(*command)
        assert (result.exit_code, result.stdout) == (1, "")
        assert (
            result.stderr
            == f"error: {message}: ask whoever runs the cluster for that right, or name another namespace (-n)\n"
        )

    def test_unauthorized(self, command: list[str], cli: Cli, server: Any, make: SimpleNamespace) -> None:
        respond_always(server, 401, make.status(401, "Unauthorized", "Unauthorized"))
        result = cli(*command)
        assert (result.exit_code, result.stdout) == (1, "")
        assert "does not know who you are: log in again" in result.stderr

    def test_without_the_crd(self, command: list[str], cli: Cli, server: Any) -> None:
        respond_always(server, 404, "404 page not found\n")
        result = cli(*command)
        assert (result.exit_code, result.stdout) == (1, "")
        assert "this cluster has no TrainingTasks: install the chart" in result.stderr

    def test_unavailable(self, command: list[str], cli: Cli, server: Any) -> None:
        respond_always(server, 503, "<html><body>\n<h1>Busy</h1></body></html>")
        result = cli(*command)
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr == (
            "error: the API server cannot answer now (503: <html><body> <h1>Busy</h1></body></html>): try again in a moment\n"
        )

    def test_not_an_api_server(self, command: list[str], cli: Cli, server: Any) -> None:
        respond_always(server, 200, "<html>a portal</html>")
        result = cli(*command)
        assert (result.exit_code, result.stdout) == (1, "")
        assert "does not answer as an API server does: check --context" in result.stderr

    def test_unreachable(self, command: list[str], cli: Cli, kubeconfig: Path, make: SimpleNamespace) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{probe.getsockname()[1]}"
            kubeconfig.write_text(yaml.safe_dump(make.kubeconfig(url)))
            result = cli(*command)
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.startswith(
            f"error: the API server at {url} does not answer ([Errno 111] Connection refused): check"
        )
        assert result.stderr.count("\n") == 1

    def test_tls_error(
        self, command: list[str], cli: Cli, kubeconfig: Path, server: Any, make: SimpleNamespace
    ) -> None:
        kubeconfig.write_text(yaml.safe_dump(make.kubeconfig(server.url.replace("http:", "https:"))))
        result = cli(*command)
        assert (result.exit_code, result.stdout) == (1, "")
        assert "no secure connection to the API server at https://127.0.0.1" in result.stderr
        assert result.stderr.count("\n") == 1

    def test_without_a_kubeconfig(self, command: list[str], cli: Cli, tmp_path: Path) -> None:
        result = cli(*command, f"--kubeconfig={tmp_path / 'none'}")
        assert (result.exit_code, result.stdout) == (1, "")
        assert f"the kubeconfig {tmp_path / 'none'} cannot be used: there is no such file" in result.stderr


@pytest.mark.parametrize("command", [["watch", "a"], ["describe", "a"], ["compare", "a", "b"], ["logs", "a"], ["cancel", "a", "-y"], ["retry", "a"]], ids=lambda c: c[0])  # fmt: skip
def test_a_missing_task_is_named(command: list[str], cli: Cli) -> None:
    result = cli(*command)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "there is no TrainingTask 'a' in namespace 'team-a': `kubectl trainingtask list -A`" in result.stderr


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (["list", "-o", "xml"], "Invalid value for '-o' / '--output'"),
        (["list", "--wrong"], "No such option"),
        (["describe"], "Missing argument 'NAME'"),
        (["watch", "a", "-A"], "names and -A exclude each other"),
        (["compare", "a", "a"], "2 to 10 different names"),
        (["compare", *(f"t{number}" for number in range(11))], "2 to 10 different names"),
        (["cancel", "a"], "add --yes"),
        (["submit", "--dataset=x"], "add --name"),
        (["submit", "--name=a", "--epochs=many"], "Invalid value for '--epochs'"),
        (["submit", "--name=a", "--set=x"], "expected path.to.field=value"),
        (["dance"], "No such command 'dance'"),
    ],
)
def test_wrong_arguments_end_with_2(
    command: list[str], sentence: str, cli: Cli, server: Any, make: SimpleNamespace
) -> None:
    server.add(make.task("a"))
    result = cli(*command)
    assert (result.exit_code, result.stdout) == (2, "")
    assert sentence in result.stderr
    assert all(request.method == "GET" for request in server.requests)


def test_an_error_steers_no_terminal(cli: Cli, server: Any, make: SimpleNamespace) -> None:
    """Its words may be those of another user's trainer."""
    status = {"kind": "Status", "message": "no \x1b]52;c;cm0=\x07", "code": 403}
    respond_always(server, 403, status)
    for command in (["list"], ["describe", "a"], ["logs", "a"]):
        result = cli(*command)
        assert "no \ufffd]52;c;cm0=\ufffd" in result.stderr
        assert "\x1b" not in result.stderr


def test_a_task_that_is_nested_deep_hides_no_other(cli: Cli, server: Any, make: SimpleNamespace) -> None:
    items = json.dumps([make.task("a"), make.task("b", training=make.result(arguments={"x": "DEEP"}))])
    deep = items.replace('"DEEP"', '{"a":' * 9000 + "1" + "}" * 9000)
    server.respond = lambda *_: (200, f'{{"metadata": {{"resourceVersion": "1"}}, "items": {deep}}}')
    assert [line.split()[0] for line in cli("list").stdout.splitlines()] == ["NAME", "a", "b"]
    shown = yaml.safe_load(cli("list", "-o", "yaml").stdout)
    assert [task["metadata"]["name"] for task in shown["items"]] == ["a", "b"]


def test_list_shows_tasks(cli: Cli, server: Any, make: SimpleNamespace) -> None:
    server.add(make.task("a", "Running", training=make.report()))
    server.add(make.task("b", "Succeeded", training=make.result(), namespace="team-b"))
    lines = cli("list").stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [["NAME", "STATE"], ["a", "Running"]]
    assert [line.split()[0] for line in cli("list", "-n", "team-b").stdout.splitlines()] == ["NAME", "b"]
    all_namespaces = cli("list", "-A").stdout
    assert [line.split()[:3] for line in all_namespaces.splitlines()[1:]] == [
        ["team-a", "a", "Running"],
        ["team-b", "b", "Succeeded"],
    ]
    assert "\x1b" not in all_namespaces


@pytest.mark.parametrize(
    "options", [["-n", "team-b"], ["--namespace=team-b"], ["--namespace", "team-b", "--context=here"]]
)
def test_common_options_may_precede_the_command(
    options: list[str], cli: Cli, server: Any, make: SimpleNamespace
) -> None:
    server.add(make.task("b", namespace="team-b"))
    assert cli(*options, "list", "-o", "csv").stdout.splitlines()[1].startswith("team-b,b,")
    assert cli(*options).exit_code == 2
    assert cli("-n").exit_code == 2


def test_an_empty_list_is_reported(cli: Cli) -> None:
    for arguments, where in (
        (["list"], "in namespace team-a"),
        (["list", "-A"], "in any namespace"),
        (["watch"], "in namespace team-a"),
    ):
        result = cli(*arguments)
        assert (result.exit_code, result.stdout, result.stderr) == (0, "", f"no TrainingTasks {where}\n")
    assert json.loads(cli("list", "-o", "json").stdout)["items"] == []
    assert cli("list", "-o", "csv").stdout.startswith("namespace,name,")


def test_json_yaml_and_csv_have_the_unchanged_objects(cli: Cli, server: Any, make: SimpleNamespace) -> None:
    task = make.task("a", "Succeeded", training=make.result(), fromALaterRelease={"x": 1})
    server.add(task)
    plain = {**task, "metadata": {k: v for k, v in task["metadata"].items() if k != "managedFields"}}
    listed = json.loads(cli("list", "-o", "json").stdout)
    assert (listed["kind"], listed["items"]) == ("TrainingTaskList", [plain])
    assert yaml.safe_load(cli("list", "-o", "yaml").stdout) == listed
    assert json.loads(cli("describe", "a", "-o", "json").stdout) == plain
    assert yaml.safe_load(cli("describe", "a", "-o", "yaml").stdout) == plain
    assert json.loads(cli("watch", "a", "-o", "json").stdout) == plain
    for command in (["list"], ["describe", "a"], ["watch", "a"]):
        [row] = csv.DictReader(io.StringIO(cli(*command, "-o", "csv").stdout))
        assert (row["name"], row["state"], row["score"], row["node"]) == ("a", "Succeeded", "0.545", "")


def test_watch_prints_changes_until_the_end(cli: Cli, server: Any, make: SimpleNamespace) -> None:
    server.add(make.task("a"))
    server.add(make.task("b", "Running"))
    changes = [make.task("a", "Running", training=make.report()), make.task("a", "Succeeded", training=make.result())]
    server.watches.put([{"type": "MODIFIED", "object": task} for task in changes])
    result = cli("watch", "a")
    assert [line.split("  ", 1)[1] for line in result.stdout.splitlines()] == [
        "a: new",
        "a: Running, Training 42%, epoch 2 of 3, step 42 of 100, loss 0.2100, 12.5 rows/s, 2m10s left",
        "a: Succeeded, score 0.545",
    ]
    assert result.exit_code == 0


@pytest.mark.parametrize(("names", "code", "output"), [([], 0, ("", "")), (["a"], 130, ("", ""))])
def test_ctrl_c_ends_watch(
    names: list[str], code: int, output: tuple[str, str], kubeconfig: Path, server: Any, make: SimpleNamespace
) -> None:
    server.add(make.task("a", "Running"))
    command = [sys.executable, "-m", "trainingtask_cli", "watch", *names]
    # A shell's background processes ignore the signal, and this child would inherit that.
    foreground = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=foreground,  # noqa: PLW1509 - sets a signal, no more
    ) as watching:
        assert watching.stdout is not None
        assert watching.stdout.readline().endswith("a: Running\n")
        watching.send_signal(signal.SIGINT)
        assert watching.communicate(timeout=120) == output
    assert watching.returncode == code
    server.watches.put([])  # ends the watch on the server


def test_describe_prints_all_sections(cli: Cli, server: Any, make: SimpleNamespace) -> None:
    server.add(make.task("a", "Succeeded", training=make.result()))
    output = cli("describe", "a").stdout
    for words in (
        "State:",
        "Conditions",
        "Complete=True",
        "Scores on 20 test rows",
        "LABEL PRIOR",
        "Warnings",
        "Labels",
        "a|b",
    ):
        assert words in output
    assert "\x1b" not in output
    assert not any(line.endswith(" ") for line in output.splitlines())


def test_compare_prints_differences_and_warns_of_other_data(cli: Cli, server: Any, make: SimpleNamespace) -> None:
    server.add(make.task("a", "Succeeded", training=make.result(0.5)))
    server.add(make.task("b", "Succeeded", training=make.result(0.6), spec={"training__seed": 7}))
    server.add(make.task("c", "Succeeded", training=make.result(0.6, dataFingerprint="0" * 64)))
    result = cli("compare", "a", "b")
    assert ["training.seed", "42", "7"] in [line.split() for line in result.stdout.splitlines()]
    assert ["micro-F1", "0.500", "0.600"] in [line.split() for line in result.stdout.splitlines()]
    assert result.stderr.startswith("note: `trainingtask-trainer compare MODEL MODEL` says")
    assert "The specs are the same." in cli("compare", "a", "c").stdout
    assert "did not have the same data" in cli("compare", "a", "c").stderr
    rows = {row[0]: row[1:] for row in csv.reader(io.StringIO(cli("compare", "a", "b", "-o", "csv").stdout))}
    assert rows["field"] == ["a", "b"]
    assert rows["spec.training.seed"] == ["42", "7"]
    assert rows["micro-F1"] == ["0.5", "0.6"]
    listed = json.loads(cli("compare", "a", "b", "-o", "json").stdout)
    assert [item["metadata"]["name"] for item in listed["items"]] == ["a", "b"]


def test_logs_copies_the_newest_pods(cli: Cli, server: Any, make: SimpleNamespace) -> None:
    task = server.add(make.task("a", "Running"))
    labels = {"trainingtask.dev/task-uid": task["metadata"]["uid"]}
    pod = {
        "metadata": {"name": "a-1", "labels": labels, "creationTimestamp": "2026-05-04T10:00:00Z"},
        "status": {"phase": "Running"},
    }
    server.pods.append(pod)
    server.logs["a-1"] = b"epoch 1\nepoch 2\n"
    assert cli("logs", "a").stdout == "epoch 1\nepoch 2\n"
    assert cli("logs", "a", "-f").stdout == "epoch 1\nepoch 2\n"
    assert "follow=true" in server.requests[-1].path
    gone = make.status(404, "NotFound", 'pods "a-1" not found', name="a-1", kind="pods")
    server.respond = lambda method, path: (404, gone) if "/log?" in path else None
    assert 'pods "a-1" not found: the pod is gone, `kubectl trainingtask history` keeps' in cli("logs", "a").stderr
    server.respond = lambda method, path: None
    server.logs["a-1"] = b""
    silent = cli("logs", "a")
    assert (silent.exit_code, silent.stdout) == (0, "")
    assert silent.stderr == "pod a-1 has written nothing. Running: a is Running.\n"
    pod["status"]["phase"] = "Pending"
    result = cli("logs", "a")
    assert (result.exit_code, result.stderr) == (
        1,
        "error: pod a-1 has not started, so it has no log yet. Running: a is Running.\n",
    )


@pytest.mark.parametrize(
    ("state", "more", "sentence"),
    [
        ("", {}, "a has no pod yet. The operator has not looked at it yet"),
        ("Pending", {"reason": "Unschedulable"}, "a has no pod yet. Unschedulable: a is Pending."),
        ("Running", {"startTime": "2026-05-04T10:00:00Z"}, "a has no pod any more. `kubectl trainingtask history"),
        ("Failed", {}, "a has no pod any more. `kubectl trainingtask history"),
    ],
)
def test_logs_explains_a_missing_pod(
    state: str, more: dict, sentence: str, cli: Cli, server: Any, make: SimpleNamespace
) -> None:
    server.add(make.task("a", state, **more))
    result = cli("logs", "a")
    assert (result.exit_code, result.stdout) == (1, "")
    assert sentence in result.stderr


def test_cancel_deletes_all_or_nothing(cli: Cli, server: Any, make: SimpleNamespace) -> None:
    server.add(make.task("a", "Running"))
    server.add(make.task("b", "Succeeded"))
    assert cli("cancel", "a", "c", "--yes").exit_code == 1
    assert len(server.tasks) == 2
    result = cli("cancel", "a", "b", "a", "--yes")
    assert (result.exit_code, result.stdout) == (0, "trainingtask a deleted\ntrainingtask b deleted\n")
    assert server.tasks == {}


def test_retry_creates_the_same_spec_under_a_new_name(cli: Cli, server: Any, make: SimpleNamespace) -> None:
    old = server.add(make.task("a", "Failed", spec={"runPolicy__suspend": True}))
    server.add(make.task("a-2"))
    result = cli("retry", "a")
    assert result.stdout == "trainingtask a-3 created with the spec of a\nkubectl trainingtask watch a-3 -n team-a\n"
    assert "it is suspended, as its spec says" in result.stderr
    assert server.tasks["team-a", "a-3"]["spec"] == old["spec"]


def test_submit_creates_what_a_dry_run_shows(cli: Cli, server: Any) -> None:
    flags = ["submit", "--name=a", "--dataset=go_emotions", "--model=bert", "--checkpoint=x/y", "--device=gpu", "--epochs=2", "--batch-size=8", "--learning-rate=5e-5", "--set=training.seed=7"]  # fmt: skip
    shown = yaml.safe_load(cli(*flags, "--dry-run").stdout)
    assert shown["spec"] == {
        "dataset": {"name": "go_emotions"},
        "model": {"name": "bert", "checkpoint": "x/y"},
        "training": {"epochs": 2, "batchSize": 8, "learningRate": 5e-5, "seed": 7},
        "device": "gpu",
    }
    assert server.requests == []
    result = cli(*flags)
    assert result.stdout == "trainingtask a created\nkubectl trainingtask watch a -n team-a\n"
    assert server.get_bodies() == [shown]
    again = cli(*flags)
    assert again.exit_code == 1
    assert "there is a TrainingTask 'a' in namespace 'team-a' already" in again.stderr


def test_submit_uses_the_namespace_of_the_file(cli: Cli, server: Any, make: SimpleNamespace, tmp_path: Path) -> None:
    file = tmp_path / "task.yaml"
    text = yaml.safe_dump(make.task("a", namespace="team-b"))
    file.write_text(text)
    assert cli("submit", "-f", str(file)).stdout.endswith("watch a -n team-b\n")
    assert cli("submit", "-f", "-", "--name=b", stdin=text).stdout.startswith("trainingtask b created\n")
    assert set(server.tasks) == {("team-b", "a"), ("team-b", "b")}
    assert cli("submit", "-f", str(file), "-n", "team-c").exit_code == 2
    missing = cli("submit", "-f", str(tmp_path / "none.yaml"))
    assert missing.exit_code == 1
    assert "none.yaml cannot be read: " in missing.stderr


@pytest.mark.parametrize(
    ("code", "reason", "message", "sentence"),
    [
        (422, "Invalid", 'TrainingTask "a" is invalid: spec: too late', 'refuses it: TrainingTask "a" is invalid: spec: too late'),
        (400, "BadRequest", "strict decoding error", "refuses it: strict decoding error"),
        (404, "NotFound", 'namespaces "team-a" not found', 'namespaces "team-a" not found: choose another namespace'),
        (409, "Conflict", "being deleted", "being deleted: it has changed meanwhile"),
        (418, "Teapot", "short and stout", "answered 418 to `create trainingtasks`: short and stout"),
    ],
)  # fmt: skip
def test_submit_prints_the_api_servers_message(
    code: int, reason: str, message: str, sentence: str, cli: Cli, server: Any, make: SimpleNamespace
) -> None:
    respond_always(server, code, make.status(code, reason, message, name="team-a", kind="namespaces"))
    result = cli("submit", "--name=a", "--dataset=support_tickets", "--model=knn")
    assert (result.exit_code, result.stdout) == (1, "")
    assert sentence in result.stderr


def test_help_imports_no_heavy_modules() -> None:
    code = (
        "import sys; sys.argv = ['x', '--help']\n"
        "from trainingtask_cli.__main__ import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "Usage: kubectl trainingtask [OPTIONS] COMMAND" in output
    assert not {"kubernetes", "pydantic", "sqlalchemy", "alembic", "torch", "httpx"} & set(
        eval(output.splitlines()[-1])
    )


def test_list_imports_no_database_modules(server: Any, kubeconfig: Path) -> None:
    code = (
        "import sys; sys.argv = ['x', 'list']\n"
        "from trainingtask_cli.__main__ import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"sqlalchemy", "alembic", "torch", "httpx", "psycopg"} & set(eval(output.splitlines()[-1]))
