"""`kubectl trainingtask`, run by kubectl, from submission to deletion of a task."""

import base64
import csv
import io
import json
import os
import pty
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.kubectl import Kubectl, eventually, forward_port
from support.plugin import ENVIRONMENT, Cli, get_output, write_kubeconfig
from support.release import RELEASE, SYSTEM

FLAGS = (
    "--dataset=support_tickets",
    "--model=logistic_regression",
    "--set=resources.cpu=500m",
    "--set=dataset.sampleSize=300",
)


def split_lines(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


@pytest.fixture(scope="module")
def trained(cli: Cli, kubectl: Kubectl) -> Iterator[list[str]]:
    """Submit two tasks that differ in their seed, and watch them to their end; yield their names."""
    names = ["cli-a", "cli-b"]
    kubectl("delete", "trainingtask", *names, "--ignore-not-found")
    for name, seed in zip(names, (1, 2), strict=True):
        lines = get_output(cli("submit", f"--name={name}", *FLAGS, f"--set=training.seed={seed}")).splitlines()
        assert lines == [f"trainingtask {name} created", f"kubectl trainingtask watch {name} -n {kubectl.namespace}"]
    watched = get_output(cli("watch", *names))
    for name in names:
        mine = [line.split(f"{name}: ", 1)[1] for line in watched.splitlines() if f"  {name}: " in line]
        assert re.fullmatch(r"Succeeded, score 0\.\d{3}", mine[-1]), watched
    yield names
    kubectl("delete", "trainingtask", *names, "--ignore-not-found", "--wait=false")


def test_list_shows_what_kubectl_get_shows(cli: Cli, kubectl: Kubectl, trained: list[str]) -> None:
    of_kubectl, of_cli = split_lines(kubectl("get", "tt", *trained)), split_lines(get_output(cli("list")))
    assert of_cli[0] == of_kubectl[0]
    for line in of_kubectl[1:]:
        # Without the age, which changes.
        assert line[:-1] in [mine[:-1] for mine in of_cli]
    everywhere = split_lines(get_output(cli("list", "-A")))
    assert [kubectl.namespace, *of_kubectl[1][:-1]] in [line[:-1] for line in everywhere]


def test_json_and_yaml_equal_those_of_kubectl(cli: Cli, kubectl: Kubectl, trained: list[str]) -> None:
    task = kubectl.get("trainingtask", trained[0])
    assert json.loads(get_output(cli("describe", trained[0], "-o", "json"))) == task
    assert yaml.safe_load(get_output(cli("describe", trained[0], "-o", "yaml"))) == task
    assert task in json.loads(get_output(cli("list", "-o", "json")))["items"]
    rows = {row["name"]: row for row in csv.DictReader(io.StringIO(get_output(cli("list", "-o", "csv"))))}
    assert rows[trained[0]]["score"] == task["status"]["training"]["score"]
    assert json.loads(get_output(cli("watch", trained[0], "-o", "json"))) == task


def test_describe_shows_conditions_attempts_and_scores(cli: Cli, kubectl: Kubectl, trained: list[str]) -> None:
    text = get_output(cli("describe", trained[0]))
    evaluation = kubectl.status(trained[0])["training"]["results"]["evaluation"]
    lines = split_lines(text)
    assert ["State:", "Succeeded"] in lines
    assert [line[3] for line in lines if len(line) > 3 and "=" in line[3]][-1] in ("Complete=True", "Running=False")
    assert any(line[0] == "1" and line[-1].startswith(trained[0]) for line in lines if line)
    scores = next(line for line in lines if line[:1] == ["micro-F1"])
    assert scores[1:3] == [f"{evaluation['micro']['f1']:.3f}", f"{evaluation['labelPrior']['microF1']:.3f}"]
    for label in evaluation["perLabel"]:
        assert any(line[:2] == [label["label"], str(label["support"])] for line in lines)


def test_logs_are_the_trainers(cli: Cli, kubectl: Kubectl, trained: list[str]) -> None:
    [pod] = kubectl.pods(trained[0])
    log = kubectl("logs", pod["metadata"]["name"])
    assert "label prior" in log
    assert get_output(cli("logs", trained[0])) == log
    assert get_output(cli("logs", trained[0], "-f")) == log


def test_logs_of_a_task_without_a_pod_give_the_reason(cli: Cli, kubectl: Kubectl) -> None:
    get_output(cli("submit", "--name=cli-waits", *FLAGS, "--set=runPolicy.suspend=true"))
    try:
        eventually("Suspended", lambda: kubectl.condition("cli-waits", "Suspended").get("status") == "True")
        run = cli("logs", "cli-waits")
        assert (run.returncode, run.stdout) == (1, "")
        assert "cli-waits has no pod yet. SuspendedByUser: spec.runPolicy.suspend is true" in run.stderr
    finally:
        kubectl("delete", "trainingtask", "cli-waits", "--wait=false")


def test_compare_shows_the_seed_and_both_scores(cli: Cli, kubectl: Kubectl, trained: list[str]) -> None:
    lines = split_lines(get_output(cli("compare", *trained)))
    assert ["training.seed", "1", "2"] in lines
    scores = [kubectl.status(name)["training"]["score"] for name in trained]
    assert ["micro-F1", *scores] in lines


def test_a_retry_trains_again_and_scores_the_same(cli: Cli, kubectl: Kubectl, trained: list[str]) -> None:
    name = get_output(cli("retry", trained[0])).split()[1]
    try:
        assert name == f"{trained[0]}-2"
        # A terminal gets a table with bars, redrawn until the task has ended.
        with run_on_terminal("watch", name, f"--namespace={kubectl.namespace}") as (screen, _):
            drawn = screen()
        assert "\x1b[" in drawn
        assert "━" in drawn
        assert "Succeeded" in drawn
        assert kubectl.get("trainingtask", name)["spec"] == kubectl.get("trainingtask", trained[0])["spec"]
        assert "The specs are the same." in get_output(cli("compare", trained[0], name))
        assert kubectl.status(name)["training"]["score"] == kubectl.status(trained[0])["training"]["score"]
    finally:
        kubectl("delete", "trainingtask", name, "--ignore-not-found", "--wait=false")


def test_watch_fails_as_the_task_does(cli: Cli, kubectl: Kubectl) -> None:
    kubectl("delete", "trainingtask", "too-small", "--ignore-not-found")
    get_output(cli("submit", "--name=too-small", *FLAGS, "--set=resources.memory=48Mi", "--set=runPolicy.retries=0"))
    watched = cli("watch", "too-small")
    failed = kubectl.condition("too-small", "Failed")
    words = f"{failed['reason']}: {failed['message']}"
    assert (watched.returncode, watched.stderr) == (1, f"error: too-small has failed. {words}\n")
    assert watched.stdout.splitlines()[-1].endswith(f"too-small: Failed, {words}")
    kubectl("delete", "trainingtask", "too-small", "--wait=false")


def test_cancel_asks_before_it_deletes(cli: Cli, kubectl: Kubectl) -> None:
    get_output(cli("submit", "--name=cli-unwanted", *FLAGS, "--set=runPolicy.queueName=nowhere"))
    eventually("a Job", lambda: kubectl.jobs("cli-unwanted"))
    assert cli("cancel", "cli-unwanted").returncode == 2  # no terminal for the question
    for answer, code in (("n", 1), ("y", 0)):
        assert kubectl.get("trainingtask", "cli-unwanted")
        with run_on_terminal("cancel", "cli-unwanted", f"--namespace={kubectl.namespace}") as (screen, type_in):
            type_in(f"{answer}\n")
            drawn = screen(code)
        assert f"Delete this task in namespace {kubectl.namespace}" in drawn
    eventually("no Job", lambda: not kubectl.jobs("cli-unwanted"))
    deleted = cli("describe", "cli-unwanted")
    assert (deleted.returncode, deleted.stdout) == (1, "")
    assert "there is no TrainingTask 'cli-unwanted'" in deleted.stderr


@contextmanager
def run_on_terminal(*command: str) -> Iterator[tuple[Callable[..., str], Callable[[str], None]]]:
    """Run a command on a terminal; yield a function that reads it to its end, and one that types into it."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        ["kubectl", "trainingtask", *command],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**ENVIRONMENT, "TERM": "xterm"},
    )
    os.close(theirs)

    def read(code: int = 0) -> str:
        drawn = b""
        while True:
            try:
                piece = os.read(ours, 65_536)
            except OSError:  # Linux's sign of a closed other end
                piece = b""
            if not piece:
                break
            drawn += piece
        assert process.wait(timeout=120) == code, drawn.decode()
        return drawn.decode()

    try:
        yield read, lambda text: (os.write(ours, text.encode()), None)[1]
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def test_refusals_of_the_api_server_are_printed(cli: Cli) -> None:
    run = cli("submit", "--name=cli-nowhere", *FLAGS, "-n", "no-such-namespace")
    assert (run.returncode, run.stdout) == (1, "")
    assert (
        run.stderr
        == 'error: namespaces "no-such-namespace" not found: choose another namespace (-n), or have it created\n'
    )
    run = cli("submit", "--name=cli-long", *FLAGS, f"--set=dataset.volumeClaim={'x' * 254}", "--set=dataset.path=x")
    assert (run.returncode, run.stdout) == (1, "")


def test_missing_rights_and_bad_tokens_are_reported(cli: Cli, kubectl: Kubectl, tmp_path: Path) -> None:
    kubectl.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "cli-nobody"}})
    unauthorized = write_kubeconfig(kubectl, kubectl("create", "token", "cli-nobody").strip(), tmp_path)
    for command in (["list"], ["describe", "x"], ["submit", "--name=x", *FLAGS]):
        run = cli(*command, f"--kubeconfig={unauthorized}")
        assert (run.returncode, run.stdout) == (1, "")
        assert f'User "system:serviceaccount:{kubectl.namespace}:cli-nobody" cannot' in run.stderr
    run = cli("list", f"--kubeconfig={write_kubeconfig(kubectl, 'made-up', tmp_path)}")
    assert (run.returncode, run.stdout) == (1, "")
    assert "the API server does not know who you are: log in again" in run.stderr


@pytest.fixture(scope="module")
def deleted(cli: Cli, kubectl: Kubectl, trained: list[str]) -> dict[str, Any]:
    """Delete a trained task; return it as it was."""
    task = kubectl.get("trainingtask", trained[1])
    assert get_output(cli("cancel", trained[1], "--yes")) == f"trainingtask {trained[1]} deleted\n"
    return task


def test_the_history_keeps_a_deleted_task(cli: Cli, system: Kubectl, deleted: dict[str, Any]) -> None:
    name = deleted["metadata"]["name"]
    password = base64.b64decode(system.get("secret", f"{RELEASE}-postgres")["data"]["reader-password"]).decode()

    def history(*arguments: str) -> str:
        # One port-forward per command: it ends when the server closes an encrypted connection.
        with forward_port(SYSTEM, f"service/{RELEASE}-postgres", 5432) as port:
            # The reader role suffices.
            here = f"postgresql://trainingtask_reader:{password}@127.0.0.1:{port}/trainingtask"
            return get_output(cli("history", *arguments, environment={"TRAININGTASK_HISTORY_URL": here}))

    def final() -> list[list[str]] | None:
        return [line for line in split_lines(history("--text", name, "--state", "Succeeded")) if name in line] or None

    line = eventually("the row", final)[0]
    assert line[1:4] == [name, "1", "Succeeded"]
    assert line[7] == deleted["status"]["training"]["score"]
    shown = split_lines(history(line[-1]))
    assert ["training.seed", "2"] in shown
    assert ["micro-F1", line[7]] in [row[:2] for row in shown]
    run = json.loads(history(line[-1], "-o", "json"))
    assert run["task_uid"] == deleted["metadata"]["uid"]
    assert history("--model", "none") == ""


def test_the_web_app_shows_a_run_to_users_who_may_list_tasks(
    cli: Cli, kubectl: Kubectl, deleted: dict[str, Any], tmp_path: Path
) -> None:
    rbac = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "cli-reader"}}
    subject = {"kind": "ServiceAccount", "name": "cli-reader", "namespace": kubectl.namespace}
    rules = [{"apiGroups": ["trainingtask.dev"], "resources": ["trainingtasks"], "verbs": ["list"]}]
    kubectl.apply(
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "cli-reader"}},
        {**rbac, "kind": "Role", "rules": rules},
        {**rbac, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "cli-reader"}, "subjects": [subject]},
    )  # fmt: skip
    reader = write_kubeconfig(kubectl, kubectl("create", "token", "cli-reader").strip(), tmp_path)
    with forward_port(SYSTEM, f"service/{RELEASE}-web", 80) as port:
        where = (f"--server=http://127.0.0.1:{port}", f"--kubeconfig={reader}")

        def listed() -> dict[str, Any] | None:
            found = json.loads(get_output(cli("history", *where, "--text", deleted["metadata"]["name"], "-o", "json")))
            return next(
                (run for run in found if run["task_uid"] == deleted["metadata"]["uid"] and run["finish_time"]), None
            )

        run = eventually("the run", listed)
        assert f"{run['score']:.3f}" == deleted["status"]["training"]["score"]
        assert ["Task:", deleted["metadata"]["name"]] in split_lines(get_output(cli("history", run["id"], *where)))
        unauthorized = cli("history", where[0], "--token=made-up")
        assert (unauthorized.returncode, unauthorized.stdout) == (1, "")
        assert "does not know who you are" in unauthorized.stderr
