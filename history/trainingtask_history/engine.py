"""Engines for the history: Postgres on a cluster, SQLite for a run without one.

Every function that takes such an engine blocks; an event loop calls it in a thread.
"""

import re
import threading
from typing import Any

from sqlalchemy import URL, Connection, Engine, ExceptionContext, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import ConnectionPoolEntry, NullPool

from trainingtask_history.errors import READ_ONLY, HistoryError

_CONNECT_SECONDS = 5
_STATEMENT_SECONDS = 10

# libpq's form, with the scheme and the user before the hosts: postgresql://user:password@a:5432,b:5432/database
_SEVERAL_HOSTS = re.compile(r"(\w+(?:\+\w+)?://(?:[^@/?]*@)?)([\w.-]+(?::\d+)?)((?:,[\w.-]+(?::\d+)?)+)(?=/)")

_POSTGRES_ARGUMENTS = {
    "connect_timeout": _CONNECT_SECONDS,
    # A pooler in transaction mode gives each transaction another session: a prepared statement is not in it, or is another's.
    # Without one each statement is planned for its values: a generic plan scans the table where a rare value has an index.
    "prepare_threshold": None,
    # A server that vanished silently is noticed after 25 seconds, not after hours: on an idle connection by
    # keep-alives, on one that waits for an answer by the timeout.
    "tcp_user_timeout": 25_000,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
}


def open_history(url: str, *, pooled: bool = True) -> Engine:
    """Return an engine for the history; it connects at its first use, and keeps no connection once it was disposed of.

    Parameters
    ----------
    url
        ``postgresql://user:password@host:5432/database``, also with ``+psycopg``, with several hosts as in libpq, or
        ``sqlite:///file.db``.
    pooled
        Keep connections to Postgres between transactions.

    Raises
    ------
    HistoryError
        When the URL is not one of these.
    """
    parsed = _parse_url(url)
    if parsed.drivername == "sqlite":
        engine = create_engine(parsed, hide_parameters=True, connect_args={"timeout": _STATEMENT_SECONDS})
        _use_real_transactions(engine)
        return engine
    pool: dict[str, Any] = {"pool_pre_ping": True} if pooled else {"poolclass": NullPool}
    engine = create_engine(parsed, hide_parameters=True, connect_args=_POSTGRES_ARGUMENTS, **pool)
    _limit_statements(engine)
    _leave_standbys(engine)
    _close_after_disposal(engine)
    return engine


def _parse_url(url: str) -> URL:
    url = url.strip()
    several = _SEVERAL_HOSTS.match(url)
    # `from None`: the parser's own errors quote parts of the URL.
    try:
        parsed = make_url(several[1] + several[2] + url[several.end() :] if several else url)
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
    parsed = parsed.set(drivername="postgresql+psycopg")
    if several is None:
        return parsed
    hosts = (several[2] + several[3]).split(",")  # SQLAlchemy reads several from the query alone
    return URL.create(
        parsed.drivername,
        parsed.username,
        parsed.password,
        None,
        None,
        parsed.database,
        {**parsed.query, "host": hosts},
    )


def _limit_statements(engine: Engine) -> None:
    """Limit each statement's time, by transaction: PgBouncer refuses settings at the start of a session."""

    @event.listens_for(engine, "begin")
    def _set_timeout(connection: Connection) -> None:
        connection.exec_driver_sql(f"SET LOCAL statement_timeout = '{_STATEMENT_SECONDS}s'")


def _leave_standbys(engine: Engine) -> None:
    """Close the pool's connections when the server takes no writes: after a failover the address is another server's."""

    @event.listens_for(engine, "handle_error")
    def _disconnect(context: ExceptionContext) -> None:
        if getattr(context.original_exception, "sqlstate", None) == READ_ONLY:
            context.is_disconnect = True


def _close_after_disposal(engine: Engine) -> None:
    """Close connections that threads return after the engine's disposal, which closes those alone that are in its pool."""
    is_disposed = threading.Event()

    @event.listens_for(engine, "engine_disposed")
    def _note(_engine: Engine) -> None:
        is_disposed.set()

    @event.listens_for(engine, "checkin")
    def _close(_connection: Any, entry: ConnectionPoolEntry) -> None:
        if is_disposed.is_set():
            entry.invalidate()


def _use_real_transactions(engine: Engine) -> None:
    """Start SQLite's transactions with BEGIN IMMEDIATE: they cover DDL, and writers queue instead of failing midway."""

    @event.listens_for(engine, "connect")
    def _disable_implicit_transactions(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        connection.execute("PRAGMA foreign_keys = ON")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
