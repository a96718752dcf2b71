"""Queries of the history, on Postgres and on SQLite."""

from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from pydantic import ValidationError
from sqlalchemy import Engine, text

from support.run_rows import NOON, a_run, of_team_b
from trainingtask_history import queries
from trainingtask_history.access import ALL, AccessScope
from trainingtask_history.errors import HistoryError
from trainingtask_history.filters import RunFilter
from trainingtask_history.migrations.runner import migrate
from trainingtask_history.pagination import Page
from trainingtask_history.store import record, record_many
from trainingtask_history.tables import MetricPoint, RunEvent, run_id

TEAM_A = AccessScope(frozenset({"uid-of-team-a"}))
NOTHING = AccessScope(frozenset())


def get_names(page: Page) -> list[str]:
    return [run.name for run in page.items]


def read_pages(engine: Engine, scope: AccessScope, limit: int, wanted: RunFilter | None = None) -> list[list[str]]:
    pages, cursor = [], None
    while True:
        page = queries.list_runs(engine, scope, wanted, limit=limit, cursor=cursor)
        pages.append(get_names(page))
        cursor = page.next
        if cursor is None:
            return pages


def test_pages_are_exact_while_runs_are_added(engine: Engine) -> None:
    """New runs appear on top; later pages neither lose nor repeat a run, also among equal times."""
    same = NOON + timedelta(minutes=10)
    record_many(engine, [a_run(number, create_time=same) for number in range(10)])
    record_many(engine, [a_run(number) for number in range(10, 20)])
    before = get_names(queries.list_runs(engine, ALL, limit=500))
    assert len(set(before)) == 20

    seen, cursor, newer = [], None, 20
    while True:
        page = queries.list_runs(engine, ALL, limit=3, cursor=cursor)
        seen += get_names(page)
        record(engine, a_run(newer))
        newer += 1
        cursor = page.next
        if cursor is None:
            break
    assert seen == before
    assert get_names(queries.list_runs(engine, ALL, limit=1)) == [f"task-{newer - 1}"]


