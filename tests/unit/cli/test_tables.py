import csv
from datetime import UTC, datetime
from io import StringIO
from types import SimpleNamespace

import pytest

from trainingtask_api.crd import PRINTER_COLUMNS
from trainingtask_cli.formatting import format_cell
from trainingtask_cli.output import print_sections, to_csv
from trainingtask_cli.tables import (
    build_task_row,
    build_task_table,
    compare_tasks,
    diff_specs,
    flatten_to_cells,
    has_same_data,
)

NOW = datetime(2026, 5, 4, 10, 7, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("cell", "text"),
    [(None, "-"), ("", "-"), (0, "0"), (0.5454, "0.545"), (1e-5, "1e-05"), (0.0, "0.000"), (12345.6, "12346"), (True, "true"), ("a\x1b[31m\x9bb\nc", "a\ufffd[31m\ufffdb\nc")],
)  # fmt: skip
def test_cells_are_rounded_and_escaped(cell: str | float | None, text: str) -> None:
    assert format_cell(cell) == text


def test_list_has_the_printer_columns(make: SimpleNamespace) -> None:
    table = build_task_table([make.task("a", "Running", training=make.report())], NOW, namespaces=False)
    expected = [column["name"].upper() for column in PRINTER_COLUMNS if "priority" not in column]
    assert list(table.columns) == ["NAME", *expected]
    assert table.rows == [("a", "Running", "support_tickets", "logistic_regression", "cpu", "42%", None, "7m30s")]


def test_list_names_the_namespace_when_there_are_several(make: SimpleNamespace) -> None:
    table = build_task_table([make.task("a", namespace="team-b")], NOW, namespaces=True)
    assert (table.columns[0], table.rows[0][:3]) == ("NAMESPACE", ("team-b", "a", None))


def test_a_csv_row_holds_numbers_and_times(make: SimpleNamespace) -> None:
    task = make.task("a", "Failed", reason="OOMKilled", attempt=2, node="n1", jobName="a-1", training=make.report())
    row = build_task_row(task)
    assert (row["namespace"], row["reason"], row["attempt"], row["step"], row["loss"]) == (
        "team-a",
        "OOMKilled",
        2,
        42,
        0.21,
    )
    assert (row["created"], row["finished"]) == ("2026-05-04T10:00:00Z", "2026-05-04T10:01:00+00:00")
    assert build_task_row({}).keys() == row.keys()
    assert to_csv(row, [row.values()]).splitlines()[1].startswith("team-a,a,Failed,OOMKilled,support_tickets,")


def test_no_cell_of_a_csv_is_a_formula() -> None:
    formulas = ["=1+1", "+1", "-1", "@A1", "\t=1", "\n=1"]
    cells = [*formulas, "\r=1", "a\r=1", "a=1", -1, None]
    (row,) = csv.reader(StringIO(to_csv([], [cells], header=False), newline=""))
    assert row == [*(f"'{cell}" for cell in formulas), "'\n=1", "a\n=1", "a=1", "-1", ""]


def test_objects_are_flattened_by_path() -> None:
    assert flatten_to_cells({"a": {"b": 1, "c": {"d": False}}, "e": [{"f": 1}], "g": {}, "h": None}) == {
        "a.b": 1, "a.c.d": False, "e": '[{"f": 1}]', "g": "{}", "h": "null",
    }  # fmt: skip


def test_only_different_paths_are_listed() -> None:
    one = {"model": {"name": "bert"}, "training": {"epochs": 3, "seed": 1}}
    two = {"model": {"name": "bert"}, "training": {"epochs": 4, "seed": 1}, "evaluation": {"threshold": 0.5}}
    assert diff_specs([one, two]) == [("training.epochs", 3, 4), ("evaluation.threshold", None, 0.5)]
    assert diff_specs([one, one]) == []
    assert diff_specs([{}, {}]) == []


def test_scores_are_listed_side_by_side(make: SimpleNamespace) -> None:
    tasks = [
        make.task("a", "Succeeded", training=make.result(0.5)),
        make.task("b", "Succeeded", training=make.result(0.75, dataFingerprint="e" * 64)),
        make.task("c", "Running", training=make.report(), spec={"model__name": "knn"}),
    ]
    spec, scores = compare_tasks(tasks)
    assert spec.rows == [("model.name", "logistic_regression", "logistic_regression", "knn")]
    rows = {row[0]: row[1:] for row in scores.rows}
    assert rows["state"] == ("Succeeded", "Succeeded", "Running")
    assert rows["micro-F1"] == (0.5, 0.75, None)
    assert rows["micro-F1 of the label prior"] == (0.3, 0.3, None)
    assert not has_same_data(scores)
    assert has_same_data(compare_tasks([tasks[0], tasks[0], tasks[2]])[1])


def test_without_a_terminal_nothing_is_coloured_cut_or_padded(
    make: SimpleNamespace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "20")
    long = make.task("a" * 63, "Failed", spec={"dataset__name": "[red]x[/red]"})
    print_sections(build_task_table([long], NOW, namespaces=True))
    header, line = capsys.readouterr().out.splitlines()
    assert header == header.rstrip()
    assert line.split() == [
        "team-a",
        "a" * 63,
        "Failed",
        "[red]x[/red]",
        "logistic_regression",
        "cpu",
        "-",
        "-",
        "7m30s",
    ]
