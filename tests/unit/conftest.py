"""One Postgres server for all unit tests, and histories on it and on SQLite."""

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
    name = postgres_server.create_database()
    yield name
    postgres_server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def opened() -> Iterator[Callable[..., Engine]]:
    engines: list[Engine] = []

    def opened(url: str, *, pooled: bool = True) -> Engine:
        engines.append(open_history(url, pooled=pooled))
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
