"""Writes one row per attempt, with its events and the points of its curves."""

import uuid
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Executable,
    Insert,
    Table,
    and_,
    bindparam,
    func,
    select,
    text,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError

from trainingtask_history.errors import HistoryLocked, describe_database, translate_db_errors
from trainingtask_history.tables import (
    EVENTS,
    OPERATOR_COLUMNS,
    POINTS,
    RUNS,
    MetricPoint,
    RunEvent,
    RunStatus,
    TrainingRun,
    get_table,
)

# Bounds the wait for a row that another session is inserting; a row that it holds already is skipped at once.
_LOCK_MILLISECONDS = 500


def record(
    engine: Engine, run: TrainingRun, *, events: Sequence[RunEvent] = (), points: Sequence[MetricPoint] = ()
) -> None:
    """Upsert a run as its trainer, and insert its events and points.

    The call is idempotent. A field that is None leaves the row's value unchanged, and a row with a `finish_time` stays
    as it is, so that the trainer and the operator may write in any order; only empty `OPERATOR_COLUMNS` are still set.
    Existing events and points stay as they are.

    Raises
    ------
    ValueError
        When a time has no time zone.
    HistoryError, HistoryUnavailable
    """
    with translate_db_errors(engine):
        try:
            _record(engine, run, events, points)
        except IntegrityError:
            # ON CONFLICT covers the primary key alone. Of two sessions that insert the run's first row at once, the
            # second may meet the other unique constraint; now it finds the row. Another run's attempt is refused again.
            _record(engine, run, events, points)


def _record(engine: Engine, run: TrainingRun, events: Sequence[RunEvent], points: Sequence[MetricPoint]) -> None:
    row = _to_row(run)
    with engine.begin() as connection:
        if run.finish_time is not None and (events or points):
            # A trainer may add to open runs only: the row becomes final last.
            _upsert_rows(connection, [{**row, "status": RunStatus.RUNNING.value, "finish_time": None}])
            _insert_missing(connection, events, points)
            _upsert_rows(connection, [row])
        else:
            _upsert_rows(connection, [row])
            _insert_missing(connection, events, points)


def record_many(
    engine: Engine,
    runs: Iterable[TrainingRun],
    *,
    events: Sequence[RunEvent] = (),
    points: Sequence[MetricPoint] = (),
) -> set[uuid.UUID]:
    """Upsert several rows as the owner of the tables, with their events and points, in one transaction; see `record`.

    Trainers write to the same table, and are not trusted: a row that a trainer has locked is left out, and a row that
    claims the id, or the attempt, of another namespace's run is deleted.

    Returns
    -------
    Ids of the rows that are left out: nothing of theirs is written.

    Raises
    ------
    ValueError
        When a time has no time zone.
    HistoryError, HistoryLocked, HistoryUnavailable
        Then none is written.
    """
    rows = [_to_row(run) for run in runs]
    with translate_db_errors(engine), engine.begin() as connection:
        locked: set[uuid.UUID] = set()
        if connection.dialect.name == "postgresql" and rows:
            connection.execute(_LIMIT_LOCK_WAIT)
            locked = _lock(connection, [row["id"] for row in rows])
            rows = [row for row in rows if row["id"] not in locked]
            if rows:
                _delete_squatters(connection, rows)
        _upsert_rows(connection, rows)
        if connection.dialect.name == "postgresql" and rows and _delete_squatters(connection, rows):
            # Committed while the upsert waited for it. The next try deletes it first.
            raise HistoryLocked(f"{describe_database(engine)} held another session's row for one of these runs")
        _insert_missing(
            connection,
            [item for item in events if item.run_id not in locked],
            [item for item in points if item.run_id not in locked],
        )
    return locked


_IDENTITY = ("task_uid", "attempt", "namespace")
_LIMIT_LOCK_WAIT = text(f"SET LOCAL lock_timeout = '{_LOCK_MILLISECONDS}ms'")

_SQUATTERS = text(
    """
    WITH own AS (SELECT * FROM unnest(
        CAST(:ids AS uuid[]), CAST(:task_uids AS text[]), CAST(:attempts AS int[]), CAST(:namespaces AS text[])
    ) AS own(id, task_uid, attempt, namespace))
    DELETE FROM training_run WHERE id IN (
        SELECT run.id FROM own JOIN training_run run ON run.id = own.id
        WHERE (run.task_uid, run.attempt, run.namespace) <> (own.task_uid, own.attempt, own.namespace)
        UNION ALL
        SELECT run.id FROM own JOIN training_run run ON run.task_uid = own.task_uid AND run.attempt = own.attempt
        WHERE run.id <> own.id
    )
    """
)


