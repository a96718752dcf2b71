"""Who may do what in the history's Postgres: one role per namespace for its trainers, one for whoever reads.

Row-level security (migration 0004) confines each of the trainers' roles to the rows of its namespace, by its name. The
owner of the tables, which is the operator, is not confined.
"""

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence

from sqlalchemy import Connection, Engine, Table, text
from sqlalchemy.exc import DBAPIError

from trainingtask_api.names import HISTORY_READER_ROLE, HISTORY_TRAINER_ROLE
from trainingtask_history.store import EVENTS, POINTS, TABLE, translate_db_errors
from trainingtask_history.tables import OPERATORS_OWN

log = logging.getLogger(__name__)

TABLES = (TABLE, POINTS, EVENTS)

_TRAINER_CONNECTIONS = 10  # of one namespace at a time; a trainer connects for a moment, every ten seconds
_READER_CONNECTIONS = 50
# Defaults of the roles' sessions. A session may set others for itself, which `end_long_transactions` bounds.
_SETTINGS = {
    "statement_timeout": "10s",
    "lock_timeout": "2s",
    "idle_in_transaction_session_timeout": "10s",
}
_LONGEST_TRANSACTION_SECONDS = 60


def trainer_role(namespace: str) -> str:
    """Return the name of the role that stands for the trainers of a namespace.

    Postgres cuts names to 63 bytes; a namespace of more than 42 characters is cut, with a part of its SHA-256.
    """
    if len(namespace) <= 42:
        return f"{HISTORY_TRAINER_ROLE}_{namespace}"
    return f"{HISTORY_TRAINER_ROLE}_{namespace[:31]}_{hashlib.sha256(namespace.encode()).hexdigest()[:10]}"


def grant(connection: Connection, trainers: Mapping[str, str | None]) -> None:
    """Give the readers and the trainers of these namespaces their rights, and no others.

    Roles that do not exist are created where the owner may (CREATEROLE); elsewhere they are left to the database's
    admin, and only what is granted to roles that exist is set.

    Parameters
    ----------
    connection
        Of the tables' owner, in a transaction.
    trainers
        Namespace -> password of its role; None leaves the password alone.
    """
    may_create = _may_create_roles(connection)
    if may_create and not _exists(connection, HISTORY_TRAINER_ROLE):
        connection.execute(text(f"CREATE ROLE {HISTORY_TRAINER_ROLE} NOLOGIN"))
    if _exists(connection, HISTORY_TRAINER_ROLE):
        # What all of them may do is granted once, to the role of which each is a member.
        columns = [column.name for column in TABLE.columns if column.name not in OPERATORS_OWN]
        additions = ((table, ("INSERT",), None) for table in (POINTS, EVENTS))
        _grant(connection, HISTORY_TRAINER_ROLE, ((TABLE, ("SELECT", "INSERT", "UPDATE"), columns), *additions))
        for namespace, password in trainers.items() if may_create else ():
            _provide_trainer(connection, trainer_role(namespace), password)
    if _exists(connection, HISTORY_READER_ROLE):
        _grant(connection, HISTORY_READER_ROLE, ((table, ("SELECT",), None) for table in TABLES))
        _let_readers_see_all(connection)
        if may_create:
            _limit(connection, HISTORY_READER_ROLE, _READER_CONNECTIONS)


def end_long_transactions(engine: Engine) -> int:
    """End the trainers' sessions whose transaction takes longer than a minute; return how many.

    A session may lift the timeouts that its role comes with, and hold on to its locks: this is what bounds it. Of roles
    that the owner is no member of, Postgres does not tell how long they take.

    Raises
    ------
    HistoryError, HistoryUnavailable
    """
    statement = text(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database()"
        " AND starts_with(usename, :prefix) AND xact_start < now() - make_interval(secs => :seconds)"
    )
    values = {"prefix": HISTORY_TRAINER_ROLE, "seconds": _LONGEST_TRANSACTION_SECONDS}
    with translate_db_errors(engine), engine.begin() as connection:
        return int(connection.execute(statement, values).scalar_one())


