from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine

from support.sample_history import SampleHistory, make_sample_history
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
def sample(engine: Engine) -> SampleHistory:
    sample = make_sample_history()
    sample.store(engine)
    return sample


@pytest.fixture(scope="module")
def browser(engine: Engine, sample: SampleHistory) -> Iterator[TestClient]:
    """An anonymous browser over the sample history."""
    with start(str(engine.url)) as client:
        yield client


@pytest.fixture
def own(tmp_path: Path) -> Iterator[tuple[Engine, TestClient]]:
    """An empty history, and an anonymous browser over it."""
    engine = open_history(f"sqlite:///{tmp_path}/own.db")
    migrate(engine)
    with start(str(engine.url)) as client:
        yield engine, client
    engine.dispose()
