"""The list of runs."""

import re
from collections.abc import Callable
from datetime import datetime
from urllib.parse import parse_qs, urlsplit

import lxml.html
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine

from support.html import get_page, get_text, list_names, select
from support.run_rows import a_run
from support.sample_history import SampleHistory
from trainingtask_history.store import record, record_many
from trainingtask_history.tables import MetricPoint, RunStatus, TrainingRun


def test_a_line_has_all_columns(browser: TestClient, sample: SampleHistory) -> None:
    run = sample.get_run("emotions-bert-base", 2)
    row = select(get_page(browser, "/runs"), f'tr[data-run="{run.id}"]')[0]
    cells = {cell.get("class").split()[-1]: get_text(cell) for cell in row}
    assert cells["c-state"] == "Succeeded"
    assert cells["c-task"] == "emotions-bert-base attempt 2"
    assert cells["c-namespace"] == "ml-team"
    assert (cells["c-dataset"], cells["c-model"], cells["c-device"]) == ("go_emotions", "bert", "gpu")
    assert cells["c-score"] == f"{run.score:.3f}"
    assert re.search("[67]h ago$", cells["c-started"])
    label = select(row, ".spark")[0].get("aria-label")
    assert re.fullmatch(r"mean average precision from 0\.\d+ to 0\.\d+, highest 0\.\d+", label)
    assert len(select(row, ".spark polyline")[0].get("points").split()) == 6


def test_a_sparkline_has_at_most_30_points(own: tuple[Engine, TestClient]) -> None:
    engine, client = own
    run = a_run(1)
    curve = [MetricPoint(run_id=run.id, name="mean_average_precision", step=step, value=0.5) for step in range(400)]
    record(engine, run, points=curve)
    points = select(get_page(client, "/runs"), ".spark polyline")[0].get("points")
    assert 10 <= len(points.split()) <= 30


def test_each_state_has_a_label_and_an_icon(browser: TestClient) -> None:
    states = select(get_page(browser, "/runs?limit=200"), "td .state")
    shapes: dict[str, set[str]] = {}
    for state in states:
        drawn = "".join(lxml.html.tostring(part).decode() for part in select(state, "svg > *"))
        shapes.setdefault(get_text(state), set()).add(re.sub(r"\s+", "", drawn))
    assert set(shapes) == {state.value for state in RunStatus}
    assert all(len(drawn) == 1 for drawn in shapes.values())
    assert len({next(iter(drawn)) for drawn in shapes.values()}) == len(shapes)


def test_active_runs_show_progress(browser: TestClient, sample: SampleHistory) -> None:
    tree = get_page(browser, "/runs")
    row = select(tree, f'tr[data-run="{sample.get_run("emotions-roberta-large-batch").id}"]')[0]
    assert select(row, "progress")[0].get("value") in ("41", "42")
    assert re.search(r"Training 4[12]%, \d+m\d\ds left", get_text(row))
    assert select(tree, "[data-live][data-active]")


def test_the_page_refreshes_only_while_a_run_is_active(browser: TestClient) -> None:
    refresh = "head noscript meta[http-equiv=refresh]"
    active, still = get_page(browser, "/runs"), get_page(browser, "/runs?state=Succeeded")
    assert select(active, refresh)[0].get("content") == "10"
    assert not select(still, refresh)
    assert not select(still, "[data-active]")


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
def test_filters(browser: TestClient, sample: SampleHistory, query: str, fits: Callable[[TrainingRun], bool]) -> None:
    wanted = sorted(run.name for run in sample.runs if fits(run))
    assert wanted
    assert sorted(list_names(get_page(browser, f"/runs?limit=200&{query}"))) == wanted


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
    tree = get_page(client, "/runs?since=2026-05-04&until=2026-05-05")
    assert sorted(list_names(tree)) == ["first", "last"]
    assert [select(tree, f"#f-{name}")[0].get("value") for name in ("since", "until")] == ["2026-05-04", "2026-05-05"]
    assert list_names(get_page(client, "/runs?since=2026-05-04T12:00:00Z")) == ["after", "last"]


def test_the_form_shows_the_filters_of_the_address(browser: TestClient) -> None:
    form = select(get_page(browser, "/runs?state=Failed&namespace=ml-team&text=cuda&label=team%3Dml"), "form.filters")[
        0
    ]
    assert form.get("method") == "get"
    filled = {name: value for name, value in form.form_values() if value}
    assert filled == {"state": "Failed", "namespace": "ml-team", "text": "cuda", "label": "team=ml"}
    assert select(form, "details[open]")  # a filter that counts is in sight


@pytest.mark.parametrize(
    ("query", "problem"),
    [("state=Lost", "state: "), ("label=nothing", "label: 'nothing' is refused"), ("since=yesterday", "since: ")],
)
def test_an_invalid_filter_is_explained(browser: TestClient, query: str, problem: str) -> None:
    tree = get_page(browser, f"/runs?{query}", 422)
    assert get_text(select(tree, "[role=alert]")[0]).startswith(problem)
    assert list_names(tree) == []


def test_older_pages_keep_the_filters(browser: TestClient, sample: SampleHistory) -> None:
    seen: list[str] = []
    address = "/runs?state=Succeeded&limit=20"
    for number in range(3):
        tree = get_page(browser, address)
        links = {get_text(link): link.get("href") for link in select(tree, "nav.pages a")}
        assert ("Newest runs" in links) == (number > 0)
        seen += list_names(tree)
        if number < 2:
            address = links["Older runs"]
            query = parse_qs(urlsplit(address).query)
            assert (query["state"], query["limit"]) == (["Succeeded"], ["20"])
    assert "Older runs" not in links
    wanted = [run for run in sample.runs if run.status == "Succeeded"]
    assert sorted(seen) == sorted(run.name for run in wanted)
    assert seen == [run.name for run in sorted(wanted, key=lambda run: run.create_time or sample.now, reverse=True)]


@pytest.mark.parametrize("query", ["cursor=nonsense", "limit=0", "limit=5000", "limit=many"])
def test_an_invalid_query_is_explained(browser: TestClient, query: str) -> None:
    tree = get_page(browser, f"/runs?{query}", 422)
    assert get_text(select(tree, "h1")[0]) == "Not understood"
    assert query.partition("=")[0] in get_text(select(tree, "main")[0])


def test_an_empty_history_shows_a_first_task(own: tuple[Engine, TestClient]) -> None:
    tree = get_page(own[1], "/runs")
    assert get_text(select(tree, "main h2")[0]) == "No runs yet"
    assert "kind: TrainingTask" in select(tree, "#first-task")[0].text_content()
    assert "kubectl apply" in get_text(select(tree, "#first-command")[0])


def test_no_match_differs_from_an_empty_history(browser: TestClient) -> None:
    tree = get_page(browser, "/runs?namespace=nowhere")
    assert get_text(select(tree, "main h2")[0]) == "No runs match these filters"
    assert not select(tree, "#first-task")
