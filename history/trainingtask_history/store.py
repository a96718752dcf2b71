"""The history store: opens it, writes one row per attempt. `schema` brings its tables up to date, `reading` reads them.

Postgres on a cluster, SQLite for a run without one. Every function blocks; an event loop calls them in a thread.

::

    HistoryError               the store refused: a bad URL, a missing right, a value it cannot hold
    ├── HistoryLocked          another session holds a row that was to be written: others can be written meanwhile
    └── HistoryUnavailable     the store did not answer in time: try again later

Their messages never contain the password.
"""

import uuid
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import (
    URL,
    Connection,
    Engine,
    Executable,
    Insert,
    Table,
    and_,
    bindparam,
    create_engine,
    delete,
    event,
    func,
    make_url,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from trainingtask_api.reasons import Reason
from trainingtask_history.tables import OPERATORS_OWN, MetricPoint, RunEvent, RunStatus, TrainingRun


def _table(model: Any) -> Table:
    table: Table = model.__table__  # SQLModel sets it, its type does not say so
    return table


TABLE = _table(TrainingRun)
POINTS = _table(MetricPoint)
EVENTS = _table(RunEvent)

_CONNECT_SECONDS = 5
_STATEMENT_SECONDS = 10
_OPEN_RUNS = 10_000  # looked through at a time
# For a row that another session inserts at this moment. One that it holds already is not waited for.
_LOCK_MILLISECONDS = 500
_LOCK_NOT_AVAILABLE = "55P03"

_POSTGRES_ARGUMENTS = {
    "connect_timeout": _CONNECT_SECONDS,
    "options": f"-c statement_timeout={_STATEMENT_SECONDS}s",
    # A server that vanished without a word is noticed after 25 seconds, not after hours: when the connection is idle
    # by keep-alives, when it owes an answer by the timeout.
    "tcp_user_timeout": 25_000,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
}


class HistoryError(Exception):
    """The history store refused; the message says why and holds no password."""


class HistoryLocked(HistoryError):  # noqa: N818 - as below
    """Another session holds a row; the same call may succeed later."""


class HistoryUnavailable(HistoryError):  # noqa: N818 - it is a HistoryError; the name says which
    """The history store did not answer; the same call may succeed later."""


def open_history(url: str, *, pooled: bool = True) -> Engine:
    """Return an engine for the store; nothing connects before its first use.

    Parameters
    ----------
    url
        ``postgresql://user:password@host:5432/database``, also with ``+psycopg``, or ``sqlite:///file.db``.
    pooled
        Keep connections to Postgres between transactions.

    Raises
    ------
    HistoryError
        When the URL is not one of these.
    """
    parsed = _parse(url)
    if parsed.drivername == "sqlite":
        engine = create_engine(parsed, hide_parameters=True, connect_args={"timeout": _STATEMENT_SECONDS})
        _begin_immediately(engine)
        return engine
    if not pooled:
        return create_engine(parsed, hide_parameters=True, poolclass=NullPool, connect_args=_POSTGRES_ARGUMENTS)
    return create_engine(parsed, hide_parameters=True, pool_pre_ping=True, connect_args=_POSTGRES_ARGUMENTS)


def _parse(url: str) -> URL:
    # `from None` throughout: the parser's own errors quote parts of the URL.
    try:
        parsed = make_url(url.strip())
    except (ArgumentError, ValueError):
        raise HistoryError(
            "the history URL cannot be read: expected postgresql://user:password@host:5432/database or"
            " sqlite:///file.db, with special characters of the password percent-encoded"
        ) from None
    if parsed.drivername in ("sqlite", "sqlite+pysqlite"):
        return parsed.set(drivername="sqlite")
    if parsed.drivername not in ("postgresql", "postgresql+psycopg", "postgres"):
        raise HistoryError("the history URL must start with postgresql:// or sqlite:///")
    # A stray '@' of an unescaped password would end up in the host, and the host in error messages.
    if not parsed.host or "@" in parsed.host or not parsed.database:
        raise HistoryError(
            "the history URL must name a host and a database, as in postgresql://user:password@host:5432/database,"
            " with special characters of the password percent-encoded"
        )
    return parsed.set(drivername="postgresql+psycopg")


def _begin_immediately(engine: Engine) -> None:
    """Make SQLite's transactions real ones: they hold DDL too, and writers queue up instead of failing midway."""

    @event.listens_for(engine, "connect")
    def _no_implicit_transactions(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        connection.execute("PRAGMA foreign_keys = ON")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def record(
    engine: Engine, run: TrainingRun, *, events: Sequence[RunEvent] = (), points: Sequence[MetricPoint] = ()
) -> None:
    """Write what a trainer knows into its run's row, creating the row if need be, and add its events and points.

    Calling it twice is the same as calling it once. A field that is None leaves the row's value alone, and a row with
    a `finish_time` stays as it is, so the trainer and the operator may write in any order. What only the operator can
    know (`OPERATORS_OWN`) is added to it all the same. Events and points that are there stay as they are.

    Raises
    ------
    ValueError
        When a time has no time zone.
    HistoryError, HistoryUnavailable
    """
    row = _values(run)
    with translate_db_errors(engine), engine.begin() as connection:
        if run.finish_time is not None and (events or points):
            # A trainer may add to an open run alone: its row becomes final last.
            _upsert(connection, [{**row, "status": RunStatus.RUNNING.value, "finish_time": None}])
            _add(connection, events, points)
            _upsert(connection, [row])
        else:
            _upsert(connection, [row])
            _add(connection, events, points)


def record_many(
    engine: Engine,
    runs: Iterable[TrainingRun],
    *,
    events: Sequence[RunEvent] = (),
    points: Sequence[MetricPoint] = (),
) -> set[uuid.UUID]:
    """Write several rows as their owner, with events and points of theirs, in one transaction; see `record`.

    Trainers write to the same table, and are not trusted: a row that one of them holds a lock on is left out, and one
    that claims the id, or the attempt, of another namespace's run is deleted.

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
    rows = [_values(run) for run in runs]
    with translate_db_errors(engine), engine.begin() as connection:
        locked: set[uuid.UUID] = set()
        if connection.dialect.name == "postgresql" and rows:
            connection.execute(_LIMIT_LOCK_WAIT)
            locked = _locked(connection, [row["id"] for row in rows])
            rows = [row for row in rows if row["id"] not in locked]
            if rows:
                _delete_squatters(connection, rows)
        _upsert(connection, rows)
        if connection.dialect.name == "postgresql" and rows and _delete_squatters(connection, rows):
            # Committed while the upsert waited for it. The next try begins with deleting it.
            raise HistoryLocked(f"{_where(engine)} held another session's row for one of these runs")
        _add(
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
    """Delete rows that claim one of these runs for another namespace, task or id; return how many."""
    values = {f"{name}s": [row[name] for row in rows] for name in ("id", *_IDENTITY)}
    return connection.execute(_SQUATTERS, values).rowcount


def _locked(connection: Connection, ids: list[uuid.UUID]) -> set[uuid.UUID]:
    """Lock those of these rows that nobody holds, and return the others, without waiting for any."""
    mine = select(TABLE.c.id).where(TABLE.c.id.in_(ids))
    free = mine.with_for_update(skip_locked=True, key_share=True).cte()
    return set(connection.execute(mine.where(TABLE.c.id.not_in(select(free.c.id)))).scalars())


def _upsert(connection: Connection, rows: list[dict[str, Any]]) -> None:
    for statement, values in _upserts(connection, rows):
        connection.execute(statement, values)


def _add(connection: Connection, events: Sequence[RunEvent], points: Sequence[MetricPoint]) -> None:
    for table, items in ((EVENTS, events), (POINTS, points)):
        if items:
            # No target: naming one would take the right to read, which a trainer does not have.
            insert = _insert(connection, table).on_conflict_do_nothing()
            connection.execute(insert, [_values(item) for item in items])


def _insert(connection: Connection, table: Table) -> Any:
    """Return an insert that can have an ON CONFLICT clause; the two dialects' classes share no type."""
    return (postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert)(table)


def _upserts(connection: Connection, rows: list[dict[str, Any]]) -> Iterator[tuple[Executable, list[dict[str, Any]]]]:
    """Yield statements, each with the values of all rows that know the same columns: to make one costs more than to run it."""
    alike: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        alike.setdefault(tuple(row), []).append(row)
    for columns, values in alike.items():
        new = _insert(connection, TABLE)
        upsert: Insert = new.on_conflict_do_update(
            index_elements=[TABLE.c.id],
            # Columns that the rows say nothing about are in neither half: the statement cannot overwrite them.
            set_={name: new.excluded[name] for name in columns},
            # A row that claims this run for another namespace is none to write into.
            where=and_(TABLE.c.finish_time.is_(None), *(TABLE.c[name] == new.excluded[name] for name in _IDENTITY)),
        )
        yield upsert, values
    for name in OPERATORS_OWN:
        late = [{"of": row["id"], "late": row[name]} for row in rows if row.get("finish_time") and name in row]
        if late:
            mine = (TABLE.c.id == bindparam("of"), TABLE.c[name].is_(None))
            yield update(TABLE).where(*mine).values({name: bindparam("late")}), late


def recorded(engine: Engine, ids: Collection[uuid.UUID]) -> set[uuid.UUID]:
    """Return those of `ids` whose rows are final and lack nothing: a failure's has the tail of its log.

    A row without `namespace_uid` was finished by its trainer, and the operator has not vouched for it yet.

    Raises
    ------
    HistoryError, HistoryUnavailable
    """
    complete = (TABLE.c.status == RunStatus.SUCCEEDED.value) | TABLE.c.log_tail.is_not(None)
    statement = select(TABLE.c.id).where(
        TABLE.c.id.in_(ids), TABLE.c.finish_time.is_not(None), TABLE.c.namespace_uid.is_not(None), complete
    )
    with translate_db_errors(engine), engine.begin() as connection:
        return set(connection.execute(statement).scalars())


class OpenRun(NamedTuple):
    """A row that is not final, as far as it says whose it is."""

    id: Any
    task_uid: str
    namespace: str
    name: str
    start_time: datetime | None


def open_runs(engine: Engine) -> list[OpenRun]:
    """Return the rows that are not final, of tasks on a cluster: a run on a laptop is its own business.

    Of each namespace the oldest come first, so that no namespace's many keep another's few from being looked at.

    Raises
    ------
    HistoryError, HistoryUnavailable
    """
    columns = [TABLE.c[name] for name in OpenRun._fields]
    turn = func.row_number().over(partition_by=TABLE.c.namespace, order_by=TABLE.c.create_time)
    statement = (
        select(*columns)
        .where(TABLE.c.finish_time.is_(None), TABLE.c.namespace_uid.is_not(None) | TABLE.c.node.is_not(None))
        .order_by(turn)
        .limit(_OPEN_RUNS)
    )
    with translate_db_errors(engine), engine.begin() as connection:
        return [OpenRun(*row) for row in connection.execute(statement)]


def cancel_run(engine: Engine, run: OpenRun, now: datetime) -> None:
    """Make a row final whose task is gone, unless it has become so meanwhile, or another session holds it.

    Raises
    ------
    HistoryError, HistoryUnavailable
    """
    start = run.start_time and (run.start_time if run.start_time.tzinfo else run.start_time.replace(tzinfo=UTC))
    end = {
        "status": RunStatus.CANCELLED.value,
        "finish_time": now.astimezone(UTC),
        "total_time": (now - start).total_seconds() if start else None,
        "error_reason": Reason.CANCELLED.value,
        "error_message": "The task was deleted, and nobody could record how it had ended.",
    }
    free = select(TABLE.c.id).where(TABLE.c.id == run.id, TABLE.c.finish_time.is_(None))
    with translate_db_errors(engine), engine.begin() as connection:
        free = free.with_for_update(skip_locked=True, key_share=True)
        connection.execute(update(TABLE).where(TABLE.c.id.in_(free)).values(end))


def prune(engine: Engine, before: datetime, limit: int = 1000) -> int:
    """Delete up to `limit` runs that ended before then, oldest first, with their events and points; return how many.

    So are rows that the operator knows nothing of, and that nobody reported on since. Rows that another session holds
    stay until the next time.

    Raises
    ------
    HistoryError, HistoryUnavailable
    """
    last_seen = func.coalesce(TABLE.c.report_time, TABLE.c.start_time, TABLE.c.create_time)
    old = (
        select(TABLE.c.id)
        .where(
            or_(
                # A run is created before it ends: the index on create_time leads to it.
                and_(TABLE.c.create_time < before, TABLE.c.finish_time < before),
                # What only a trainer has written may lack any time.
                and_(
                    TABLE.c.namespace_uid.is_(None),
                    TABLE.c.create_time.is_(None) | TABLE.c.finish_time.is_(None),
                    func.coalesce(TABLE.c.finish_time, last_seen, before - timedelta(days=1)) < before,
                ),
            )
        )
        .order_by(TABLE.c.create_time, TABLE.c.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    with translate_db_errors(engine), engine.begin() as connection:
        return connection.execute(delete(TABLE).where(TABLE.c.id.in_(old))).rowcount


def _values(item: TrainingRun | RunEvent | MetricPoint) -> dict[str, Any]:
    values = {}
    for column in _table(item).columns:
        value = getattr(item, column.name)
        if isinstance(value, datetime):
            if value.utcoffset() is None:
                raise ValueError(f"{column.name} has no time zone: {value.isoformat()}")
            value = value.astimezone(UTC)  # SQLite keeps no zone
        if value is not None:
            limit = getattr(column.type, "length", None)
            storable = _storable(value)
            values[column.name] = storable[:limit] if isinstance(storable, str) else storable
    return values


def _storable(value: Any) -> Any:
    """Replace what UTF-8 and Postgres cannot hold (lone surrogates, NUL): a row with a '?' is better than none."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode().replace("\x00", "?")
    if isinstance(value, dict):
        return {_storable(key): _storable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_storable(item) for item in value]
    return value


@contextmanager
def translate_db_errors(engine: Engine) -> Iterator[None]:
    """Turn the database's errors into one sentence each, without the password."""
    try:
        yield
    except (OperationalError, InterfaceError) as error:
        if getattr(error.orig, "sqlstate", None) == _LOCK_NOT_AVAILABLE:
            raise HistoryLocked(f"{_where(engine)} keeps a row locked for another session") from None
        raise HistoryUnavailable(f"{_where(engine)} did not answer: {_cause(engine, error)}") from None
    except SQLAlchemyError as error:
        raise HistoryError(f"{_where(engine)} refused: {_cause(engine, error)}") from None


def _where(engine: Engine) -> str:
    url = engine.url
    if engine.dialect.name == "sqlite":
        return f"the history in {url.database}"
    return f"the history database '{url.database}' at {url.host}:{url.port or 5432}"


def _cause(engine: Engine, error: SQLAlchemyError) -> str:
    """Return the first line of what the driver said; the lines after it quote statements and rows."""
    said = str(error.orig if isinstance(error, DBAPIError) else error).strip() or type(error).__name__
    line = said.splitlines()[0]
    password = engine.url.password
    return line.replace(str(password), "***") if password else line
