"""The list of runs."""

import re
from collections.abc import Callable
from datetime import datetime
from urllib.parse import parse_qs, urlsplit

import lxml.html
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine

from support.html import every, names, page, text
from support.run_rows import a_run
from support.sample_history import Scene
from trainingtask_history.store import record, record_many
from trainingtask_history.tables import MetricPoint, RunStatus, TrainingRun


def test_a_line_says_all_there_is_to_see_at_once(browser: TestClient, scene: Scene) -> None:
    run = scene.named("emotions-bert-base", 2)
    row = every(page(browser, "/runs"), f'tr[data-run="{run.id}"]')[0]
    cells = {cell.get("class").split()[-1]: text(cell) for cell in row}
    assert cells["c-state"] == "Succeeded"
    assert cells["c-task"] == "emotions-bert-base attempt 2"
    assert cells["c-namespace"] == "ml-team"
    assert (cells["c-dataset"], cells["c-model"], cells["c-device"]) == ("go_emotions", "bert", "gpu")
    assert cells["c-score"] == f"{run.score:.3f}"
    assert cells["c-started"].endswith("6h ago")
    label = every(row, ".spark")[0].get("aria-label")
    assert re.fullmatch(r"mean average precision from 0\.\d+ to 0\.\d+, highest 0\.\d+", label)
    assert len(every(row, ".spark polyline")[0].get("points").split()) == 6


def test_a_sparkline_has_no_more_points_than_can_be_seen(own: tuple[Engine, TestClient]) -> None:
    engine, client = own
    run = a_run(1)
    curve = [MetricPoint(run_id=run.id, name="mean_average_precision", step=step, value=0.5) for step in range(400)]
    record(engine, run, points=curve)
    points = every(page(client, "/runs"), ".spark polyline")[0].get("points")
    assert 10 <= len(points.split()) <= 30


def test_states_have_a_word_and_a_shape(browser: TestClient) -> None:
    states = every(page(browser, "/runs?limit=200"), "td .state")
    shapes: dict[str, set[str]] = {}
    for state in states:
        drawn = "".join(lxml.html.tostring(part).decode() for part in every(state, "svg > *"))
        shapes.setdefault(text(state), set()).add(re.sub(r"\s+", "", drawn))
    assert set(shapes) == {state.value for state in RunStatus}
    assert all(len(drawn) == 1 for drawn in shapes.values())
    assert len({next(iter(drawn)) for drawn in shapes.values()}) == len(shapes)


def test_active_runs_tell_how_far_they_are(browser: TestClient, scene: Scene) -> None:
    tree = page(browser, "/runs")
    row = every(tree, f'tr[data-run="{scene.named("emotions-roberta-large-batch").id}"]')[0]
    assert every(row, "progress")[0].get("value") in ("41", "42")
    assert re.search(r"Training 4[12]%, \d+m\d\ds left", text(row))
    assert every(tree, "[data-live][data-active]")


def test_the_page_renews_itself_only_while_something_is_active(browser: TestClient) -> None:
    refresh = "head noscript meta[http-equiv=refresh]"
    active, still = page(browser, "/runs"), page(browser, "/runs?state=Succeeded")
    assert every(active, refresh)[0].get("content") == "10"
    assert not every(still, refresh)
    assert not every(still, "[data-active]")


@pytest.mark.parametrize(
    ("query", "fits"),
    [
        ("namespace=research", lambda run: run.namespace == "research"),
        ("state=Failed", lambda run: run.status == "Failed"),
        ("dataset=cross_validated&model=xlnet", lambda run: (run.dataset, run.model) == ("cross_validated", "xlnet")),
        ("label=team%3Dresearch", lambda run: run.labels["team"] == "research"),
        ("text=oom", lambda run: "OOM" in (run.error_reason or "")),
        ("text=+&state=&label=", lambda run: True),
    ],
)
def test_filters(browser: TestClient, scene: Scene, query: str, fits: Callable[[TrainingRun], bool]) -> None:
    wanted = sorted(run.name for run in scene.runs if fits(run))
    assert wanted
    assert sorted(names(page(browser, f"/runs?limit=200&{query}"))) == wanted


