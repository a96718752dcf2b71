"""Several runs side by side."""

import json
import uuid

import pytest
from fastapi.testclient import TestClient

from support.html import every, page, text
from support.sample_history import EMOTIONS, Scene


def test_runs_side_by_side(browser: TestClient, scene: Scene) -> None:
    runs = [scene.named("emotions-bert-base", 2), scene.named("emotions-albert-00"), scene.named("emotions-bert-long")]
    tree = page(browser, f"/runs/compare?ids={','.join(str(run.id) for run in runs)}")
    assert [text(every(card, "a")[0]) for card in every(tree, ".cards > li")] == [run.name for run in runs]
    scores = {
        text(row[0]): [text(cell) for cell in row[1:]]
        for row in every(tree, "section[aria-labelledby=scores] tbody tr")
    }
    assert scores["micro-F1"] == [f"best: {runs[0].score:.3f}", f"{runs[1].score:.3f}", "—"]
    assert scores["loss less is better"][0].startswith("best: ")
    fields = {
        text(row[0]): [text(cell) for cell in row[1:]]
        for row in every(tree, "section[aria-labelledby=differences] tbody tr")
    }
    assert fields["model.name"] == ["bert", "albert", "bert"]
    assert "dataset.name" not in fields
    drawn = json.loads(every(tree, "#curves-data")[0].text)
    assert [series["label"] for series in drawn[0]["series"]] == [f"{letter} {run.name}" for letter, run in zip("ABC", runs, strict=True)]  # fmt: skip
    assert len(every(tree, "section[aria-labelledby=labels] tbody tr")) == len(EMOTIONS)
    without = every(every(tree, ".cards > li")[0], "a.sub")[0].get("href")
    assert without == f"/runs/compare?ids={runs[1].id},{runs[2].id}"


def test_the_forms_way_of_naming_runs_is_understood(browser: TestClient, scene: Scene) -> None:
    one, other = scene.runs[0].id, scene.runs[1].id
    tree = page(browser, f"/runs/compare?ids={one}&ids={other}&ids={one}")
    assert len(every(tree, ".cards > li")) == 2
    assert not every(tree, ".cards a.sub")  # a comparison of one is none


def test_runs_of_different_data_come_with_a_warning(browser: TestClient, scene: Scene) -> None:
    emotions = scene.named("emotions-bert-base", 2)
    tags = next(run for run in scene.runs if run.dataset == "cross_validated" and run.score)
    assert "not made of the same data" in text(page(browser, f"/runs/compare?ids={emotions.id},{tags.id}"))


@pytest.mark.parametrize("count", [0, 1, 11])
def test_two_to_ten_runs_can_be_compared(browser: TestClient, scene: Scene, count: int) -> None:
    ids = ",".join(str(run.id) for run in scene.runs[:count])
    assert f"Choose 2 to 10 runs to compare: these are {count}." in text(page(browser, f"/runs/compare?ids={ids}", 422))


def test_runs_that_are_not_there_are_counted(browser: TestClient, scene: Scene) -> None:
    there, absent = scene.runs[0].id, [uuid.uuid4(), uuid.uuid4()]
    assert "2 of the runs asked for are not there" in text(
        page(browser, f"/runs/compare?ids={there},{absent[0]},{absent[1]}")
    )
    page(browser, f"/runs/compare?ids={absent[0]},{absent[1]}", 404)
