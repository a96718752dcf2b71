from collections.abc import Iterator
from datetime import timedelta

import pytest

from support.http_server import HttpServer, serve_http
from support.object_store import Bucket, clear_credentials, get_environment, serve_bucket
from trainingtask_trainer.storage import object_store


@pytest.fixture(scope="session")
def s3_server() -> Iterator[Bucket]:
    with serve_bucket() as bucket:
        yield bucket


@pytest.fixture
def bucket(s3_server: Bucket, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """Return an empty bucket, with the variables to reach it."""
    clear_credentials(monkeypatch)
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    s3_server.empty()
    return s3_server


@pytest.fixture
def http_server() -> Iterator[HttpServer]:
    with serve_http() as server:
        yield server


@pytest.fixture
def broken_store(http_server: HttpServer, monkeypatch: pytest.MonkeyPatch) -> HttpServer:
    """Return a server in the place of an S3 server, which is asked four times."""
    clear_credentials(monkeypatch)
    for name, value in get_environment(http_server.port).items():
        monkeypatch.setenv(name, value)
    pause = timedelta(milliseconds=20)
    retry = {
        "max_retries": 3,
        "retry_timeout": timedelta(minutes=10),
        "backoff": {"init_backoff": pause, "max_backoff": pause, "base": 2},
    }
    monkeypatch.setattr(object_store, "RETRY", retry)
    return http_server
