from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from support.fake_api_server import FakeApiServer
from support.web_client import connect
from trainingtask_web.auth.kubernetes import ApiServer


@pytest.fixture
def engine(sqlite: Engine) -> Engine:
    """SQLite: none of these tests depends on the database."""
    return sqlite


@pytest.fixture
def api(kubernetes: FakeApiServer) -> Iterator[ApiServer]:
    """The web app's client of the fake API server."""
    api = connect(kubernetes)
    yield api
    api.close()
