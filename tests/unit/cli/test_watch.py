import io
from collections.abc import Callable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from trainingtask_cli.options import Format
from trainingtask_cli.parsing import get_state, parse_status
from trainingtask_cli.watch import (
    build_live_table,
    explain_failures,
    follow_tasks,
    format_line,
    get_percent,
    print_changes,
)

NOW = datetime(2026, 5, 4, 10, 7, 30, tzinfo=UTC)


def by_uid(*tasks: dict) -> dict:
    return {task["metadata"]["uid"]: task for task in tasks}


def test_it_ends_when_all_tasks_have_finished(make: SimpleNamespace) -> None:
    running, done = make.task("a", "Running"), make.task("a", "Succeeded")
    other = make.task("b", "Pending")
    changes = iter([by_uid(running), by_uid(running, other), by_uid(done, other), by_uid(done), by_uid(running)])
    states = [[(task["metadata"]["name"], get_state(task)) for task in state] for state in follow_tasks(changes, [])]
    assert states == [
        [("a", "Running")],
        [("a", "Running"), ("b", "Pending")],
        [("a", "Succeeded"), ("b", "Pending")],
        [("a", "Succeeded"), ("b", "Deleted")],
    ]


def test_only_the_named_tasks_are_waited_for(make: SimpleNamespace) -> None:
    changes = [by_uid(make.task("a", "Failed"), make.task("b", "Running"))]
    assert [[task["metadata"]["name"] for task in state] for state in follow_tasks(changes, ["a"])] == [["a"]]


def make_refused(make: SimpleNamespace, name: str) -> dict:
    message = "Namespace 'team-a' is not prepared."
    conditions = [
        make.condition(t, v, "NamespaceNotPrepared", message, 1)
        for t, v in (("Accepted", "False"), ("Stalled", "True"))
    ]
    return make.task(name, state="", reason="", conditions=conditions) | {
        "status": {"state": "Pending", "reason": "NamespaceNotPrepared", "conditions": conditions}
    }


def test_a_refused_task_is_not_waited_for(make: SimpleNamespace) -> None:
    changes = iter([by_uid(make.task("a")), by_uid(make_refused(make, "a")), by_uid(make.task("a", "Running"))])
    assert [[get_state(task) for task in state] for state in follow_tasks(changes, ["a"])] == [[""], ["Pending"]]


def test_each_task_that_has_not_succeeded_is_explained(make: SimpleNamespace) -> None:
    done, failed = make.task("done", "Succeeded"), make.task("failed", "Failed", reason="OOMKilled")
    tasks = by_uid(done, failed, make_refused(make, "refused"), make.task("gone", "Running"))
    *_, last = follow_tasks(iter([tasks, by_uid(failed, make_refused(make, "refused"))]), [])
    assert explain_failures(last) == (
        "failed has failed. OOMKilled: failed is Failed.\n"
        "gone was deleted before it had succeeded\n"
        "refused is refused. NamespaceNotPrepared: Namespace 'team-a' is not prepared."
    )
    assert explain_failures([done]) is None


def test_it_ends_when_there_are_no_tasks(make: SimpleNamespace) -> None:
    assert list(follow_tasks(iter([{}, by_uid(make.task("a"))]), [])) == [[]]


@pytest.mark.parametrize(
    ("state", "training", "line"),
    [
        ("", {}, "a: new"),
        ("Pending", {}, "a: Pending, Pending: a is Pending."),
        ("Running", {"phase": "Loading"}, "a: Running, Loading"),
        ("Running", {"phase": "Training", "progress": "42%", "eta": "2m10s"}, "a: Running, Training 42%, 2m10s left"),
        ("Succeeded", {"phase": "Done", "score": "0.545", "eta": None}, "a: Succeeded, score 0.545"),
        ("Failed", {"phase": "Failed"}, "a: Failed, Failed: a is Failed."),
    ],
)
def test_a_line_shows_progress_score_or_reason(make: SimpleNamespace, state: str, training: dict, line: str) -> None:
    fields = {"training": {"attempt": 1, **training}} if training else {}
    assert format_line(make.task("a", state, **fields), namespaces=False) == line


def test_a_line_is_printed_when_it_has_changed(make: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = make.task("a", "Running"), make.task("a", "Running", training=make.report())
    print_changes([[first], [first], [second], [second], [first]], Format.TABLE, namespaces=True)
    lines = [line.split("  ", 1)[1] for line in capsys.readouterr().out.splitlines()]
    assert [line.split(",")[1:2] for line in lines] == [[], [" Training 42%"], []]
    assert {line.split(":")[0] for line in lines} == {"team-a/a"}


def test_yaml_and_csv_have_a_document_or_row_per_change(
    make: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    states = [
        [make.task("a", "Running"), make.task("b", "Running")],
        [make.task("a", "Failed"), make.task("b", "Running")],
    ]
    print_changes(states, Format.CSV, namespaces=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("namespace,name,state,")
    assert [line.split(",")[1:3] for line in lines[1:]] == [["a", "Running"], ["b", "Running"], ["a", "Failed"]]
    print_changes(states, Format.YAML, namespaces=False)
    assert capsys.readouterr().out.count("---\n") == 3


@pytest.mark.parametrize(
    ("training", "expected"),
    [
        ({"step": 1, "totalSteps": 4, "progress": "99%"}, 25),
        ({"progress": "42%"}, 42),
        ({"progress": "soon"}, 0),
        ({"step": 1, "totalSteps": 0}, 0),
        ({}, 0),
    ],
)
def test_percent_is_computed_from_steps_or_progress(make: SimpleNamespace, training: dict, expected: float) -> None:
    task = make.task("a", "Running", training={"attempt": 1, "phase": "Training", **training})
    assert get_percent(parse_status(task)) == expected


def test_the_live_table_has_bars_and_times_left(make: SimpleNamespace) -> None:
    tasks = [make.task("a", "Running", training=make.report()), make.task("b", "Pending", reason="Unschedulable")]
    text = io.StringIO()
    Console(file=text, force_terminal=True, width=140, color_system=None).print(
        build_live_table(tasks, NOW, namespaces=False)
    )
    header, first, second = text.getvalue().splitlines()
    assert header.split() == ["NAME", "STATE", "PHASE", "PROGRESS", "EPOCH", "LOSS", "ETA", "SCORE", "AGE"]
    assert first.split()[:3] == ["a", "Running", "Training"]
    assert "━━━" in first
    assert first.split()[-6:] == ["42%", "2/3", "0.210", "2m10s", "-", "7m30s"]
    assert second.split()[:3] == ["b", "Pending", "Unschedulable"]


@pytest.mark.parametrize("form", ["table", "json", "csv"])
def test_watch_fails_as_a_named_task_does(
    cli: Callable[..., Any], server: Any, make: SimpleNamespace, form: str
) -> None:
    server.add(make.task("a", "Running"))
    server.add(make.task("b", "Succeeded"))
    failed = make.task("a", "Failed", reason="OOMKilled")
    server.watches.put([{"type": "MODIFIED", "object": failed}])
    result = cli("watch", "a", "b", "-o", form)
    assert (result.exit_code, result.stderr) == (1, "error: a has failed. OOMKilled: a is Failed.\n")
    assert "OOMKilled" in result.stdout
    assert cli("watch", "b").exit_code == 0
    assert cli("watch").exit_code == 0, "it shows what there is, and waits for none in particular"
