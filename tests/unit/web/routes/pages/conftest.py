from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine

from support.sample_history import Scene, two_weeks
from support.web_client import start
from trainingtask_history.engine import open_history
from trainingtask_history.migrations.runner import migrate


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    engine = open_history(f"sqlite:///{tmp_path_factory.mktemp('pages')}/history.db")
    migrate(engine)
    yield engine
    engine.dispose()


@pytest.fixture(scope="module")
def scene(engine: Engine) -> Scene:
    scene = two_weeks()
    scene.write(engine)
    return scene


@pytest.fixture(scope="module")
def browser(engine: Engine, scene: Scene) -> Iterator[TestClient]:
    """A browser that nobody asks who it is, over the scene."""
    with start(str(engine.url)) as client:
        yield client


@pytest.fixture
def own(tmp_path: Path) -> Iterator[tuple[Engine, TestClient]]:
    """A history of the test's own, empty, and a browser over it."""
    engine = open_history(f"sqlite:///{tmp_path}/own.db")
    migrate(engine)
    with start(str(engine.url)) as client:
        yield engine, client
    engine.dispose()