def _delete_squatters(connection: Connection, rows: list[dict[str, Any]]) -> int:
    """Delete rows that claim one of these runs for another namespace, task or id; return their number."""
    values = {f"{name}s": [row[name] for row in rows] for name in ("id", *_IDENTITY)}
    return connection.execute(_SQUATTERS, values).rowcount


def _lock(connection: Connection, ids: list[uuid.UUID]) -> set[uuid.UUID]:
    """Lock these rows without waiting, and return the ids of those that other sessions hold."""
    all_ids = select(RUNS.c.id).where(RUNS.c.id.in_(ids))
    free = all_ids.with_for_update(skip_locked=True, key_share=True).cte()
    return set(connection.execute(all_ids.where(RUNS.c.id.not_in(select(free.c.id)))).scalars())


def _upsert_rows(connection: Connection, rows: list[dict[str, Any]]) -> None:
    for statement, values in _build_upserts(connection, rows):
        connection.execute(statement, values)


def _insert_missing(connection: Connection, events: Sequence[RunEvent], points: Sequence[MetricPoint]) -> None:
    for table, items in ((EVENTS, events), (POINTS, points)):
        if items:
            # Without a conflict target, which would require the right to read; a trainer does not have it.
            insert = _insert(connection, table).on_conflict_do_nothing()
            connection.execute(insert, [_to_row(item) for item in items])


def _insert(connection: Connection, table: Table) -> Any:
    """Return an insert that can have an ON CONFLICT clause; the two dialects' classes share no type."""
    return (postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert)(table)


def _build_upserts(
    connection: Connection, rows: list[dict[str, Any]]
) -> Iterator[tuple[Executable, list[dict[str, Any]]]]:
    """Yield a statement for each set of columns, with all rows that have it: to build one costs more than to run it."""
    by_columns: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        by_columns.setdefault(tuple(row), []).append(row)
    for columns, values in by_columns.items():
        new = _insert(connection, RUNS)
        upsert: Insert = new.on_conflict_do_update(
            index_elements=[RUNS.c.id],
            # Columns that the rows lack are in neither half: the statement cannot overwrite them.
            set_={
                name: _keep_log(new.excluded[name]) if name == "log_tail" else new.excluded[name] for name in columns
            },
            # A row that claims this run for another namespace is not written into.
            where=and_(RUNS.c.finish_time.is_(None), *(RUNS.c[name] == new.excluded[name] for name in _IDENTITY)),
        )
        yield upsert, values
    for name in OPERATOR_COLUMNS:
        finished = [{"key": row["id"], "new": row[name]} for row in rows if row.get("finish_time") and name in row]
        if finished:
            is_empty = (RUNS.c.id == bindparam("key"), RUNS.c[name].is_(None))
            yield update(RUNS).where(*is_empty).values({name: bindparam("new")}), finished


def _keep_log(new: ColumnElement[str | None]) -> ColumnElement[str | None]:
    """Return the new tail of a log, or the earlier one where the new is empty: the pod was deleted meanwhile."""
    return func.coalesce(func.nullif(new, ""), RUNS.c.log_tail, new)


def _to_row(item: TrainingRun | RunEvent | MetricPoint) -> dict[str, Any]:
    values = {}
    for column in get_table(item).columns:
        value = getattr(item, column.name)
        if isinstance(value, datetime):
            if value.utcoffset() is None:
                raise ValueError(f"{column.name} has no time zone: {value.isoformat()}")
            value = value.astimezone(UTC)  # SQLite stores no zone
        if value is not None:
            limit = getattr(column.type, "length", None)
            storable = _replace_unstorable(value)
            values[column.name] = storable[:limit] if isinstance(storable, str) else storable
    return values


def _replace_unstorable(value: Any) -> Any:
    """Replace lone surrogates and NUL, which UTF-8 and Postgres cannot hold, by '?' rather than lose the row."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode().replace("\x00", "?")
    if isinstance(value, dict):
        return {_replace_unstorable(key): _replace_unstorable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_replace_unstorable(item) for item in value]
    return value
