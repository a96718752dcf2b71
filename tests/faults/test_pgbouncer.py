"""The history behind a real PgBouncer, which gives each transaction another session."""

import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from support.pgbouncer import run_pgbouncer
from support.postgres import Postgres
from support.stored_runs import NOW, make_run
from trainingtask_history.engine import open_history
from trainingtask_history.errors import HistoryUnavailable
from trainingtask_history.migrations.runner import migrate
from trainingtask_history.store import record
from trainingtask_history.tables import RunEvent

WRITERS, RUNS = 6, 40


@pytest.fixture
def database(postgres_server: Postgres) -> str:
    return postgres_server.create_database()


@pytest.fixture
def url(postgres_server: Postgres, database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the URL of a database behind PgBouncer; its folder must be readable by another user."""
    folder: Path = tmp_path_factory.mktemp("pgbouncer")
    for parent in list(folder.parents)[: len(folder.parents) - 1]:
        parent.chmod(parent.stat().st_mode | 0o011)
    with run_pgbouncer(postgres_server, database, folder) as found:
        yield found


@pytest.fixture
def open_engine() -> Iterator[Callable[[str], Engine]]:
    engines = []

    def open_one(url: str) -> Engine:
        engines.append(open_history(url))
        return engines[-1]

    yield open_one
    for engine in engines:
        engine.dispose()


def test_writers_behind_a_transaction_pooler_lose_no_row(url: str, open_engine: Callable[[str], Engine]) -> None:
    engine = open_engine(url)
    migrate(engine)

    def write(writer: int) -> None:
        own = open_engine(url)
        for number in range(RUNS):
            run = make_run(id=uuid.uuid4(), task_uid=f"{writer}-{number}")
            event = RunEvent(run_id=run.id, time=NOW, type="Phase", reason="Loading", message="")
            record(own, run, events=[event])

    with ThreadPoolExecutor(WRITERS) as threads:
        list(threads.map(write, range(WRITERS)))
    with engine.begin() as connection:
        assert connection.scalar(text("SELECT count(*) FROM training_run")) == WRITERS * RUNS
        assert connection.scalar(text("SHOW statement_timeout")) == "10s"
    with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        assert connection.scalar(text("SHOW statement_timeout")) == "0", "sessions are shared: nothing is left in them"


def test_a_refusal_of_the_pooler_is_told_as_one(url: str, database: str, open_engine: Callable[[str], Engine]) -> None:
    with pytest.raises(HistoryUnavailable, match=r"refused the connection: .*FATAL:.*no such database"):
        migrate(open_engine(url.removesuffix(database) + "absent"))
