"""The page of one run."""

import json
import uuid

from fastapi.testclient import TestClient
from sqlalchemy import Engine

from support.html import every, page, text
from support.sample_history import EMOTIONS, Scene
from trainingtask_history.store import record
from trainingtask_history.tables import TrainingRun


def test_a_run_that_failed_says_why_and_what_to_do(browser: TestClient, scene: Scene) -> None:
    tree = page(browser, f"/runs/{scene.named('emotions-bert-base', 1).id}")
    notice = text(every(tree, "section.notice")[0])
    assert notice.startswith("Why it failed OOMKilled The trainer passed its memory limit of 4Gi")
    assert "What to do: Raise resources.memory, or lower training.batchSize" in notice
    assert "ERROR OOMKilled" in every(tree, "pre.log")[0].text_content()
    events = [text(entry) for entry in every(tree, ".timeline .what")]
    assert events[0] == "Created"
    assert events[-1] == "Failed OOMKilled"
    others = every(tree, ".attempts li")
    assert [text(item)[:10] for item in others] == ["Attempt 1,", "Attempt 2 "]
    assert every(others[1], "a")[0].get("href") == f"/runs/{scene.named('emotions-bert-base', 2).id}"


def test_a_run_that_waits_says_for_what(browser: TestClient, scene: Scene) -> None:
    notice = text(every(page(browser, f"/runs/{scene.named('queries-auto').id}"), "section.notice")[0])
    assert notice.startswith("Why it waits Unschedulable 0/6 nodes are available")
    assert notice.endswith("What to do: Wait, ask for less in resources, or ask the admin for nodes.")


def test_a_finished_run_shows_its_scores_and_how_it_came_to_them(browser: TestClient, scene: Scene) -> None:
    run = scene.named("emotions-bert-base", 2)
    tree = page(browser, f"/runs/{run.id}")
    assert [text(one) for one in every(tree, ".headline dt")] == ["micro-F1", "macro-F1", "mean average precision"]
    first = [text(cell) for cell in every(tree, "#run-scores tbody tr")[0]]
    assert first == ["micro-F1", f"{run.score:.3f}", "0.304", "0.000", "beats both"]
    assert "37 of 5,427 test texts" in text(every(tree, "p.notice.warn")[0])
    labels = [text(row[0]) for row in every(tree, "table.labels tbody tr")]
    assert sorted(labels) == sorted(EMOTIONS)
    bars = [float(bar.get("width")) for bar in every(tree, "table.labels .bar rect:last-child")]
    assert bars == sorted(bars, reverse=True)
    assert bars[0] <= 100
    facts = {text(one[0]): text(one[1]) for one in every(tree, "#run-facts .facts > div")}
    assert (run.training_result or {})["data_fingerprint"] == facts["Data fingerprint"]
    assert facts["Training rows"] == "43,410"
    made = {text(one[0]): text(one[1]) for one in every(tree, "#run-arguments .facts > div")}
    assert (made["training.learningRate"], made["transformers"]) == ("5.0e-05", "5.23.0")
    assert not every(tree, "section.notice")


def test_curves_are_there_for_the_script_and_for_people_without(browser: TestClient, scene: Scene) -> None:
    run = scene.named("emotions-bert-base", 2)
    tree = page(browser, f"/runs/{run.id}")
    drawn = json.loads(every(tree, "#curves-data")[0].text)
    assert [chart["title"] for chart in drawn] == ["Loss", "Mean average precision", "Learning rate"]
    for chart in drawn:
        assert len(chart["data"]) == 1 + len(chart["series"])
        assert len({len(line) for line in chart["data"]}) == 1
    stored = {
        point.step: point.value for point in scene.points if point.run_id == run.id and point.name == "training_loss"
    }
    loss = drawn[0]["data"]
    assert {step: value for step, value in zip(loss[0], loss[1], strict=True) if value is not None} == stored
    assert len(every(tree, "figure.chart .outline polyline")) == 4
    rows = every(every(tree, "#numbers table")[1], "tbody tr")
    assert len(rows) == 6


def test_commands_name_the_pods_of_the_task(browser: TestClient, scene: Scene) -> None:
    run = scene.named("emotions-roberta-large-batch")
    tree = page(browser, f"/runs/{run.id}")
    commands = [command.text_content() for command in every(tree, "section[aria-labelledby=commands] pre")]
    assert commands[2] == f"kubectl logs -n ml-team -l trainingtask.dev/task-uid={run.task_uid} --tail=-1 -f"
    assert "kind: TrainingTask" in every(tree, "#yaml")[0].text_content()


def test_a_row_with_nothing_but_its_name_has_a_page(own: tuple[Engine, TestClient]) -> None:
    engine, client = own
    run = TrainingRun(
        id=uuid.uuid4(), task_uid="u", namespace="n", name="bare", attempt=1, dataset="d", model="m", device="cpu", status="Running"
    )  # fmt: skip
    record(engine, run)
    tree = page(client, f"/runs/{run.id}")
    assert text(every(tree, "h1")[0]) == "bare"
    assert "None yet." in text(every(tree, "#run-curves")[0])
