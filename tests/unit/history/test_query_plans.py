"""How Postgres answers each question that the history is asked, over 300,000 runs: by an index, touching few rows.

The plans are those of the very statements that `reading` sends, with their values; the rows are counted by executing
them.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Engine, event

from support.many_runs import LONG, RUNS, key_of, seed
from support.postgres import Postgres
from trainingtask_history import queries
from trainingtask_history.access import ALL, AccessScope
from trainingtask_history.engine import open_history
from trainingtask_history.filters import RunFilter
from trainingtask_history.migrations.runner import migrate

LIMIT = 50
_BIG = ("training_run", "metric_point")

Plan = dict[str, Any]


@pytest.fixture(scope="module")
def many(postgres_server: Postgres) -> Iterator[Engine]:
    name = postgres_server.create_database()
    engine = open_history(postgres_server.url(name, name, name))
    migrate(engine)
    seed(engine)
    yield engine
    engine.dispose()
    postgres_server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def recorded(engine: Engine) -> Iterator[list[tuple[str, Any]]]:
    sent: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool) -> None:
        sent.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(engine, "before_cursor_execute", note)


def scans(plan: Plan) -> Iterator[Plan]:
    if "Scan" in plan["Node Type"]:
        yield plan
    for part in plan.get("Plans", []):
        yield from scans(part)


def rows_touched(plan: Plan) -> int:
    """Return how many rows are fetched; a bitmap's scan of its index fetches none."""
    looked_at = ("Actual Rows", "Rows Removed by Filter", "Rows Removed by Index Recheck")
    return sum(
        round(sum(scan.get(name, 0) for name in looked_at) * scan["Actual Loops"])
        for scan in scans(plan)
        if scan["Node Type"] != "Bitmap Index Scan"
    )


def touched(engine: Engine, question: Callable[[Engine], object]) -> int:
    """Return how many rows a question's statements touch; none of them reads a big table from end to end.

    But one that takes any single row, to see whether there is a table.
    """
    with recorded(engine) as sent:
        question(engine)
    assert sent
    total = 0
    for statement, parameters in sent:
        with engine.connect() as connection:
            explained = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", parameters)
            plan = explained.scalar_one()[0]["Plan"]
        for scan in scans(plan) if plan["Node Type"] != "Limit" or plan["Plan Rows"] > 1 else ():
            assert scan["Node Type"] != "Seq Scan" or scan["Relation Name"] not in _BIG, plan
        total += rows_touched(plan)
    return total


def of(*numbers: int) -> AccessScope:
    names = {f"uid-{number}": f"team-{number}" for number in numbers}
    return AccessScope(frozenset(names), names)


ASKERS = {
    "all": ALL,
    "biggest": of(0),
    "small": of(300),
    "two": of(0, 250),
    "sixty": of(*range(1, 61)),
    "most": of(*range(200)),
    "without-runs": of(1000),
}
FILTERS: dict[str, dict[str, Any]] = {
    "none": {},
    "namespace-common": {"namespace": "team-0"},
    "namespace-rare": {"namespace": "team-300"},
    "namespace-absent": {"namespace": "nowhere"},
    "state-common": {"state": "Succeeded"},
    "state-frequent": {"state": "Failed"},
    "state-rare": {"state": "Running"},
    "state-absent": {"state": "Suspended"},
    "dataset-common": {"dataset": "go_emotions"},
    "dataset-absent": {"dataset": "other"},
    "model-common": {"model": "bert"},
    "model-rare": {"model": "xlnet"},
    "label-common": {"label": "team=team-3"},
    "label-rare": {"label": "team=rare"},
    "label-absent": {"label": "team=nobody"},
    "since": {"since": datetime(2026, 2, 1, tzinfo=UTC)},
    "until": {"until": datetime(2025, 1, 2, tzinfo=UTC)},
    "between": {"since": datetime(2025, 6, 1, tzinfo=UTC), "until": datetime(2025, 6, 2, tzinfo=UTC)},
    "text-everywhere": {"text": "task"},
    "text-common": {"text": "trainer needed"},
    "text-rare": {"text": "zebra"},
    "text-one": {"text": "task 123456"},
    "text-absent": {"text": "okapi"},
    "several": {"state": "Failed", "dataset": "table", "model": "bert", "text": "oomkilled"},
}


# One percent of the table, for a person with sixty namespaces and a value that few of the runs in them have.
FEW = RUNS // 100
# To find the newest of those with some words, all that have them are fetched at most.
MATCHES = dict.fromkeys(("text-common", "several"), RUNS // 13 + LIMIT)


@pytest.mark.parametrize("principal", ASKERS)
@pytest.mark.parametrize("wanted", FILTERS)
def test_a_page_of_a_list_reads_few_rows(many: Engine, principal: str, wanted: str) -> None:
    run_filter = RunFilter(**FILTERS[wanted])
    fetched = touched(many, lambda engine: queries.list_runs(engine, ASKERS[principal], run_filter, limit=LIMIT))
    assert fetched <= MATCHES.get(wanted, FEW)


def test_a_late_page_costs_as_much_as_the_first(many: Engine) -> None:
    page = queries.list_runs(many, ALL, RunFilter(until=datetime(2025, 2, 1, tzinfo=UTC)))
    assert touched(many, lambda engine: queries.list_runs(engine, ALL, cursor=page.next)) <= 2 * LIMIT
    assert touched(many, lambda engine: queries.list_runs(engine, of(0, 1, 2), cursor=page.next)) <= 8 * LIMIT


@pytest.mark.parametrize("principal", ["all", "biggest", "sixty", "most"])
def test_one_run_reads_its_own_rows_only(many: Engine, principal: str) -> None:
    visible = ASKERS[principal]
    newest = key_of(RUNS)
    assert touched(many, lambda engine: queries.get_run(engine, visible, newest)) <= 1
    assert touched(many, lambda engine: queries.get_attempts(engine, visible, f"task-uid-{RUNS}")) <= 1
    assert touched(many, lambda engine: queries.get_events(engine, visible, newest)) <= 20


@pytest.mark.parametrize("principal", ["all", "biggest", "sixty", "most"])
def test_curves_read_their_own_points_only(many: Engine, principal: str) -> None:
    """Of a long curve all points are read, of 50 short ones theirs; nobody else's."""
    visible = ASKERS[principal]
    long, short = key_of(RUNS), [key_of(RUNS - number) for number in range(1, 51)]
    names = ["mean_average_precision"]
    # Each point passes a scan of the table and one of the subquery that numbers them.
    assert touched(many, lambda engine: queries.get_metrics(engine, visible, [long])) <= 2 * LONG + 500
    assert (
        touched(many, lambda engine: queries.get_metrics(engine, visible, short, names=names, max_points=30)) <= 7_000
    )


def test_namespace_uids_are_read_by_index_steps(many: Engine) -> None:
    assert len(queries.list_namespace_uids(many)) == 400
    assert touched(many, queries.list_namespace_uids) <= 4 * 400


def test_ping_reads_one_row_per_table(many: Engine) -> None:
    assert touched(many, queries.ping) <= 3
