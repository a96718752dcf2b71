"""The history's schema, brought up to date by Alembic. Apart from the store, whose users mostly need no migration."""

from collections.abc import Mapping
from types import MappingProxyType

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import IntegrityError, ProgrammingError

from trainingtask_history import roles
from trainingtask_history.store import translate_db_errors

_MIGRATION_SECONDS = 300
_TURN_SECONDS = 60
# A trainer's open transaction keeps a migration from its table, and a migration that waits keeps all others from it.
_LOCK_SECONDS = 5
# As Alembic creates it. Whoever migrates locks it, and nobody but its owner may: an advisory lock is anybody's to take.
_VERSION_TABLE = (
    "CREATE TABLE IF NOT EXISTS alembic_version"
    " (version_num VARCHAR(32) NOT NULL, CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num))"
)


def migrate(engine: Engine, trainers: Mapping[str, str | None] = MappingProxyType({})) -> None:
    """Bring the schema up to date and, on Postgres, provide the roles of trainers and readers.

    The schema of a later release is left as it is: its columns are additions. Safe to call by any number of processes
    at once, and again at each start.

    Parameters
    ----------
    engine
        Of the tables' owner.
    trainers
        Namespace -> password of its trainers' role, see `roles.grant`.

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
                connection.execute(text(f"SET LOCAL lock_timeout = '{_TURN_SECONDS}s'"))
                # In the same transaction, so that whoever waits sees what the one before committed.
                connection.execute(text("LOCK TABLE alembic_version IN ACCESS EXCLUSIVE MODE"))
                connection.execute(text(f"SET LOCAL lock_timeout = '{_LOCK_SECONDS}s'"))
            config.attributes["connection"] = connection
            if not _is_of_a_later_release(connection, config):
                command.upgrade(config, "head")
            if is_postgres:
                roles.grant(connection, trainers)


def _create_version_table(engine: Engine) -> None:
    try:
        with engine.begin() as connection:
            connection.execute(text(_VERSION_TABLE))
    except (IntegrityError, ProgrammingError):
        # Another process creates it at this moment: IF NOT EXISTS does not see what is not committed. Once more tells
        # whether that is all.
        with engine.begin() as connection:
            connection.execute(text(_VERSION_TABLE))


def _is_of_a_later_release(connection: Connection, config: Config) -> bool:
    current = MigrationContext.configure(connection).get_current_revision()
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    return current is not None and current not in known