@pytest.mark.parametrize("count", [0, 1, 4, 5, 8])
def test_the_last_page_has_no_cursor(engine: Engine, count: int) -> None:
    record_many(engine, [a_run(number) for number in range(count)])
    pages = read_pages(engine, ALL, 4)
    assert [name for page in pages for name in page] == [f"task-{number}" for number in reversed(range(count))]
    assert len(pages) == max(1, -(-count // 4))


def test_a_run_without_create_time_is_not_listed(engine: Engine) -> None:
    """It has no position in the order, but can be read by its id."""
    run = a_run(1, create_time=None)
    record(engine, run)
    assert read_pages(engine, ALL, 4) == [[]]
    assert queries.get_run(engine, ALL, run.id) is not None


@pytest.mark.parametrize("cursor", ["", "x", "é", "MDAwMS0wMS0wMVQwMDowMDowMCsyMzowMCB4", "AAAA", "=" * 200])
def test_a_foreign_cursor_is_refused(engine: Engine, cursor: str) -> None:
    with pytest.raises(ValueError, match="the cursor is not one of this list"):
        queries.list_runs(engine, ALL, cursor=cursor)


FAILED = {
    "status": "Failed",
    "dataset": "table",
    "model": "knn",
    "namespace": "team-c",
    "name": "Weekly_report",
    "error_reason": "OOMKilled",
    "error_message": "The trainer needed more than 48Mi: größer, it's 100% _full_.",
    "labels": {"team": "blue", 'a"b\\c.d': "é=1", "empty": ""},
}


@pytest.mark.parametrize(
    ("wanted", "others"),
    [
        ({"namespace": "team-c"}, {"namespace": "team"}),
        ({"state": "Failed"}, {"state": "Cancelled"}),
        ({"dataset": "table"}, {"dataset": "Table"}),
        ({"model": "knn"}, {"model": "kn"}),
        ({"label": "team=blue"}, {"label": "team=blu"}),
        ({"label": "empty="}, {"label": "team="}),
        ({"label": 'a"b\\c.d=é'}, {"label": "a=é"}),
        ({"text": "oomk"}, {"text": "killed"}),
        ({"text": "NEEDED 48mi"}, {"text": "needed 49mi"}),
        ({"text": "weekly rep"}, {"text": "weekly=other"}),
        ({"text": "100% _full_"}, {"text": "10000%"}),
        ({"text": "report"}, {"text": "reports"}),
        ({"since": NOON + timedelta(minutes=5)}, {"since": NOON + timedelta(minutes=5, microseconds=1)}),
        (
            {"since": NOON + timedelta(seconds=270), "until": NOON + timedelta(minutes=6)},
            {"since": NOON + timedelta(seconds=270), "until": NOON + timedelta(minutes=5)},
        ),
        ({"state": "Failed", "dataset": "table", "text": "knn"}, {"state": "Succeeded", "dataset": "table"}),
    ],
)
def test_each_filter_selects_its_runs(engine: Engine, wanted: dict[str, Any], others: dict[str, Any]) -> None:
    labels = FAILED["labels"] | {'a"b\\c.d': "é"}  # type: ignore[operator]
    record_many(engine, [*(a_run(number) for number in range(5)), a_run(5, **(FAILED | {"labels": labels}))])
    assert read_pages(engine, ALL, 3, RunFilter(**wanted)) == [["Weekly_report"]]
    assert read_pages(engine, ALL, 3, RunFilter(**others)) == [[]]


@pytest.mark.parametrize(
    "wanted",
    [
        {"namespace": "a\0b"},
        {"label": "team"},
        {"label": "=x"},
        {"since": "2026-05-04T12:00:00"},
        {"until": "0001-01-01T00:00:00+14:00"},
        {"text": "x" * 201},
        {"owner": "ann"},
    ],
)
def test_an_invalid_filter_is_refused(wanted: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        RunFilter.model_validate(wanted)


@pytest.mark.parametrize("words", ["&", "a:* | b", "!!", "²", "日本", "'; drop", "\\", "é" * 200, "%", ":*"])
def test_any_search_text_is_accepted(engine: Engine, words: str) -> None:
    record(engine, a_run(1))
    assert get_names(queries.list_runs(engine, ALL, RunFilter(text=words))) in ([], ["task-1"])


MANY = frozenset(f"uid-{number}" for number in range(150))


@pytest.mark.parametrize(
    ("uids", "seen"),
    [
        (None, [6, 5, 4, 3, 2, 1, 0]),
        ((), []),
        (("uid-of-team-a",), [4, 2, 0]),
        (("uid-of-team-a", "uid-of-team-b"), [5, 4, 3, 2, 1, 0]),
        ((*MANY, "uid-of-team-b"), [5, 3, 1]),
        (("team-a",), []),
    ],
)
def test_each_scope_sees_its_own_runs_only(engine: Engine, uids: tuple[str, ...] | None, seen: list[int]) -> None:
    runs = [(a_run, of_team_b)[number % 2](number) for number in range(6)]
    runs.append(a_run(6, namespace_uid=None))  # not confirmed by the operator yet
    points = [MetricPoint(run_id=run.id, name="training_loss", step=1, value=1.0) for run in runs]
    events = [RunEvent(run_id=run.id, time=NOON, type="Accepted", reason="Accepted") for run in runs]
    record_many(engine, runs, points=points, events=events)
    scope = AccessScope(None if uids is None else frozenset(uids))
    theirs = [runs[number].id for number in seen]
    keys = [run.id for run in reversed(runs)]

    assert [run.id for run in queries.list_runs(engine, scope).items] == theirs
    assert [run.id for run in queries.list_runs(engine, scope, RunFilter(text="task"), limit=50).items] == theirs
    assert [run.id for run in queries.export_runs(engine, scope, RunFilter(), 100)] == theirs
    assert [run.id for run in queries.get_runs(engine, scope, keys)] == theirs
    assert set(queries.get_metrics(engine, scope, keys)) == set(theirs)
    for run in runs:
        is_theirs = run.id in theirs
        assert bool(queries.get_run(engine, scope, run.id)) is is_theirs
        assert bool(queries.get_events(engine, scope, run.id)) is is_theirs
        assert bool(queries.get_attempts(engine, scope, run.task_uid)) is is_theirs


def test_a_recreated_namespace_does_not_see_the_runs_of_the_earlier_one(engine: Engine) -> None:
    record_many(engine, [a_run(1), a_run(2, namespace_uid="uid-of-the-new-team-a")])
    assert get_names(queries.list_runs(engine, TEAM_A)) == ["task-1"]
    assert get_names(queries.list_runs(engine, AccessScope(frozenset({"uid-of-the-new-team-a"})))) == ["task-2"]
    assert queries.list_namespace_uids(engine) == {"uid-of-team-a", "uid-of-the-new-team-a"}


def test_no_namespaces_without_runs(engine: Engine) -> None:
    assert queries.list_namespace_uids(engine) == set()
    record(engine, a_run(1, namespace_uid=None))
    assert queries.list_namespace_uids(engine) == set()


def test_a_curve_is_downsampled_evenly_and_keeps_its_ends(engine: Engine) -> None:
    lengths = [1, 2, 3, 498, 499, 500, 501, 998, 999, 1000, 1001, 2496, 2497]
    runs = {length: a_run(length) for length in lengths}
    points = [
        MetricPoint(run_id=run.id, name="training_loss", step=10 * place, value=float(place))
        for length, run in runs.items()
        for place in range(length)
    ]
    record_many(engine, list(runs.values()), points=points)

    for most in (2, 3, 10, 500):
        found = queries.get_metrics(engine, ALL, [run.id for run in runs.values()], max_points=most)
        for length, run in runs.items():
            steps = [point.step for point in found[run.id]["training_loss"]]
            assert (steps[0], steps[-1]) == (0, 10 * (length - 1)), (length, most)
            assert len(steps) <= most, (length, most)
            gaps = {after - before for before, after in pairwise(steps[:-1])}
            assert len(gaps) <= 1, (length, most)
            if length <= most - 1:
                assert len(steps) == length, (length, most)
            elif most == 500:
                assert len(steps) > most // 2, (length, most)


def test_only_the_requested_curves_are_returned(engine: Engine) -> None:
    runs = [a_run(1), a_run(2)]
    points = [
        MetricPoint(run_id=run.id, name=name, step=1, value=2.0)
        for run in runs
        for name in ("training_loss", "learning_rate")
    ]
    record_many(engine, runs, points=points)
    assert queries.get_metrics(engine, ALL, [runs[0].id], names=["learning_rate"]) == {
        runs[0].id: {"learning_rate": [(1, 2.0)]}
    }


def test_attempts_and_events_are_ordered(engine: Engine) -> None:
    attempts = [a_run(1, id=run_id("uid-1", number), attempt=number) for number in (3, 1, 2)]
    key = run_id("uid-1", 1)
    events = [
        RunEvent(run_id=key, time=NOON + timedelta(seconds=second), type="Phase", reason=f"R{second}", message="m")
        for second in (2, 0, 1)
    ]
    record_many(engine, attempts, events=events)
    assert [run.attempt for run in queries.get_attempts(engine, ALL, "uid-1")] == [1, 2, 3]
    found = queries.get_events(engine, ALL, key)
    assert [(event.reason, event.time) for event in found] == [
        (f"R{second}", NOON + timedelta(seconds=second)) for second in (0, 1, 2)
    ]


def test_an_export_stops_at_its_limit(engine: Engine) -> None:
    record_many(engine, [a_run(number) for number in range(6)])
    found = [run.name for run in queries.export_runs(engine, ALL, RunFilter(), 4)]
    assert found == ["task-5", "task-4", "task-3", "task-2"]


def test_ping_fails_without_a_table(empty_history: Engine) -> None:
    migrate(empty_history)
    queries.ping(empty_history)
    with empty_history.begin() as connection:
        connection.execute(text("DROP TABLE run_event"))
    with pytest.raises(HistoryError, match="run_event"):
        queries.ping(empty_history)
