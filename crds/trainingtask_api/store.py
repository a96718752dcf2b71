"""The history store: opens it, brings its schema up to date, writes one row per attempt.

Postgres on a cluster, SQLite for a run without one. Every function blocks; an event loop calls them in a thread.

::

    HistoryError               the store refused: a bad URL, a missing right, a value it cannot hold
    └── HistoryUnavailable     the store did not answer in time: try again later

Their messages never contain the password.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import URL, Connection, Engine, Table, create_engine, event, make_url, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError, SQLAlchemyError

from trainingtask_api.names import HISTORY_TRAINER_ROLE
from trainingtask_api.run import TrainingRun

_TABLE: Table = TrainingRun.__table__  # type: ignore[attr-defined]  # SQLModel sets it, its type does not say so

_CONNECT_SECONDS = 5
_STATEMENT_SECONDS = 10
_MIGRATION_SECONDS = 300
_MIGRATION_LOCK = 0x7472_6169_6E74_6173  # any fixed number: whoever migrates this history takes this lock

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


class HistoryUnavailable(HistoryError):  # noqa: N818 - it is a HistoryError; the name says which
    """The history store did not answer; the same call may succeed later."""


def open_history(url: str) -> Engine:
    """Return an engine for the store; nothing connects before its first use.

    Parameters
    ----------
    url
        ``postgresql://user:password@host:5432/database``, also with ``+psycopg``, or ``sqlite:///file.db``.

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

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def migrate(engine: Engine, trainer_role: str | None = HISTORY_TRAINER_ROLE) -> None:
    """Bring the schema up to date and, on Postgres, give the trainers' role its rights if that role exists.

    Safe to call by any number of processes at once, and again at each start.

    Raises
    ------
    HistoryError, HistoryUnavailable
    """
    config = Config()
    config.set_main_option("script_location", "trainingtask_api:migrations")
    with _in_sentences(engine), engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text(f"SET LOCAL statement_timeout = '{_MIGRATION_SECONDS}s'"))
            # Inside the transaction, so that whoever waits sees what the one before committed.
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        if connection.dialect.name == "postgresql" and trainer_role is not None:
            _grant(connection, trainer_role)


def _grant(connection: Connection, role: str) -> None:
    """Give the trainers' role exactly what `record` needs."""
    exists = text("SELECT 1 FROM pg_roles WHERE rolname = :role AND rolname <> current_user")
    if connection.execute(exists, {"role": role}).first() is None:
        return
    quote = connection.dialect.identifier_preparer.quote_identifier
    schema = quote(connection.execute(text("SELECT current_schema()")).scalar_one())
    table = f"{schema}.{quote(_TABLE.name)}"
    grantee = quote(role)
    connection.execute(text(f"GRANT USAGE ON SCHEMA {schema} TO {grantee}"))
    connection.execute(text(f"REVOKE ALL ON {table} FROM {grantee}"))
    connection.execute(text(f"GRANT SELECT, INSERT, UPDATE ON {table} TO {grantee}"))


def record(engine: Engine, run: TrainingRun) -> None:
    """Write what `run` knows into its row, creating the row if need be.

    Calling it twice is the same as calling it once. A field that is None leaves the row's value alone, and a row with
    a `finish_time` stays as it is, so the trainer and the operator may write in any order.

    Raises
    ------
    ValueError
        When a time of `run` has no time zone.
    HistoryError, HistoryUnavailable
    """
    values = _values(run)
    insert = postgresql.insert if engine.dialect.name == "postgresql" else sqlite.insert
    new = insert(_TABLE).values(values)
    statement = new.on_conflict_do_update(
        index_elements=[_TABLE.c.id],
        # Columns that `run` says nothing about are in neither half: the statement cannot overwrite them.
        set_={name: new.excluded[name] for name in values},
        where=_TABLE.c.finish_time.is_(None),
    )
    with _in_sentences(engine), engine.begin() as connection:
        connection.execute(statement)


def _values(run: TrainingRun) -> dict[str, Any]:
    values = {}
    for column in _TABLE.columns:
        value = getattr(run, column.name)
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
def _in_sentences(engine: Engine) -> Iterator[None]:
    """Turn the database's errors into one sentence each, without the password."""
    try:
        yield
    except (OperationalError, InterfaceError) as error:
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
