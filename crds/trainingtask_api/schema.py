"""The history's schema, brought up to date by Alembic. Apart from the store, whose users mostly need no migration."""

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text

from trainingtask_api.names import HISTORY_TRAINER_ROLE
from trainingtask_api.store import TABLE, in_sentences

_MIGRATION_SECONDS = 300
_MIGRATION_LOCK = 0x7472_6169_6E74_6173  # any fixed number: whoever migrates this history takes this lock


def migrate(engine: Engine, trainer_role: str | None = HISTORY_TRAINER_ROLE) -> None:
    """Bring the schema up to date and, on Postgres, give the trainers' role its rights if that role exists.

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
        if connection.dialect.name == "postgresql" and trainer_role is not None:
            _grant(connection, trainer_role)


def _is_of_a_later_release(connection: Connection, config: Config) -> bool:
    current = MigrationContext.configure(connection).get_current_revision()
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    return current is not None and current not in known


def _grant(connection: Connection, role: str) -> None:
    """Give the trainers' role exactly what `record` needs: not the logs, which are other people's as well."""
    exists = text("SELECT 1 FROM pg_roles WHERE rolname = :role AND rolname <> current_user")
    if connection.execute(exists, {"role": role}).first() is None:
        return
    quote = connection.dialect.identifier_preparer.quote_identifier
    schema = quote(connection.execute(text("SELECT current_schema()")).scalar_one())
    table = f"{schema}.{quote(TABLE.name)}"
    grantee = quote(role)
    connection.execute(text(f"GRANT USAGE ON SCHEMA {schema} TO {grantee}"))
    connection.execute(text(f"REVOKE ALL ON {table} FROM {grantee}"))
    columns = ", ".join(quote(column.name) for column in TABLE.columns if column.name != "log_tail")
    for right in ("SELECT", "INSERT", "UPDATE"):
        connection.execute(text(f"GRANT {right} ({columns}) ON {table} TO {grantee}"))
