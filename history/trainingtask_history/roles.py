"""Roles and rights in the history's Postgres: one role per namespace for its trainers, one for readers.

Row-level security (migrations 0004 and 0005) confines each trainer role to the rows of its namespace, by the role's
name. The owner of the tables, which is the operator, is not confined.
"""

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence

from sqlalchemy import Connection, Engine, Table, text
from sqlalchemy.exc import DBAPIError

from trainingtask_api.names import HISTORY_READER_ROLE, HISTORY_TRAINER_ROLE
from trainingtask_history.errors import translate_db_errors
from trainingtask_history.tables import EVENTS, OPERATOR_COLUMNS, POINTS, RUNS

log = logging.getLogger(__name__)

_TABLES = (RUNS, POINTS, EVENTS)
_TRAINER_PREFIX = f"{HISTORY_TRAINER_ROLE}_"

_TRAINER_CONNECTIONS = 10  # of one namespace; each of its trainers connects every ten seconds, briefly
_READER_CONNECTIONS = 50
# Defaults of the roles' sessions; a session may change its own, hence `end_long_transactions`.
_SESSION_DEFAULTS = {
    "statement_timeout": "10s",
    "lock_timeout": "2s",
    "idle_in_transaction_session_timeout": "10s",
}
_MAX_TRANSACTION_SECONDS = 60


def get_trainer_role(namespace: str) -> str:
    """Return the name of the role of a namespace's trainers.

    Postgres cuts names to 63 bytes; a namespace of more than 42 characters is cut, with a part of its SHA-256.
    """
    if len(namespace) <= 42:
        return f"{_TRAINER_PREFIX}{namespace}"
    return f"{_TRAINER_PREFIX}{namespace[:31]}_{hashlib.sha256(namespace.encode()).hexdigest()[:10]}"


def grant(connection: Connection, passwords: Mapping[str, str | None] | None) -> None:
    """Grant the readers, and the trainers of these namespaces, exactly their rights.

    Missing roles are created if the owner has CREATEROLE; otherwise they are left to the database's admin, and only
    existing roles get their rights. Roles of other namespaces lose the right to connect to this database.

    Parameters
    ----------
    connection
        Of the tables' owner, in a transaction.
    passwords
        Namespace -> password of its trainer role; None keeps the password. None in place of the mapping, when the
        namespaces are not known, changes no right to connect.
    """
    can_create = _can_create_roles(connection)
    if can_create and not _has_role(connection, HISTORY_TRAINER_ROLE):
        connection.execute(text(f"CREATE ROLE {HISTORY_TRAINER_ROLE} NOLOGIN"))
    if _has_role(connection, HISTORY_TRAINER_ROLE):
        # Granted once, to the role of which each trainer role is a member.
        columns = [column.name for column in RUNS.columns if column.name not in OPERATOR_COLUMNS]
        additions = ((table, ("INSERT",), None) for table in (POINTS, EVENTS))
        _grant(connection, HISTORY_TRAINER_ROLE, ((RUNS, ("SELECT", "INSERT", "UPDATE"), columns), *additions))
        for namespace, password in (passwords or {}).items() if can_create else ():
            _provide_trainer_role(connection, get_trainer_role(namespace), password)
        if passwords is not None:
            _grant_connect(connection, [get_trainer_role(namespace) for namespace in passwords])
    if _has_role(connection, HISTORY_READER_ROLE):
        _grant(connection, HISTORY_READER_ROLE, ((table, ("SELECT",), None) for table in _TABLES))
        _create_reader_policies(connection)
        if can_create:
            _set_limits(connection, HISTORY_READER_ROLE, _READER_CONNECTIONS)


def end_revoked_sessions(engine: Engine) -> int:
    """End the sessions of trainer roles that have lost the right to connect; return their number.

    Raises
    ------
    HistoryError, HistoryUnavailable
    """
    statement = text(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database()"
        " AND starts_with(usename, :prefix) AND NOT has_database_privilege(usesysid, datid, 'CONNECT')"
        " AND pg_has_role(usesysid, 'USAGE')"
    )
    with translate_db_errors(engine), engine.begin() as connection:
        return int(connection.execute(statement, {"prefix": _TRAINER_PREFIX}).scalar_one())


def end_long_transactions(engine: Engine) -> int:
    """End the trainers' sessions whose transaction takes longer than a minute; return their number.

    A session may lift its role's timeouts and keep its locks, so only this bounds it. Postgres hides the transactions
    of roles that the owner is no member of.

    Raises
    ------
    HistoryError, HistoryUnavailable
    """
    statement = text(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database()"
        " AND starts_with(usename, :prefix) AND xact_start < now() - make_interval(secs => :seconds)"
    )
    values = {"prefix": HISTORY_TRAINER_ROLE, "seconds": _MAX_TRANSACTION_SECONDS}
    with translate_db_errors(engine), engine.begin() as connection:
        return int(connection.execute(statement, values).scalar_one())


