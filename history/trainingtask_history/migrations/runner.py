"""Runs the migrations with Alembic, which users of the store need not import."""

from collections.abc import Mapping

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import IntegrityError, ProgrammingError

from trainingtask_history import roles
from trainingtask_history.errors import translate_db_errors

_MIGRATION_SECONDS = 300
_QUEUE_SECONDS = 60
# A migration that waits for a trainer's open transaction blocks every other session on the table.
_LOCK_SECONDS = 5
# As Alembic creates it. It is the migrations' lock, which only the owner may take; an advisory lock any role may.
_VERSION_TABLE = (
    "CREATE TABLE IF NOT EXISTS alembic_version"
    " (version_num VARCHAR(32) NOT NULL, CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num))"
)


def migrate(engine: Engine, trainer_passwords: Mapping[str, str | None] | None = None) -> None:
    """Upgrade the schema and, on Postgres, grant the rights of trainers and readers.

    The schema of a later release is left as it is: its columns are additions. Processes may call this concurrently, and
    at each start.

    Parameters
    ----------
    engine
        Of the tables' owner.
    trainer_passwords
        Namespace -> password of its trainer role, see `roles.grant`; None when the namespaces are not known.

    Raises
    ------
    HistoryError, HistoryUnavailable
    """
    config = Config()
    config.set_main_option("script_location", "trainingtask_history:migrations")
    with translate_db_errors(engine):
        is_postgres = engine.dialect.name == "postgresql"
        if is_postgres:
            _create_version_table(engine)
        with engine.begin() as connection:
            if is_postgres:
                connection.execute(text(f"SET LOCAL statement_timeout = '{_MIGRATION_SECONDS}s'"))
                connection.execute(text(f"SET LOCAL lock_timeout = '{_QUEUE_SECONDS}s'"))
                # In the same transaction, so that a process that waited sees the revisions just committed.
                connection.execute(text("LOCK TABLE alembic_version IN ACCESS EXCLUSIVE MODE"))
                connection.execute(text(f"SET LOCAL lock_timeout = '{_LOCK_SECONDS}s'"))
            config.attributes["connection"] = connection
            if not _is_later_release(connection, config):
                command.upgrade(config, "head")
            if is_postgres:
                roles.grant(connection, trainer_passwords)
        if is_postgres and trainer_passwords is not None:  # after the commit, before which a session could come back
            roles.end_revoked_sessions(engine)


def _create_version_table(engine: Engine) -> None:
    try:
        with engine.begin() as connection:
            connection.execute(text(_VERSION_TABLE))
    except (IntegrityError, ProgrammingError):
        # Another process is creating it: IF NOT EXISTS does not see uncommitted tables. A second error is another cause.
        with engine.begin() as connection:
            connection.execute(text(_VERSION_TABLE))


def _is_later_release(connection: Connection, config: Config) -> bool:
    current = MigrationContext.configure(connection).get_current_revision()
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    return current is not None and current not in known