def end_blocking_sessions(engine: Engine) -> int:
    """End the trainers' sessions that keep one of the owner's waiting for a lock; return how many.

    Transactions of seconds that overlap would keep a migration from its table for ever, and none of them lasts.

    Raises
    ------
    HistoryError, HistoryUnavailable
    """
    statement = text(
        "SELECT count(pg_terminate_backend(blocking.pid)) FROM pg_stat_activity waiting"
        " CROSS JOIN unnest(pg_blocking_pids(waiting.pid)) AS blocker(pid)"
        " JOIN pg_stat_activity blocking ON blocking.pid = blocker.pid"
        " WHERE waiting.usename = current_user AND waiting.datname = current_database()"
        " AND waiting.wait_event_type = 'Lock' AND starts_with(blocking.usename, :prefix)"
    )
    with translate_db_errors(engine), engine.begin() as connection:
        return int(connection.execute(statement, {"prefix": HISTORY_TRAINER_ROLE}).scalar_one())


def _may_create_roles(connection: Connection) -> bool:
    found = text("SELECT rolcreaterole OR rolsuper FROM pg_roles WHERE rolname = current_user")
    return bool(connection.execute(found).scalar_one())


def _exists(connection: Connection, role: str) -> bool:
    found = text("SELECT 1 FROM pg_roles WHERE rolname = :role AND rolname <> current_user")
    return connection.execute(found, {"role": role}).first() is not None


def _let_readers_see_all(connection: Connection) -> None:
    """Create the readers' policies where they are missing: to create one locks its table against everybody."""
    existing = text("SELECT tablename FROM pg_policies WHERE policyname = 'readers' AND schemaname = current_schema()")
    missing = {table.name for table in TABLES} - set(connection.execute(existing).scalars())
    for table in sorted(missing):
        connection.execute(text(f"CREATE POLICY readers ON {table} FOR SELECT TO {HISTORY_READER_ROLE} USING (true)"))


def _provide_trainer(connection: Connection, role: str, password: str | None) -> None:
    name = _quoted(connection, role)
    if not _exists(connection, role):
        # As a member the owner sees this role's transactions, and may end them.
        connection.execute(text(f"CREATE ROLE {name} LOGIN IN ROLE {HISTORY_TRAINER_ROLE} ROLE CURRENT_USER"))
    _limit(connection, role, _TRAINER_CONNECTIONS, password)


def _limit(connection: Connection, role: str, connections: int, password: str | None = None) -> None:
    """Set a role's limits, and its password; a role that somebody else made may be out of reach, and keeps its own."""
    name = _quoted(connection, role)
    statements = [f"ALTER ROLE {name} CONNECTION LIMIT {connections}"]
    statements += [f"ALTER ROLE {name} SET {setting} = '{value}'" for setting, value in _SETTINGS.items()]
    if password is not None:
        statements.append(f"ALTER ROLE {name} PASSWORD '{_verifier(connection, role, password)}'")
    try:
        with connection.begin_nested():
            for statement in statements:
                connection.exec_driver_sql(statement)
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) != "42501":  # insufficient_privilege
            raise
        log.warning("the limits of the database role %s are left to its admin: %s", role, error.orig)


def _verifier(connection: Connection, role: str, password: str) -> str:
    """Return the SCRAM verifier of a password: the server, and its log of statements, never see the password itself."""
    driver = connection.connection.driver_connection
    assert driver is not None  # noqa: S101 - connected
    encrypted: bytes = driver.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256")
    return encrypted.decode()


def _grant(
    connection: Connection, role: str, rights: Iterable[tuple[Table, Sequence[str], Sequence[str] | None]]
) -> None:
    """Give a role these rights on these columns, and no others on these tables. No columns: all of them."""
    schema = _quoted(connection, connection.execute(text("SELECT current_schema()")).scalar_one())
    grantee = _quoted(connection, role)
    connection.execute(text(f"GRANT USAGE ON SCHEMA {schema} TO {grantee}"))
    for table, verbs, columns in rights:
        name = f"{schema}.{_quoted(connection, table.name)}"
        connection.execute(text(f"REVOKE ALL ON {name} FROM {grantee}"))
        only = f" ({', '.join(_quoted(connection, column) for column in columns)})" if columns else ""
        for verb in verbs:
            connection.execute(text(f"GRANT {verb}{only} ON {name} TO {grantee}"))


def _quoted(connection: Connection, name: str) -> str:
    return connection.dialect.identifier_preparer.quote_identifier(name)
