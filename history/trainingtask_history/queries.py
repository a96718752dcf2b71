"""Queries of the history: lists by keyset, single runs, their events and their curves, reduced to a number of points.

Each takes the caller's `AccessScope`, blocks, and raises `HistoryError` or `HistoryUnavailable`.
"""

import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import (
    JSON,
    Column,
    ColumnElement,
    DateTime,
    Engine,
    Row,
    Select,
    Text,
    and_,
    case,
    cast,
    func,
    literal,
    select,
    true,
    tuple_,
    union_all,
)

from trainingtask_history.access import AccessScope
from trainingtask_history.errors import translate_db_errors
from trainingtask_history.filters import RunFilter, build_conditions
from trainingtask_history.pagination import Page, decode_cursor, encode_cursor
from trainingtask_history.read_models import Event, Point, RunDetail, RunSummary
from trainingtask_history.tables import EVENTS, POINTS, RUNS

MAX_POINTS = 500  # of one curve
MAX_LIMIT = 500  # runs of one page
MAX_CURVES = 32  # of one run
MAX_EVENTS = 1000  # of one run
MAX_ATTEMPTS = 1000  # of one task
MAX_TEXT = 2**19  # characters of one column
MAX_JSON = 2**21  # characters of one column of JSON
MAX_PARTS = 100_000  # of one column's JSON, which grows in memory; the scores of 10,000 labels have 80,000
_FULL_ROWS = {JSON: 2, Text: 8}  # more rows share the limits of this many
# The range of datetime in any zone; Postgres has earlier and later times, and infinity.
_FIRST_TIME = datetime(1, 1, 2, tzinfo=UTC)
_LAST_TIME = datetime(9999, 12, 30, tzinfo=UTC)
_MAX_UNION = 100


def _bound_column(column: Column[Any], rows: int = 1) -> ColumnElement[Any]:
    """Return a column cut to its limits, NULL where Python cannot read the value: trainers write rows as they like."""
    kind = JSON if isinstance(column.type, JSON) else Text
    share = min(1.0, _FULL_ROWS[kind] / max(1, rows))
    if isinstance(column.type, DateTime):
        return case((column.between(_FIRST_TIME, _LAST_TIME), column)).label(column.name)
    if isinstance(column.type, JSON):  # as text: one unreadable value must not spoil the others
        text = cast(column, Text)
        without_separators = func.replace(func.replace(func.replace(text, "[", ""), "{", ""), ",", "")
        is_short = func.length(text) <= int(MAX_JSON * share)
        has_few_parts = func.length(text) - func.length(without_separators) <= int(MAX_PARTS * share)
        return case((and_(is_short, has_few_parts), text)).label(column.name)
    if isinstance(column.type, Text):
        return func.substr(column, 1, int(MAX_TEXT * share)).label(column.name)
    return column


_SUMMARY = [_bound_column(RUNS.c[name]) for name in RunSummary.model_fields]
# Unbounded create_time, which the conditions bound: an index cannot give the order of an expression.
_LISTED = [RUNS.c.create_time if column.name == "create_time" else column for column in _SUMMARY]
_SUMMARIES = TypeAdapter(list[RunSummary])
_NEWEST_FIRST = (RUNS.c.create_time.desc(), RUNS.c.id.desc())


def list_runs(
    engine: Engine,
    scope: AccessScope,
    run_filter: RunFilter | None = None,
    *,
    limit: int = 50,
    cursor: str | None = None,
) -> Page:
    """Return the newest runs, or the page that follows a cursor.

    Raises
    ------
    ValueError
        When the cursor is not one of this list.
    """
    statement = build_list_statement(
        engine.dialect.name, scope, run_filter or RunFilter(), min(limit, MAX_LIMIT), cursor
    )
    rows = _fetch_all(engine, statement)
    items = _SUMMARIES.validate_python([row._asdict() for row in rows[:limit]])
    return Page(items, encode_cursor(items[-1]) if len(rows) > limit else None)


def build_list_statement(
    dialect: str, scope: AccessScope, run_filter: RunFilter, limit: int, cursor: str | None
) -> Select[Any]:
    """Return the statement of `list_runs`: up to `limit` rows, and one more if another page follows."""
    conditions = [RUNS.c.create_time.between(_FIRST_TIME, _LAST_TIME), *build_conditions(dialect, run_filter)]
    if cursor is not None:
        create_time, key = decode_cursor(cursor)
        keyset = tuple_(literal(create_time, RUNS.c.create_time.type), literal(key, RUNS.c.id.type))
        conditions.append(tuple_(RUNS.c.create_time, RUNS.c.id) < keyset)

    def select_newest(*more: ColumnElement[bool]) -> Select[Any]:
        return select(*_LISTED).where(*conditions, *more).order_by(*_NEWEST_FIRST).limit(limit + 1)

    scope = scope.narrow_to(run_filter.namespace)
    uids = sorted(scope.namespace_uids or ())
    # A search by text or label finds all matches at once, unordered: too much to repeat for each namespace.
    if not 1 < len(uids) <= _MAX_UNION or run_filter.text is not None or run_filter.label is not None:
        return select_newest(scope.as_condition())
    # The newest of each namespace come from its index, and the newest of these few make the page.
    merged = union_all(*(select(select_newest(RUNS.c.namespace_uid == uid).subquery()) for uid in uids)).subquery()
    return select(merged).order_by(merged.c.create_time.desc(), merged.c.id.desc()).limit(limit + 1)


