"""One Postgres server for all unit tests, and histories on Postgres and on SQLite."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from support.postgres import Postgres, postgres_server
from trainingtask_history.engine import open_history
from trainingtask_history.migrations.runner import migrate

__all__ = ["postgres_server"]


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


@pytest.fixture
def engine(empty_history: Engine) -> Engine:
    """Return an engine for a migrated history, on each database."""
    migrate(empty_history)
    return empty_history
