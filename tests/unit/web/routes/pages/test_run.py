"""The page of one run."""

import json
import uuid

from fastapi.testclient import TestClient
from sqlalchemy import Engine

from support.html import get_page, get_text, select
from support.sample_history import EMOTIONS, SampleHistory
from trainingtask_history.store import record
from trainingtask_history.tables import TrainingRun


def test_a_failed_run_shows_reason_and_next_step(browser: TestClient, sample: SampleHistory) -> None:
    tree = get_page(browser, f"/runs/{sample.get_run('emotions-bert-base', 1).id}")
    notice = get_text(select(tree, "section.notice")[0])
    assert notice.startswith("Why it failed OOMKilled The trainer passed its memory limit of 4Gi")
    assert "What to do: Raise resources.memory, or lower training.batchSize" in notice
    assert "ERROR OOMKilled" in select(tree, "pre.log")[0].text_content()
    events = [get_text(entry) for entry in select(tree, ".timeline .what")]
    assert events[0] == "Created"
    assert events[-1] == "Failed OOMKilled"
    others = select(tree, ".attempts li")
    assert [get_text(item)[:10] for item in others] == ["Attempt 1,", "Attempt 2 "]
    assert select(others[1], "a")[0].get("href") == f"/runs/{sample.get_run('emotions-bert-base', 2).id}"


def test_a_pending_run_shows_its_reason(browser: TestClient, sample: SampleHistory) -> None:
    notice = get_text(select(get_page(browser, f"/runs/{sample.get_run('queries-auto').id}"), "section.notice")[0])
    assert notice.startswith("Why it waits Unschedulable 0/6 nodes are available")
    assert notice.endswith("What to do: Wait, ask for less in resources, or ask the admin for nodes.")


def test_a_finished_run_shows_scores_facts_and_arguments(browser: TestClient, sample: SampleHistory) -> None:
    run = sample.get_run("emotions-bert-base", 2)
    tree = get_page(browser, f"/runs/{run.id}")
    assert [get_text(one) for one in select(tree, ".headline dt")] == ["micro-F1", "macro-F1", "mean average precision"]
    first = [get_text(cell) for cell in select(tree, "#run-scores tbody tr")[0]]
    assert first == [
        "micro-F1",
        f"{run.score:.3f}",
        f"{run.score - 0.014:.3f} to {run.score + 0.013:.3f}",
        "0.304",
        "0.000",
        "beats both",
    ]
    assert "37 of 5,427 test texts" in get_text(select(tree, "p.notice.warn")[0])
    labels = [get_text(row[0]) for row in select(tree, "table.labels tbody tr")]
    assert sorted(labels) == sorted(EMOTIONS)
    bars = [float(bar.get("width")) for bar in select(tree, "table.labels .bar rect:last-child")]
    assert bars == sorted(bars, reverse=True)
    assert bars[0] <= 100
    facts = {get_text(one[0]): get_text(one[1]) for one in select(tree, "#run-facts .facts > div")}
    assert (run.training_result or {})["data_fingerprint"] == facts["Data fingerprint"]
    assert facts["Training rows"] == "43,410"
    made = {get_text(one[0]): get_text(one[1]) for one in select(tree, "#run-arguments .facts > div")}
    assert (made["training.learningRate"], made["transformers"]) == ("5.0e-05", "5.23.0")
    assert not select(tree, "section.notice")


def test_the_errors_of_a_run_are_shown_and_can_be_downloaded(browser: TestClient, sample: SampleHistory) -> None:
    tree = get_page(browser, f"/runs/{sample.get_run('emotions-bert-base', 2).id}")
    assert get_text(select(tree, "#errors")[0]) == "Errors on 10,853 rows that the model was not trained on"
    [label] = select(tree, "table.errors tbody tr")
    assert [get_text(cell) for cell in label] == ["neutral", "640", "120", "702", "40"]
    [pair] = select(tree, "table.pairs tbody tr")
    assert [get_text(cell) for cell in pair] == ["approval", "neutral", "88"]
    files = [browser.get(str(link.get("href"))) for link in select(tree, "section[aria-labelledby=errors] a")]
    assert [answer.headers["Content-Disposition"] for answer in files] == [
        'attachment; filename="errors-by-label.csv"',
        'attachment; filename="label-pairs.csv"',
    ]
    assert [answer.text.splitlines() for answer in files] == [
        ["label,false_positives,suspected_missing,false_negatives,suspected_surplus", "neutral,640,120,702,40"],
        ["predicted,given,rows", "approval,neutral,88"],
    ]


def test_curves_are_embedded_as_json_svg_and_table(browser: TestClient, sample: SampleHistory) -> None:
    run = sample.get_run("emotions-bert-base", 2)
    tree = get_page(browser, f"/runs/{run.id}")
    drawn = json.loads(select(tree, "#curves-data")[0].text)
    assert [chart["title"] for chart in drawn] == ["Loss", "Mean average precision", "Learning rate"]
    for chart in drawn:
        assert len(chart["data"]) == 1 + len(chart["series"])
        assert len({len(line) for line in chart["data"]}) == 1
    stored = {
        point.step: point.value for point in sample.points if point.run_id == run.id and point.name == "training_loss"
    }
    loss = drawn[0]["data"]
    assert {step: value for step, value in zip(loss[0], loss[1], strict=True) if value is not None} == stored
    assert len(select(tree, "figure.chart .outline polyline")) == 4
    rows = select(select(tree, "#numbers table")[1], "tbody tr")
    assert len(rows) == 6


def test_commands_name_the_pods_of_the_task(browser: TestClient, sample: SampleHistory) -> None:
    run = sample.get_run("emotions-roberta-large-batch")
    tree = get_page(browser, f"/runs/{run.id}")
    commands = [command.text_content() for command in select(tree, "section[aria-labelledby=commands] pre")]
    assert commands[2] == f"kubectl logs -n ml-team -l trainingtask.dev/task-uid={run.task_uid} --tail=-1 -f"
    assert "kind: TrainingTask" in select(tree, "#yaml")[0].text_content()


def test_a_row_with_required_columns_only_has_a_page(own: tuple[Engine, TestClient]) -> None:
    engine, client = own
    run = TrainingRun(
        id=uuid.uuid4(), task_uid="u", namespace="n", name="bare", attempt=1, dataset="d", model="m", device="cpu", status="Running"
    )  # fmt: skip
    record(engine, run)
    tree = get_page(client, f"/runs/{run.id}")
    assert get_text(select(tree, "h1")[0]) == "bare"
    assert "None yet." in get_text(select(tree, "#run-curves")[0])
