"""The history's schema, brought up to date by Alembic. Apart from the store, whose users mostly need no migration."""

from collections.abc import Iterable, Sequence

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, Table, text

from trainingtask_api.names import HISTORY_READER_ROLE, HISTORY_TRAINER_ROLE
from trainingtask_api.run import OPERATORS_OWN
from trainingtask_api.store import EVENTS, POINTS, TABLE, in_sentences

_TABLES = (TABLE, POINTS, EVENTS)
_MIGRATION_SECONDS = 300
_MIGRATION_LOCK = 0x7472_6169_6E74_6173  # any fixed number: whoever migrates this history takes this lock


def migrate(
    engine: Engine, trainer_role: str | None = HISTORY_TRAINER_ROLE, reader_role: str | None = HISTORY_READER_ROLE
) -> None:
    """Bring the schema up to date and, on Postgres, give the trainers' and readers' roles their rights if they exist.

    The schema of a later release is left as it is: its columns are additions. Safe to call by any number of processes
    at once, and again at each start.

    Raises
    ------
    HistoryError, HistoryUnavailable
    """
    config = Config()
    config.set_main_option("script_location", "trainingtask_api:migrations")
    with in_sentences(engine), engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text(f"SET LOCAL statement_timeout = '{_MIGRATION_SECONDS}s'"))
            # Inside the transaction, so that whoever waits sees what the one before committed.
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
        config.attributes["connection"] = connection
        if not _is_of_a_later_release(connection, config):
            command.upgrade(config, "head")
        if connection.dialect.name == "postgresql":
            if trainer_role is not None and _exists(connection, trainer_role):
                _grant_to_trainers(connection, trainer_role)
            if reader_role is not None and _exists(connection, reader_role):
                _grant(connection, reader_role, ((table, ("SELECT",), None) for table in _TABLES))


def _is_of_a_later_release(connection: Connection, config: Config) -> bool:
    current = MigrationContext.configure(connection).get_current_revision()
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    return current is not None and current not in known


def _exists(connection: Connection, role: str) -> bool:
    found = text("SELECT 1 FROM pg_roles WHERE rolname = :role AND rolname <> current_user")
    return connection.execute(found, {"role": role}).first() is not None


def _grant_to_trainers(connection: Connection, role: str) -> None:
    """Give the trainers' role exactly what `record` needs: not what belongs to the operator and to other people."""
    columns = [column.name for column in TABLE.columns if column.name not in OPERATORS_OWN]
    additions = ((table, ("INSERT",), None) for table in (POINTS, EVENTS))
    _grant(connection, role, ((TABLE, ("SELECT", "INSERT", "UPDATE"), columns), *additions))


def _grant(
    connection: Connection, role: str, rights: Iterable[tuple[Table, Sequence[str], Sequence[str] | None]]
) -> None:
    """Give a role these rights on these columns, and no others on these tables. No columns: all of them."""
    quote = connection.dialect.identifier_preparer.quote_identifier
    schema = quote(connection.execute(text("SELECT current_schema()")).scalar_one())
    grantee = quote(role)
    connection.execute(text(f"GRANT USAGE ON SCHEMA {schema} TO {grantee}"))
    for table, verbs, columns in rights:
        name = f"{schema}.{quote(table.name)}"
        connection.execute(text(f"REVOKE ALL ON {name} FROM {grantee}"))
        only = f" ({', '.join(map(quote, columns))})" if columns else ""
        for verb in verbs:
            connection.execute(text(f"GRANT {verb}{only} ON {name} TO {grantee}"))
