"""Engines of the history and the errors of the database: URLs, passwords and restarts."""

from collections.abc import Callable

import psycopg
import pytest
from sqlalchemy import Engine

from support.postgres import Postgres
from support.stored_runs import load_run, make_run
from trainingtask_history.engine import open_history
from trainingtask_history.errors import HistoryError, HistoryUnavailable
from trainingtask_history.migrations.runner import migrate
from trainingtask_history.store import record


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
        "postgresql://user:hunter2@one:5432,two:port/db",
        "postgresql://user:hun@hunter2@one:5432,two:5432/db",
    ],
)
def test_a_bad_url_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(HistoryError, match="the history URL") as refused:
        open_history(url)

    assert "hunter2" not in str(refused.value)
    assert refused.value.__suppress_context__ or refused.value.__context__ is None


@pytest.mark.parametrize("scheme", ["postgresql", "postgresql+psycopg", "postgres"])
def test_postgres_urls_use_psycopg_3(scheme: str) -> None:
    engine = open_history(f" {scheme}://user:secret@host/db\n")

    assert (engine.dialect.name, engine.dialect.driver) == ("postgresql", "psycopg")
    assert "secret" not in repr(engine)


def test_a_refused_password_is_not_in_the_error(
    postgres_server: Postgres,
    database: str,
    open_engine: Callable[[str], Engine],
) -> None:
    with pytest.raises(HistoryUnavailable, match="password authentication failed") as refused:
        migrate(open_engine(postgres_server.url(database, database, "hunter2")))

    assert "hunter2" not in str(refused.value)


def test_an_absent_server_is_named_without_the_password(open_engine: Callable[[str], Engine]) -> None:
    with pytest.raises(HistoryUnavailable, match=r"'db' at 127\.0\.0\.1:1 did not answer") as refused:
        record(open_engine("postgresql://user:hunter2@127.0.0.1:1/db"), make_run())

    assert "hunter2" not in str(refused.value)


def test_a_row_in_an_error_is_not_quoted(engine: Engine) -> None:
    with pytest.raises(HistoryError) as refused:
        record(engine, make_run(attempt="hunter2" if engine.dialect.name == "postgresql" else None))

    assert "quickstart" not in str(refused.value)


def test_the_store_reconnects_after_a_restart_of_postgres(postgres: Engine, postgres_server: Postgres) -> None:
    migrate(postgres)
    record(postgres, make_run())
    postgres_server.stop()
    try:
        with pytest.raises(HistoryUnavailable):
            record(postgres, make_run(status="Succeeded"))
    finally:
        postgres_server.start()

    record(postgres, make_run(status="Succeeded"))
    assert load_run(postgres).status == "Succeeded"


def test_a_connection_that_was_in_use_at_the_disposal_is_closed_afterwards(postgres: Engine) -> None:
    with postgres.connect() as connection:
        session = connection.connection.dbapi_connection
        postgres.dispose()
        assert connection.exec_driver_sql("SELECT 1").scalar_one() == 1
    assert isinstance(session, psycopg.Connection)
    assert session.closed


def test_a_standby_is_left_and_named(
    postgres_server: Postgres, database: str, open_engine: Callable[[str], Engine]
) -> None:
    url = postgres_server.url(database, database, database)
    migrate(open_engine(url))
    postgres_server.execute(f"ALTER DATABASE {database} SET default_transaction_read_only = on")
    postgres = open_engine(url)
    with pytest.raises(HistoryUnavailable, match="takes no writes, as a standby does") as refused:
        record(postgres, make_run())
    assert "password" not in str(refused.value)
    postgres_server.execute(f"ALTER DATABASE {database} SET default_transaction_read_only = off")
    record(postgres, make_run())  # over a new connection: the old one's session is still read-only
    assert load_run(postgres).status == make_run().status
