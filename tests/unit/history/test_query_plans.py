"""Query plans of Postgres over 300,000 runs: each query reads few rows, by an index.

The plans are of the statements that `queries` sends, with their values; EXPLAIN ANALYZE counts the rows.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Engine, event

from support.many_runs import POINTS_OF_NEWEST, RUNS, key_of, seed
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
def record_statements(engine: Engine) -> Iterator[list[tuple[str, Any]]]:
    sent: list[tuple[str, Any]] = []

    def append(_connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool) -> None:
        if not statement.startswith("SET LOCAL"):
            sent.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", append)
    try:
        yield sent
    finally:
        event.remove(engine, "before_cursor_execute", append)


def find_scans(plan: Plan) -> Iterator[Plan]:
    if "Scan" in plan["Node Type"]:
        yield plan
    for part in plan.get("Plans", []):
        yield from find_scans(part)


def count_plan_rows(plan: Plan) -> int:
    """Return the number of rows that a plan fetches; a bitmap index scan fetches none."""
    counters = ("Actual Rows", "Rows Removed by Filter", "Rows Removed by Index Recheck")
    return sum(
        round(sum(scan.get(name, 0) for name in counters) * scan["Actual Loops"])
        for scan in find_scans(plan)
        if scan["Node Type"] != "Bitmap Index Scan"
    )


def count_rows(engine: Engine, query: Callable[[Engine], object]) -> int:
    """Return the number of rows that a query fetches; fail if it scans a big table sequentially.

    Except for a statement that selects any single row.
    """
    with record_statements(engine) as sent:
        query(engine)
    assert sent
    total = 0
    for statement, parameters in sent:
        with engine.connect() as connection:
            explained = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", parameters)
            plan = explained.scalar_one()[0]["Plan"]
        for scan in find_scans(plan) if plan["Node Type"] != "Limit" or plan["Plan Rows"] > 1 else ():
            assert scan["Node Type"] != "Seq Scan" or scan["Relation Name"] not in _BIG, plan
        total += count_plan_rows(plan)
    return total


def make_scope(*numbers: int) -> AccessScope:
    names = {f"uid-{number}": f"team-{number}" for number in numbers}
    return AccessScope(frozenset(names), names)


SCOPES = {
    "all": ALL,
    "biggest": make_scope(0),
    "small": make_scope(300),
    "two": make_scope(0, 250),
    "sixty": make_scope(*range(1, 61)),
    "most": make_scope(*range(200)),
    "without-runs": make_scope(1000),
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


# One percent of the table, for a scope of sixty namespaces and a value that few of their runs have.
FEW = RUNS // 100
# A search by text may fetch all matches to find the newest.
MATCHES = dict.fromkeys(("text-common", "several"), RUNS // 13 + LIMIT)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("wanted", FILTERS)
def test_a_page_of_a_list_reads_few_rows(many: Engine, scope: str, wanted: str) -> None:
    run_filter = RunFilter(**FILTERS[wanted])
    fetched = count_rows(many, lambda engine: queries.list_runs(engine, SCOPES[scope], run_filter, limit=LIMIT))
    assert fetched <= MATCHES.get(wanted, FEW)


def test_a_late_page_costs_as_much_as_the_first(many: Engine) -> None:
    page = queries.list_runs(many, ALL, RunFilter(until=datetime(2025, 2, 1, tzinfo=UTC)))
    assert count_rows(many, lambda engine: queries.list_runs(engine, ALL, cursor=page.next)) <= 2 * LIMIT
    assert (
        count_rows(many, lambda engine: queries.list_runs(engine, make_scope(0, 1, 2), cursor=page.next)) <= 8 * LIMIT
    )


@pytest.mark.parametrize("scope", ["all", "biggest", "sixty", "most"])
def test_one_run_reads_its_own_rows_only(many: Engine, scope: str) -> None:
    newest = key_of(RUNS)
    assert count_rows(many, lambda engine: queries.get_run(engine, SCOPES[scope], newest)) <= 1
    assert count_rows(many, lambda engine: queries.get_attempts(engine, SCOPES[scope], f"task-uid-{RUNS}")) <= 1
    assert count_rows(many, lambda engine: queries.get_events(engine, SCOPES[scope], newest)) <= 20


@pytest.mark.parametrize("scope", ["all", "biggest", "sixty", "most"])
def test_curves_read_their_own_points_only(many: Engine, scope: str) -> None:
    """One long curve and 50 short ones are read, and no points of other runs."""
    long, short = key_of(RUNS), [key_of(RUNS - number) for number in range(1, 51)]
    names = ["mean_average_precision"]
    # Each point is counted twice: in the scan of the table and of the numbering subquery.
    assert (
        count_rows(many, lambda engine: queries.get_metrics(engine, SCOPES[scope], [long]))
        <= 2 * POINTS_OF_NEWEST + 500
    )
    assert (
        count_rows(many, lambda engine: queries.get_metrics(engine, SCOPES[scope], short, names=names, max_points=30))
        <= 7_000
    )


def test_namespace_uids_are_read_by_index_steps(many: Engine) -> None:
    assert len(queries.list_namespace_uids(many)) == 400
    assert count_rows(many, queries.list_namespace_uids) <= 4 * 400


def test_ping_reads_one_row_per_table(many: Engine) -> None:
    assert count_rows(many, queries.ping) <= 3