def end_blocking_sessions(engine: Engine) -> int:
    """End the trainers' sessions that hold a lock which the owner waits for; return their number.

    Short transactions that overlap could keep a migration from its table for ever.

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


def _can_create_roles(connection: Connection) -> bool:
    found = text("SELECT rolcreaterole OR rolsuper FROM pg_roles WHERE rolname = current_user")
    return bool(connection.execute(found).scalar_one())


def _has_role(connection: Connection, role: str) -> bool:
    found = text("SELECT 1 FROM pg_roles WHERE rolname = :role AND rolname <> current_user")
    return connection.execute(found, {"role": role}).first() is not None


def _create_reader_policies(connection: Connection) -> None:
    """Create the readers' missing policies; the existing ones stay, as creating one locks its table."""
    existing = text("SELECT tablename FROM pg_policies WHERE policyname = 'readers' AND schemaname = current_schema()")
    missing = {table.name for table in _TABLES} - set(connection.execute(existing).scalars())
    for table in sorted(missing):
        connection.execute(text(f"CREATE POLICY readers ON {table} FOR SELECT TO {HISTORY_READER_ROLE} USING (true)"))


def _provide_trainer_role(connection: Connection, role: str, password: str | None) -> None:
    name = _quote(connection, role)
    if not _has_role(connection, role):
        # As a member the owner may see and end this role's transactions.
        connection.execute(text(f"CREATE ROLE {name} LOGIN IN ROLE {HISTORY_TRAINER_ROLE} ROLE CURRENT_USER"))
    _set_limits(connection, role, _TRAINER_CONNECTIONS, password)


def _grant_connect(connection: Connection, roles: Sequence[str]) -> None:
    """Let these trainer roles alone connect to this database; Postgres only warns where the owner may not grant it.

    LOGIN would not do: roles belong to all databases of a server, of which another may have a namespace of this name.
    """
    found = connection.execute(text("SELECT current_database(), current_user")).one()
    database, owner = (_quote(connection, name) for name in found)
    present = [role for role in roles if _has_role(connection, role)]
    for role in present:
        connection.execute(text(f"GRANT CONNECT ON DATABASE {database} TO {_quote(connection, role)}"))
    granted = text(
        "SELECT DISTINCT rolname FROM pg_database CROSS JOIN aclexplode(datacl) JOIN pg_roles ON pg_roles.oid = grantee"
        " WHERE datname = current_database() AND privilege_type = 'CONNECT' AND rolname <> ALL(:present)"
        " AND (rolname = :group OR starts_with(rolname, :prefix))"
    )
    values = {"present": present, "group": HISTORY_TRAINER_ROLE, "prefix": _TRAINER_PREFIX}
    for role in connection.execute(granted, values).scalars().all():
        connection.execute(text(f"REVOKE CONNECT ON DATABASE {database} FROM {_quote(connection, role)}"))
    left = text(
        "SELECT rolname FROM pg_roles WHERE starts_with(rolname, :prefix) AND rolname <> ALL(:present) AND rolcanlogin"
        " AND pg_has_role(oid, :group, 'MEMBER') AND has_database_privilege(oid, current_database(), 'CONNECT')"
        " ORDER BY rolname"
    )
    if removed := connection.execute(left, values).scalars().all():
        readers = [HISTORY_READER_ROLE] if _has_role(connection, HISTORY_READER_ROLE) else []
        log.warning(
            "the database roles %s may still connect, although their namespaces are not among trainer.namespaces; as the"
            " database's admin: GRANT CONNECT ON DATABASE %s TO %s; REVOKE CONNECT ON DATABASE %s FROM PUBLIC, %s;",
            ", ".join(removed),
            database,
            ", ".join([owner, *(_quote(connection, role) for role in (*present, *readers))]),
            database,
            ", ".join(_quote(connection, role) for role in (HISTORY_TRAINER_ROLE, *removed)),
        )


def _set_limits(connection: Connection, role: str, connections: int, password: str | None = None) -> None:
    """Set a role's limits and password; a role created by the admin keeps its own where the owner has no right."""
    name = _quote(connection, role)
    statements = [f"ALTER ROLE {name} CONNECTION LIMIT {connections}"]
    statements += [f"ALTER ROLE {name} SET {setting} = '{value}'" for setting, value in _SESSION_DEFAULTS.items()]
    if password is not None:
        statements.append(f"ALTER ROLE {name} PASSWORD '{_encrypt_password(connection, role, password)}'")
    try:
        with connection.begin_nested():
            for statement in statements:
                connection.exec_driver_sql(statement)
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) != "42501":  # insufficient_privilege
            raise
        log.warning("the limits of the database role %s are left to its admin: %s", role, error.orig)


def _encrypt_password(connection: Connection, role: str, password: str) -> str:
    """Return the SCRAM verifier of a password, so that the server and its statement log never get the password."""
    driver = connection.connection.driver_connection
    assert driver is not None  # noqa: S101 - connected
    encrypted: bytes = driver.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256")
    return encrypted.decode()


def _grant(
    connection: Connection, role: str, rights: Iterable[tuple[Table, Sequence[str], Sequence[str] | None]]
) -> None:
    """Grant a role exactly these rights on these tables; None stands for all columns."""
    schema = _quote(connection, connection.execute(text("SELECT current_schema()")).scalar_one())
    grantee = _quote(connection, role)
    connection.execute(text(f"GRANT USAGE ON SCHEMA {schema} TO {grantee}"))
    for table, verbs, columns in rights:
        name = f"{schema}.{_quote(connection, table.name)}"
        connection.execute(text(f"REVOKE ALL ON {name} FROM {grantee}"))
        column_list = f" ({', '.join(_quote(connection, column) for column in columns)})" if columns else ""
        for verb in verbs:
            connection.execute(text(f"GRANT {verb}{column_list} ON {name} TO {grantee}"))


def _quote(connection: Connection, name: str) -> str:
    return connection.dialect.identifier_preparer.quote_identifier(name)
