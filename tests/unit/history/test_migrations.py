"""The migrations of the schema on Postgres and on SQLite."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Engine, MetaData, Table, insert, text, update
from sqlalchemy.exc import DBAPIError
from sqlmodel import SQLModel

from support.stored_runs import NOW, load_run, make_run
from trainingtask_history.maintenance import list_open_runs
from trainingtask_history.migrations.runner import migrate
from trainingtask_history.store import record
from trainingtask_history.tables import run_id

# SQLAlchemy cannot reflect a CHECK that is NOT VALID.
NOT_VALID = pytest.mark.filterwarnings("ignore:Can't validate argument 'dialect_options'")


@pytest.fixture
def engine(empty_history: Engine) -> Engine:
    """Return an engine for a migrated history that a test may change."""
    migrate(empty_history)
    return empty_history


def upgrade(engine: Engine, revision: str) -> None:
    """Migrate an empty database to the schema of an earlier release."""
    with engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", "trainingtask_history:migrations")
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


@NOT_VALID
def test_migrations_give_the_models_schema(engine: Engine) -> None:
    migrate(engine)  # again: nothing to do

    # Indexes of Postgres only are not in the models, which SQLite shares.
    def shared(item: Any, name: str | None, *_: Any) -> bool:
        return name not in ("training_run_words", "training_run_labels")

    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"include_object": shared})
        assert compare_metadata(context, SQLModel.metadata) == []


@NOT_VALID
@pytest.mark.parametrize("revision", ["0001", "0002", "0005"])
def test_an_earlier_release_can_write_to_this_schema(empty_history: Engine, revision: str) -> None:
    """During a rollout, trainers of the earlier release still write."""
    upgrade(empty_history, revision)
    before = Table("training_run", MetaData(), autoload_with=empty_history)
    migrate(empty_history)

    key = run_id("uid-1", 1)
    values = make_run().model_dump(exclude_none=True) | {
        "id": key.hex if empty_history.dialect.name == "sqlite" else key
    }
    known = {column.name for column in before.columns}
    old = {name: value for name, value in values.items() if name in known}
    with empty_history.begin() as connection:
        connection.execute(insert(before).values(old))
        connection.execute(update(before).values(status="Failed", finish_time=NOW))
    with pytest.raises(DBAPIError, match="final"), empty_history.begin() as connection:
        connection.execute(update(before).values(status="Running"))
    assert (load_run(empty_history).status, load_run(empty_history).log_tail) == ("Failed", None)


def test_the_schema_of_a_later_release_is_kept(engine: Engine) -> None:
    """An operator that is rolled back finds the later schema."""
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE training_run ADD COLUMN invented TEXT"))
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    migrate(engine)
    record(engine, make_run())
    assert load_run(engine).status == "Running"


def test_four_concurrent_migrations_succeed(empty_history: Engine) -> None:
    start = threading.Barrier(4)

    def run_migration() -> None:
        start.wait()
        migrate(empty_history)

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(run_migration) for _ in range(4)]:
            future.result(timeout=60)

    with empty_history.connect() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).all() == [("0006",)]
    record(empty_history, make_run())


def test_an_infinite_time_of_an_earlier_release_is_migrated_to_null(postgres: Engine) -> None:
    upgrade(postgres, "0003")
    with postgres.begin() as connection:
        columns = "id, task_uid, namespace, name, attempt, dataset, model, device, status, node, start_time"
        values = "gen_random_uuid(), 'uid', 'a', 'task', 1, 'd', 'm', 'cpu', 'Running', 'node', 'infinity'"
        connection.execute(text(f"INSERT INTO training_run ({columns}) VALUES ({values})"))
    migrate(postgres)
    assert [run.start_time for run in list_open_runs(postgres)] == [None]


def test_times_keep_their_zone_in_postgres(postgres: Engine) -> None:
    migrate(postgres)

    with postgres.connect() as connection:
        kinds = text(
            "SELECT DISTINCT data_type FROM information_schema.columns"
            " WHERE table_name = 'training_run' AND column_name LIKE '%\\_time' AND column_name <> 'total_time'"
        )
        assert connection.execute(kinds).scalars().all() == ["timestamp with time zone"]
