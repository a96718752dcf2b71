"""The history store on a real Postgres and on SQLite: what a row survives, and who may touch it."""

import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Engine, MetaData, Table, insert, text, update
from sqlalchemy.exc import DBAPIError, ProgrammingError
from sqlmodel import Session, SQLModel, select

from postgres import Postgres
from trainingtask_api.names import HISTORY_TRAINER_ROLE
from trainingtask_api.run import TrainingRun, run_id
from trainingtask_api.schema import migrate
from trainingtask_api.store import (
    HistoryError,
    HistoryUnavailable,
    cancel_run,
    open_history,
    open_runs,
    record,
)

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
TRAINER_PASSWORD = "trainer-secret"


def a_run(**changes: Any) -> TrainingRun:
    fields: dict[str, Any] = {
        "id": run_id("uid-1", 1),
        "task_uid": "uid-1",
        "namespace": "default",
        "name": "quickstart",
        "attempt": 1,
        "dataset": "support_tickets",
        "model": "logistic_regression",
        "device": "cpu",
        "status": "Running",
    }
    return TrainingRun(**(fields | changes))


def stored(engine: Engine) -> TrainingRun:
    with Session(engine) as session:
        return session.exec(select(TrainingRun)).one()


def in_utc(time: datetime | None) -> datetime | None:
    """SQLite returns times without their zone; they were stored in UTC."""
    return time and (time if time.tzinfo else time.replace(tzinfo=UTC))


@pytest.fixture
def database(postgres_server: Postgres) -> Iterator[str]:
    name = postgres_server.create_database()
    yield name
    postgres_server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def trainer_role(postgres_server: Postgres, database: str) -> Iterator[str]:
    postgres_server.execute(f"CREATE ROLE {HISTORY_TRAINER_ROLE} LOGIN PASSWORD '{TRAINER_PASSWORD}'")
    yield HISTORY_TRAINER_ROLE
    postgres_server.execute(f"DROP OWNED BY {HISTORY_TRAINER_ROLE}", database=database)
    postgres_server.execute(f"DROP ROLE {HISTORY_TRAINER_ROLE}")


@pytest.fixture
def opened() -> Iterator[Callable[[str], Engine]]:
    engines: list[Engine] = []

    def opened(url: str) -> Engine:
        engines.append(open_history(url))
        return engines[-1]

    yield opened
    for engine in engines:
        engine.dispose()


@pytest.fixture
def postgres(postgres_server: Postgres, database: str, opened: Callable[[str], Engine]) -> Engine:
    return opened(postgres_server.url(database, database, database))


@pytest.fixture(params=["postgres", "sqlite"])
def empty(request: pytest.FixtureRequest, tmp_path: Path, opened: Callable[[str], Engine]) -> Engine:
    if request.param == "sqlite":
        return opened(f"sqlite:///{tmp_path}/history.db")
    engine: Engine = request.getfixturevalue("postgres")
    return engine


@pytest.fixture
def engine(empty: Engine) -> Engine:
    migrate(empty)
    return empty


def test_migrations_give_the_models_schema(engine: Engine) -> None:
    migrate(engine)  # again: nothing to do

    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), SQLModel.metadata) == []


def test_the_code_of_the_release_before_works_on_this_schema(empty: Engine) -> None:
    """While an operator is rolled out, trainers of the release before still write."""
    with empty.begin() as connection:
        config = Config()
        config.set_main_option("script_location", "trainingtask_api:migrations")
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
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


def test_the_log_is_added_to_a_finished_row_once_and_nothing_else_is(engine: Engine) -> None:
    record(engine, a_run(status="Failed", finish_time=NOW, error_reason="OOMKilled"))
    record(engine, a_run(status="Failed", finish_time=NOW, error_reason="Other", log_tail="Killed"))
    assert (stored(engine).error_reason, stored(engine).log_tail) == ("OOMKilled", "Killed")
    record(engine, a_run(status="Failed", finish_time=NOW, log_tail="Something else"))
    assert stored(engine).log_tail == "Killed"
    for change in ("log_tail = 'x'", "status = 'Running'", "finish_time = NULL", "error_reason = 'x'"):
        with pytest.raises(DBAPIError, match="final"), engine.begin() as connection:
            connection.execute(text(f"UPDATE training_run SET {change}"))


def test_every_column_but_the_log_is_final(engine: Engine) -> None:
    record(engine, a_run(status="Succeeded", finish_time=NOW))
    for column in TrainingRun.__table__.columns:  # type: ignore[attr-defined]
        if column.name != "log_tail":
            with pytest.raises(DBAPIError, match="final"), engine.begin() as connection:
                connection.execute(text(f"UPDATE training_run SET {column.name} = {column.name}"))