def test_a_day_begins_at_midnight_utc(own: tuple[Engine, TestClient]) -> None:
    engine, client = own
    times = {"before": "2026-05-03T23:59:59", "first": "2026-05-04T00:00:00", "last": "2026-05-04T23:59:59", "after": "2026-05-05T00:00:00"}  # fmt: skip
    record_many(
        engine,
        [
            a_run(number, name=name, create_time=datetime.fromisoformat(f"{time}+00:00"))
            for number, (name, time) in enumerate(times.items())
        ],
    )
    tree = page(client, "/runs?since=2026-05-04&until=2026-05-05")
    assert sorted(names(tree)) == ["first", "last"]
    assert [every(tree, f"#f-{name}")[0].get("value") for name in ("since", "until")] == ["2026-05-04", "2026-05-05"]
    assert names(page(client, "/runs?since=2026-05-04T12:00:00Z")) == ["after", "last"]


def test_the_form_shows_the_filters_of_the_address(browser: TestClient) -> None:
    form = every(page(browser, "/runs?state=Failed&namespace=ml-team&text=cuda&label=team%3Dml"), "form.filters")[0]
    assert form.get("method") == "get"
    filled = {name: value for name, value in form.form_values() if value}
    assert filled == {"state": "Failed", "namespace": "ml-team", "text": "cuda", "label": "team=ml"}
    assert every(form, "details[open]")  # a filter that counts is in sight


@pytest.mark.parametrize(
    ("query", "said"),
    [("state=Lost", "state: "), ("label=nothing", "label: 'nothing' is refused"), ("since=yesterday", "since: ")],
)
def test_a_filter_that_cannot_be_is_explained_and_kept(browser: TestClient, query: str, said: str) -> None:
    tree = page(browser, f"/runs?{query}", 422)
    assert text(every(tree, "[role=alert]")[0]).startswith(said)
    assert names(tree) == []


def test_older_runs_are_pages_that_keep_the_filters(browser: TestClient, scene: Scene) -> None:
    seen: list[str] = []
    address = "/runs?state=Succeeded&limit=20"
    for number in range(3):
        tree = page(browser, address)
        links = {text(link): link.get("href") for link in every(tree, "nav.pages a")}
        assert ("Newest runs" in links) == (number > 0)
        seen += names(tree)
        if number < 2:
            address = links["Older runs"]
            query = parse_qs(urlsplit(address).query)
            assert (query["state"], query["limit"]) == (["Succeeded"], ["20"])
    assert "Older runs" not in links
    wanted = [run for run in scene.runs if run.status == "Succeeded"]
    assert sorted(seen) == sorted(run.name for run in wanted)
    assert seen == [run.name for run in sorted(wanted, key=lambda run: run.create_time or scene.now, reverse=True)]


@pytest.mark.parametrize("query", ["cursor=nonsense", "limit=0", "limit=5000", "limit=many"])
def test_an_address_that_cannot_be_is_explained(browser: TestClient, query: str) -> None:
    tree = page(browser, f"/runs?{query}", 422)
    assert text(every(tree, "h1")[0]) == "Not understood"
    assert query.partition("=")[0] in text(every(tree, "main")[0])


def test_an_empty_page_says_how_to_begin(own: tuple[Engine, TestClient]) -> None:
    tree = page(own[1], "/runs")
    assert text(every(tree, "main h2")[0]) == "No runs yet"
    assert "kind: TrainingTask" in every(tree, "#first-task")[0].text_content()
    assert "kubectl apply" in text(every(tree, "#first-command")[0])


def test_no_match_is_another_text_than_no_runs(browser: TestClient) -> None:
    tree = page(browser, "/runs?namespace=nowhere")
    assert text(every(tree, "main h2")[0]) == "No runs match these filters"
    assert not every(tree, "#first-task")