def export_runs(engine: Engine, scope: AccessScope, run_filter: RunFilter, limit: int) -> Iterator[RunSummary]:
    """Yield the runs of a filter, newest first, page by page, up to `limit`."""
    cursor = None
    while limit > 0:
        page = list_runs(engine, scope, run_filter, limit=min(limit, MAX_LIMIT), cursor=cursor)
        yield from page.items
        limit -= len(page.items)
        cursor = page.next
        if cursor is None:
            return


def get_run(engine: Engine, scope: AccessScope, key: uuid.UUID) -> RunDetail | None:
    """Return one run, None when there is none in the scope."""
    return next(iter(get_runs(engine, scope, [key])), None)


def get_runs(engine: Engine, scope: AccessScope, keys: Sequence[uuid.UUID]) -> list[RunDetail]:
    """Return the runs of these ids that are in the scope, in this order; many share the limits of a few."""
    columns = [_bound_column(RUNS.c[name], len(keys)) for name in RunDetail.model_fields]
    rows = _fetch_all(engine, select(*columns).where(RUNS.c.id.in_(keys), scope.as_condition()))
    found = {row.id: RunDetail.model_validate(row) for row in rows}
    return [found[key] for key in keys if key in found]


def get_attempts(engine: Engine, scope: AccessScope, task_uid: str) -> list[RunSummary]:
    """Return all attempts of a task in their order."""
    statement = select(*_SUMMARY).where(RUNS.c.task_uid == task_uid, scope.as_condition()).order_by(RUNS.c.attempt)
    statement = statement.limit(MAX_ATTEMPTS)
    return [RunSummary.model_validate(row) for row in _fetch_all(engine, statement)]


def get_events(engine: Engine, scope: AccessScope, key: uuid.UUID) -> list[Event]:
    """Return the events of a run, oldest first."""
    statement = (
        select(EVENTS)
        .join(RUNS, RUNS.c.id == EVENTS.c.run_id)
        .where(EVENTS.c.run_id == key, EVENTS.c.time.between(_FIRST_TIME, _LAST_TIME), scope.as_condition())
        .order_by(EVENTS.c.time, EVENTS.c.type)
        .limit(MAX_EVENTS)
    )
    return [Event.model_validate(row) for row in _fetch_all(engine, statement)]


def get_metrics(
    engine: Engine,
    scope: AccessScope,
    keys: Sequence[uuid.UUID],
    *,
    names: Sequence[str] = (),
    max_points: int = MAX_POINTS,
) -> dict[uuid.UUID, dict[str, list[Point]]]:
    """Return the curves of runs by name, each reduced to `max_points` evenly spaced points with the first and the last."""
    # Two statements: in one, the planner may scan the whole scope instead of these few runs.
    known = [row.id for row in _fetch_all(engine, select(RUNS.c.id).where(RUNS.c.id.in_(keys), scope.as_condition()))]
    curves: dict[uuid.UUID, dict[str, list[Point]]] = {}
    for row in _fetch_all(engine, _build_metrics_statement(known, names, max_points)) if known else ():
        curves.setdefault(row.run_id, {}).setdefault(row.name, []).append(Point(row.step, row.value))
    return curves


def _build_metrics_statement(keys: Sequence[uuid.UUID], names: Sequence[str], max_points: int) -> Select[Any]:
    curve = (POINTS.c.run_id, POINTS.c.name)
    numbered = (
        select(
            POINTS,
            (func.row_number().over(partition_by=curve, order_by=POINTS.c.step) - 1).label("position"),
            func.count().over(partition_by=curve).label("total"),
            func.dense_rank().over(partition_by=POINTS.c.run_id, order_by=POINTS.c.name).label("curve"),
        )
        .where(POINTS.c.run_id.in_(keys), POINTS.c.name.in_(names) if names else true())
        .subquery()
    )
    stride = (numbered.c.total + max_points - 2) // (max_points - 1)  # leaves room for the last point
    is_picked = (numbered.c.position % stride == 0) | (numbered.c.position == numbered.c.total - 1)
    return (
        select(numbered.c.run_id, numbered.c.name, numbered.c.step, numbered.c.value)
        .where(is_picked, numbered.c.curve <= MAX_CURVES)
        .order_by(numbered.c.run_id, numbered.c.name, numbered.c.step)
    )


def list_namespace_uids(engine: Engine) -> set[str]:
    """Return the uids of all namespaces that have runs, by one index step each, whatever the number of runs."""
    uid = RUNS.c.namespace_uid
    found = select(func.min(uid).label("uid")).cte("found", recursive=True)
    following = select(func.min(uid)).where(uid > found.c.uid).scalar_subquery()
    found = found.union_all(select(following).where(found.c.uid.is_not(None)))
    return {row.uid for row in _fetch_all(engine, select(found.c.uid).where(found.c.uid.is_not(None)))}


def ping(engine: Engine) -> None:
    """Select from each table of the history; return if that succeeds.

    Raises
    ------
    HistoryError, HistoryUnavailable
    """
    for table in (RUNS, POINTS, EVENTS):
        _fetch_all(engine, select(literal(1)).select_from(table).limit(1))


def _fetch_all(engine: Engine, statement: Select[Any]) -> Sequence[Row[Any]]:
    with translate_db_errors(engine), engine.begin() as connection:
        return connection.execute(statement).all()