def test_rows_of_tasks_that_are_gone_are_found_and_closed(engine: Engine) -> None:
    start = NOW - timedelta(minutes=5)
    record(engine, a_run(node="node-1", start_time=start, create_time=start))
    record(engine, a_run(id=run_id("laptop", 1), task_uid="laptop"))  # runs on no node
    record(engine, a_run(id=run_id("done", 1), task_uid="done", node="node-1", status="Succeeded", finish_time=NOW))
    (found,) = open_runs(engine)
    assert (found.task_uid, found.namespace, found.name) == ("uid-1", "default", "quickstart")

    cancel_run(engine, found, NOW)
    assert open_runs(engine) == []
    with Session(engine) as session:
        row = session.get_one(TrainingRun, run_id("uid-1", 1))
        assert (row.status, row.error_reason, row.total_time) == ("Cancelled", "Cancelled", 300.0)
        laptop = session.get_one(TrainingRun, run_id("laptop", 1))
        assert laptop.finish_time is None


def test_a_row_that_became_final_meanwhile_is_not_cancelled(engine: Engine) -> None:
    record(engine, a_run(node="node-1"))
    (found,) = open_runs(engine)
    record(engine, a_run(status="Succeeded", finish_time=NOW))
    cancel_run(engine, found, NOW)
    assert stored(engine).status == "Succeeded"


def test_four_migrators_at_once(empty: Engine) -> None:
    start = threading.Barrier(4)

    def go() -> None:
        start.wait()
        migrate(empty)

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(go) for _ in range(4)]:
            future.result(timeout=60)

    with empty.connect() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).all() == [("0002",)]
    record(empty, a_run())


def test_a_row_is_kept_as_it_was_written(engine: Engine) -> None:
    elsewhere = timezone(timedelta(hours=5, minutes=30))
    record(
        engine,
        a_run(
            status="Succeeded",
            create_time=NOW,
            finish_time=NOW.astimezone(elsewhere),
            total_time=61.5,
            spec={"dataset": {"name": "support_tickets"}, "labels": ["ä", "b"]},
            evaluate_result={"micro": {"f1": 0.75}},
        ),
    )

    row = stored(engine)
    assert row.id == run_id("uid-1", 1)
    assert (in_utc(row.create_time), in_utc(row.finish_time), row.start_time) == (NOW, NOW, None)
    assert row.total_time == 61.5
    assert row.spec == {"dataset": {"name": "support_tickets"}, "labels": ["ä", "b"]}
    assert row.evaluate_result == {"micro": {"f1": 0.75}}


def test_recording_twice_is_recording_once(engine: Engine) -> None:
    for _ in range(2):
        record(engine, a_run(start_time=NOW, spec={"device": "cpu"}))

    row = stored(engine)
    assert (row.status, in_utc(row.start_time), row.spec) == ("Running", NOW, {"device": "cpu"})


def test_none_never_overwrites(engine: Engine) -> None:
    record(engine, a_run(start_time=NOW, spec={"device": "cpu"}, node="node-1"))
    record(engine, a_run(status="Interrupted", trainer_image="trainer:1"))

    row = stored(engine)
    assert (row.status, in_utc(row.start_time), row.spec, row.node, row.trainer_image) == (
        "Interrupted",
        NOW,
        {"device": "cpu"},
        "node-1",
        "trainer:1",
    )


def test_none_is_null_in_json_columns_too(engine: Engine) -> None:
    record(engine, a_run())

    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM training_run WHERE spec IS NULL")).scalar_one() == 1


def test_a_finished_row_never_changes(engine: Engine) -> None:
    record(engine, a_run(status="Succeeded", finish_time=NOW, total_time=2.0))
    record(engine, a_run(status="Failed", finish_time=NOW + timedelta(hours=1), error_reason="Late", node="node-2"))

    row = stored(engine)
    assert (row.status, in_utc(row.finish_time), row.error_reason, row.node) == ("Succeeded", NOW, None, None)
    with pytest.raises(DBAPIError, match="final"), engine.begin() as connection:
        connection.execute(text("UPDATE training_run SET status = 'Failed'"))


def test_two_writers_at_once_leave_one_row_and_one_end(engine: Engine) -> None:
    start = threading.Barrier(2)

    def write(status: str) -> None:
        start.wait()
        for _ in range(20):
            record(engine, a_run(start_time=NOW))
        record(engine, a_run(status=status, finish_time=NOW, error_reason=status))

    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(write, status) for status in ("Succeeded", "Failed")]:
            future.result(timeout=60)

    row = stored(engine)
    assert row.status == row.error_reason
    assert in_utc(row.start_time) == NOW


def test_attempts_have_rows_of_their_own(engine: Engine) -> None:
    record(engine, a_run())
    record(engine, a_run(id=run_id("uid-1", 2), attempt=2))

    with Session(engine) as session:
        assert {row.attempt for row in session.exec(select(TrainingRun))} == {1, 2}
    with pytest.raises(HistoryError, match=r"refused: .*(unique|UNIQUE)"):
        record(engine, a_run(id=uuid.uuid4()))


