"""Several runs side by side."""

import json
import uuid

import pytest
from fastapi.testclient import TestClient

from support.html import get_page, get_text, select
from support.sample_history import EMOTIONS, SampleHistory


def test_runs_side_by_side(browser: TestClient, sample: SampleHistory) -> None:
    runs = [
        sample.get_run("emotions-bert-base", 2),
        sample.get_run("emotions-albert-00"),
        sample.get_run("emotions-bert-long"),
    ]
    tree = get_page(browser, f"/runs/compare?ids={','.join(str(run.id) for run in runs)}")
    assert [get_text(select(card, "a")[0]) for card in select(tree, ".cards > li")] == [run.name for run in runs]
    scores = {
        get_text(row[0]): [get_text(cell) for cell in row[1:]]
        for row in select(tree, "section[aria-labelledby=scores] tbody tr")
    }
    assert scores["micro-F1"] == [f"best: {runs[0].score:.3f}", f"{runs[1].score:.3f}", "—"]
    assert scores["loss less is better"][0].startswith("best: ")
    fields = {
        get_text(row[0]): [get_text(cell) for cell in row[1:]]
        for row in select(tree, "section[aria-labelledby=differences] tbody tr")
    }
    assert fields["model.name"] == ["bert", "albert", "bert"]
    assert "dataset.name" not in fields
    drawn = json.loads(select(tree, "#curves-data")[0].text)
    assert [series["label"] for series in drawn[0]["series"]] == [f"{letter} {run.name}" for letter, run in zip("ABC", runs, strict=True)]  # fmt: skip
    assert len(select(tree, "section[aria-labelledby=labels] tbody tr")) == len(EMOTIONS)
    without = select(select(tree, ".cards > li")[0], "a.sub")[0].get("href")
    assert without == f"/runs/compare?ids={runs[1].id},{runs[2].id}"


def test_repeated_ids_of_the_form_are_accepted(browser: TestClient, sample: SampleHistory) -> None:
    one, other = sample.runs[0].id, sample.runs[1].id
    tree = get_page(browser, f"/runs/compare?ids={one}&ids={other}&ids={one}")
    assert len(select(tree, ".cards > li")) == 2
    assert not select(tree, ".cards a.sub")  # a comparison of one is none


def test_runs_of_different_data_come_with_a_warning(browser: TestClient, sample: SampleHistory) -> None:
    emotions = sample.get_run("emotions-bert-base", 2)
    tags = next(run for run in sample.runs if run.dataset == "cross_validated" and run.score)
    assert "not made of the same data" in get_text(get_page(browser, f"/runs/compare?ids={emotions.id},{tags.id}"))


@pytest.mark.parametrize("count", [0, 1, 11])
def test_two_to_ten_runs_can_be_compared(browser: TestClient, sample: SampleHistory, count: int) -> None:
    ids = ",".join(str(run.id) for run in sample.runs[:count])
    assert f"Choose 2 to 10 runs to compare: these are {count}." in get_text(
        get_page(browser, f"/runs/compare?ids={ids}", 422)
    )


def test_missing_runs_are_counted(browser: TestClient, sample: SampleHistory) -> None:
    there, absent = sample.runs[0].id, [uuid.uuid4(), uuid.uuid4()]
    assert "2 of the runs asked for are not there" in get_text(
        get_page(browser, f"/runs/compare?ids={there},{absent[0]},{absent[1]}")
    )
    get_page(browser, f"/runs/compare?ids={absent[0]},{absent[1]}", 404)
