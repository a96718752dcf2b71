"""The history's schema on a real Postgres and on SQLite: migrations, and who may do what."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Engine, MetaData, Table, insert, text, update
from sqlalchemy.exc import DBAPIError, ProgrammingError
from sqlmodel import SQLModel

from history_rows import NOW, a_run, stored
from postgres import Postgres
from trainingtask_api.names import HISTORY_READER_ROLE, HISTORY_TRAINER_ROLE
from trainingtask_api.run import MetricPoint, RunEvent, run_id
from trainingtask_api.schema import migrate
from trainingtask_api.store import (
    HistoryError,
    record,
)

ROLE_PASSWORD = "role-secret"


@contextmanager
def a_role(server: Postgres, database: str, name: str) -> Iterator[str]:
    server.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{ROLE_PASSWORD}'")
    yield name
    server.execute(f"DROP OWNED BY {name}", database=database)
    server.execute(f"DROP ROLE {name}")


@pytest.fixture
def trainer_role(postgres_server: Postgres, database: str) -> Iterator[str]:
    with a_role(postgres_server, database, HISTORY_TRAINER_ROLE) as name:
        yield name


@pytest.fixture
def reader_role(postgres_server: Postgres, database: str) -> Iterator[str]:
    with a_role(postgres_server, database, HISTORY_READER_ROLE) as name:
        yield name


def test_migrations_give_the_models_schema(engine: Engine) -> None:
    migrate(engine)  # again: nothing to do

    # What only Postgres has: the models, which SQLite shares, say nothing of it.
    def shared(item: Any, name: str | None, *_: Any) -> bool:
        return name not in ("training_run_words", "training_run_labels")

    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"include_object": shared})
        assert compare_metadata(context, SQLModel.metadata) == []


@pytest.mark.parametrize("revision", ["0001", "0002"])
def test_the_code_of_a_release_before_works_on_this_schema(empty: Engine, revision: str) -> None:
    """While an operator is rolled out, trainers of the release before still write."""
    with empty.begin() as connection:
        config = Config()
        config.set_main_option("script_location", "trainingtask_api:migrations")
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    before = Table("training_run", MetaData(), autoload_with=empty)
    migrate(empty)

    key = run_id("uid-1", 1)
    values = a_run().model_dump(exclude_none=True) | {"id": key.hex if empty.dialect.name == "sqlite" else key}
    known = {column.name for column in before.columns}
    old = {name: value for name, value in values.items() if name in known}
    with empty.begin() as connection:
        connection.execute(insert(before).values(old))
        connection.execute(update(before).values(status="Failed", finish_time=NOW))
    with pytest.raises(DBAPIError, match="final"), empty.begin() as connection:
        connection.execute(update(before).values(status="Running"))
    assert (stored(empty).status, stored(empty).log_tail) == ("Failed", None)


def test_the_schema_of_a_later_release_is_left_alone(engine: Engine) -> None:
    """An operator that is rolled back finds the schema of the release it replaces."""
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE training_run ADD COLUMN invented TEXT"))
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    migrate(engine)
    record(engine, a_run())
    assert stored(engine).status == "Running"


def test_four_migrators_at_once(empty: Engine) -> None:
    start = threading.Barrier(4)

    def go() -> None:
        start.wait()
        migrate(empty)

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(go) for _ in range(4)]:
            future.result(timeout=60)

    with empty.connect() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).all() == [("0003",)]
    record(empty, a_run())


def test_the_trainers_role_writes_runs_and_nothing_else(
    postgres: Engine,
    trainer_role: str,
    postgres_server: Postgres,
    opened: Callable[[str], Engine],
) -> None:
    migrate(postgres)
    trainer = opened(postgres_server.url(str(postgres.url.database), trainer_role, ROLE_PASSWORD))

    run = a_run()
    event = RunEvent(run_id=run.id, time=NOW, type="Phase", reason="Training")
    for _ in range(2):
        point = MetricPoint(run_id=run.id, name="training_loss", step=1, value=1.0)
        record(trainer, run, events=[event], points=[point])
    record(trainer, a_run(status="Succeeded", finish_time=NOW))
    assert stored(postgres).status == "Succeeded"
    for forbidden in (
        "DELETE FROM training_run",
        "TRUNCATE training_run",
        "SELECT log_tail FROM training_run",
        "UPDATE training_run SET log_tail = 'mine'",
        "UPDATE training_run SET namespace_uid = 'another tenant'",
        "UPDATE training_run SET labels = '{}'",
        "SELECT * FROM metric_point",
        "UPDATE metric_point SET value = 1",
        "DELETE FROM run_event",
        "SELECT * FROM alembic_version",
        "CREATE TABLE public.mine (a int)",
        "ALTER TABLE training_run DISABLE TRIGGER ALL",
        "DROP TRIGGER training_run_final ON training_run",
    ):
        with pytest.raises(ProgrammingError, match=r"permission denied|must be owner"), trainer.begin() as connection:
            connection.execute(text(forbidden))
    with pytest.raises(HistoryError, match="refused: permission denied"):
        migrate(trainer)


def test_the_readers_role_reads_and_nothing_else(
    postgres: Engine,
    reader_role: str,
    postgres_server: Postgres,
    opened: Callable[[str], Engine],
) -> None:
    migrate(postgres)
    record(postgres, a_run())
    reader = opened(postgres_server.url(str(postgres.url.database), reader_role, ROLE_PASSWORD))
    with reader.connect() as connection:
        for table in ("training_run", "metric_point", "run_event"):
            connection.execute(text(f"SELECT * FROM {table}"))
    for forbidden in (
        "UPDATE training_run SET score = 1",
        "DELETE FROM training_run",
        "INSERT INTO run_event SELECT * FROM run_event",
        "SELECT * FROM alembic_version",
    ):
        with pytest.raises(ProgrammingError, match="permission denied"), reader.begin() as connection:
            connection.execute(text(forbidden))


def test_migrating_again_takes_back_rights_that_were_too_many(postgres: Engine, trainer_role: str) -> None:
    migrate(postgres)
    with postgres.begin() as connection:
        connection.execute(text(f"GRANT DELETE ON training_run TO {trainer_role}"))
    migrate(postgres)

    with postgres.connect() as connection:
        whole = text(
            "SELECT table_name, privilege_type FROM information_schema.role_table_grants WHERE grantee = :role"
        )
        additions = {("metric_point", "INSERT"), ("run_event", "INSERT")}
        assert {(row[0], row[1]) for row in connection.execute(whole, {"role": trainer_role})} == additions
        columns = text(
            "SELECT DISTINCT privilege_type FROM information_schema.role_column_grants WHERE grantee = :role"
            " AND table_name = 'training_run' ORDER BY 1"
        )
        assert connection.execute(columns, {"role": trainer_role}).scalars().all() == ["INSERT", "SELECT", "UPDATE"]


def test_times_keep_their_zone_in_postgres(postgres: Engine) -> None:
    migrate(postgres)

    with postgres.connect() as connection:
        kinds = text(
            "SELECT DISTINCT data_type FROM information_schema.columns"
            " WHERE table_name = 'training_run' AND column_name LIKE '%\\_time' AND column_name <> 'total_time'"
        )
        assert connection.execute(kinds).scalars().all() == ["timestamp with time zone"]