def test_a_time_without_zone_is_refused(engine: Engine) -> None:
    with pytest.raises(ValueError, match="start_time has no time zone"):
        record(engine, a_run(start_time=NOW.replace(tzinfo=None)))


def test_text_that_a_database_cannot_hold_costs_characters_not_the_row(engine: Engine) -> None:
    record(engine, a_run(error_message="x" * 5000, error_reason="a\x00b\udc80", spec={"delimiter": ["\x00", 1]}))

    row = stored(engine)
    assert (row.error_message, row.error_reason, row.spec) == ("x" * 4096, "a?b?", {"delimiter": ["?", 1]})


def test_the_trainers_role_writes_runs_and_nothing_else(
    postgres: Engine,
    trainer_role: str,
    postgres_server: Postgres,
    opened: Callable[[str], Engine],
) -> None:
    migrate(postgres)
    trainer = opened(postgres_server.url(str(postgres.url.database), trainer_role, TRAINER_PASSWORD))

    record(trainer, a_run())
    record(trainer, a_run(status="Succeeded", finish_time=NOW))
    assert stored(postgres).status == "Succeeded"
    for forbidden in (
        "DELETE FROM training_run",
        "TRUNCATE training_run",
        "SELECT log_tail FROM training_run",
        "UPDATE training_run SET log_tail = 'mine'",
        "SELECT * FROM alembic_version",
        "CREATE TABLE public.mine (a int)",
        "ALTER TABLE training_run DISABLE TRIGGER ALL",
        "DROP TRIGGER training_run_final ON training_run",
    ):
        with pytest.raises(ProgrammingError, match=r"permission denied|must be owner"), trainer.begin() as connection:
            connection.execute(text(forbidden))
    with pytest.raises(HistoryError, match="refused: permission denied"):
        migrate(trainer)


def test_migrating_again_takes_back_rights_that_were_too_many(postgres: Engine, trainer_role: str) -> None:
    migrate(postgres)
    with postgres.begin() as connection:
        connection.execute(text(f"GRANT DELETE ON training_run TO {trainer_role}"))
    migrate(postgres)

    with postgres.connect() as connection:
        whole = text("SELECT privilege_type FROM information_schema.role_table_grants WHERE grantee = :role")
        assert connection.execute(whole, {"role": trainer_role}).scalars().all() == []
        columns = text(
            "SELECT DISTINCT privilege_type FROM information_schema.role_column_grants WHERE grantee = :role ORDER BY 1"
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


@pytest.mark.parametrize(
    "url",
    [
        "hunter2",
        "",
        "mysql://user:hunter2@host/db",
        "postgresql+asyncpg://user:hunter2@host/db",
        "postgresql://user:hun@hunter2@host/db",
        "postgresql://user:a@b:hunter2@host/db",
        "postgresql://user:hunter2@/db",
        "postgresql://user:hunter2@host",
        "postgresql://user:hunter2@host:port/db",
        "postgresql+nonsense://user:hunter2@host/db",
    ],
)
def test_a_bad_url_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(HistoryError, match="the history URL") as refused:
        open_history(url)

    assert "hunter2" not in str(refused.value)
    assert refused.value.__suppress_context__ or refused.value.__context__ is None


@pytest.mark.parametrize("scheme", ["postgresql", "postgresql+psycopg", "postgres"])
def test_postgres_is_spoken_through_psycopg_3(scheme: str) -> None:
    engine = open_history(f" {scheme}://user:secret@host/db\n")

    assert (engine.dialect.name, engine.dialect.driver) == ("postgresql", "psycopg")
    assert "secret" not in repr(engine)


def test_a_refused_password_is_not_in_the_error(
    postgres_server: Postgres,
    database: str,
    opened: Callable[[str], Engine],
) -> None:
    with pytest.raises(HistoryUnavailable, match="password authentication failed") as refused:
        migrate(opened(postgres_server.url(database, database, "hunter2")))

    assert "hunter2" not in str(refused.value)


def test_an_absent_server_is_named_without_the_password(opened: Callable[[str], Engine]) -> None:
    with pytest.raises(HistoryUnavailable, match=r"'db' at 127\.0\.0\.1:1 did not answer") as refused:
        record(opened("postgresql://user:hunter2@127.0.0.1:1/db"), a_run())

    assert "hunter2" not in str(refused.value)


def test_a_row_in_an_error_is_not_quoted(engine: Engine) -> None:
    with pytest.raises(HistoryError) as refused:
        record(engine, a_run(attempt="hunter2" if engine.dialect.name == "postgresql" else None))

    assert "quickstart" not in str(refused.value)


def test_the_store_answers_again_after_a_restart_of_postgres(postgres: Engine, postgres_server: Postgres) -> None:
    migrate(postgres)
    record(postgres, a_run())
    postgres_server.stop()
    try:
        with pytest.raises(HistoryUnavailable):
            record(postgres, a_run(status="Succeeded"))
    finally:
        postgres_server.start()

    record(postgres, a_run(status="Succeeded"))
    assert stored(postgres).status == "Succeeded"
