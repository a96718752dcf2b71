"""One Postgres server for all unit tests, and histories on Postgres and on SQLite."""

from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
from sqlalchemy import Engine, text

from support.postgres import Postgres, postgres_server
from trainingtask_history import engine as engine_module
from trainingtask_history.engine import open_history
from trainingtask_history.migrations.runner import migrate

__all__ = ["postgres_server"]

# The same examples in every run, however slow the machine.
_SLOW = [hypothesis.HealthCheck.too_slow]
hypothesis.settings.register_profile("same", deadline=None, derandomize=True, suppress_health_check=_SLOW)
hypothesis.settings.load_profile("same")


@pytest.fixture(scope="session", autouse=True)
def patience() -> Iterator[None]:
    """Let no test fail because the database took some seconds to answer."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(engine_module._POSTGRES_ARGUMENTS, "connect_timeout", 60)
        patch.setattr(engine_module, "_STATEMENT_SECONDS", 120)
        yield


@pytest.fixture
def database(postgres_server: Postgres) -> Iterator[str]:
    """Create an empty database on Postgres; yield its name, which is its owner's name and password as well."""
    name = postgres_server.create_database()
    yield name
    postgres_server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def open_engine() -> Iterator[Callable[..., Engine]]:
    """Yield a function that opens an engine; dispose of the engines at the end."""
    engines: list[Engine] = []

    def open_engine(url: str, *, pooled: bool = True) -> Engine:
        engines.append(open_history(url, pooled=pooled))
        return engines[-1]

    yield open_engine
    for engine in engines:
        engine.dispose()


@pytest.fixture
def postgres(postgres_server: Postgres, database: str, open_engine: Callable[[str], Engine]) -> Engine:
    return open_engine(postgres_server.url(database, database, database))


@pytest.fixture(params=["postgres", "sqlite"])
def empty_history(request: pytest.FixtureRequest, tmp_path: Path, open_engine: Callable[[str], Engine]) -> Engine:
    """Return an engine for a history without tables, on each database."""
    if request.param == "sqlite":
        return open_engine(f"sqlite:///{tmp_path}/history.db")
    engine: Engine = request.getfixturevalue("postgres")
    return engine


@pytest.fixture(scope="session")
def migrated_postgres(postgres_server: Postgres) -> str:
    """Create a database with the history's tables; return its URL."""
    name = postgres_server.create_database()
    url = postgres_server.url(name, name, name)
    engine = open_history(url)
    migrate(engine)
    engine.dispose()
    return url


@pytest.fixture(params=["postgres", "sqlite"])
def engine(request: pytest.FixtureRequest, tmp_path: Path, open_engine: Callable[[str], Engine]) -> Iterator[Engine]:
    """Yield an engine for a history without runs; on Postgres all tests share one, as its migrations take longest."""
    if request.param == "sqlite":
        engine = open_engine(f"sqlite:///{tmp_path}/history.db")
        migrate(engine)
        yield engine
        return
    engine = open_engine(request.getfixturevalue("migrated_postgres"))
    yield engine
    with engine.begin() as connection:
        connection.execute(text("SET LOCAL lock_timeout = '10s'"))  # of a test that left a transaction open
        connection.execute(text("TRUNCATE training_run CASCADE"))
