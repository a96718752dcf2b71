"""The web app over a history of two teams, with a fake API server that authenticates their members."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine, text

from support.fake_api_server import FakeApiServer, serve_fake_api
from support.postgres import Postgres
from support.run_rows import a_run, of_team_b
from support.web_client import connect
from trainingtask_history.engine import open_history
from trainingtask_history.migrations.runner import migrate
from trainingtask_history.store import record_many
from trainingtask_history.tables import MetricPoint, RunEvent
from trainingtask_web.app import create_app
from trainingtask_web.settings import load_settings

Client = Callable[..., TestClient]
HOST = "runs.example.com"


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for the API server's answers as long as a busy machine may need."""
    monkeypatch.setattr("trainingtask_web.auth.kubernetes._TIMEOUT", (60, 120))


@pytest.fixture
def kubernetes() -> Iterator[FakeApiServer]:
    """ann sees team-a, bob sees team-b, eve sees nothing, and the admin everything."""
    with serve_fake_api() as kubernetes:
        kubernetes.page_size = 2  # so that a few namespaces take several pages
        kubernetes.namespaces = {"team-a": "uid-of-team-a", "team-b": "uid-of-team-b", "team-c": "uid-of-team-c"}
        for name in ("ann", "bob", "eve", "admin"):
            kubernetes.add_user(f"token-of-{name}", name)
        kubernetes.allowed = {
            ("ann", "list", "team-a"),
            ("ann", "create", "team-a"),
            ("bob", "list", "team-b"),
            ("admin", "list", ""),
        }
        yield kubernetes


@pytest.fixture(scope="session")
def shared_postgres(postgres_server: Postgres) -> Iterator[Engine]:
    name = postgres_server.create_database()
    engine = open_history(postgres_server.url(name, name, name))
    migrate(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Engine]:
    engine = open_history(f"sqlite:///{tmp_path}/history.db")
    migrate(engine)
    yield engine
    engine.dispose()


@pytest.fixture(params=["postgres", "sqlite"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """An empty history; on Postgres all tests share a database, as creating one takes longer than most of them."""
    if request.param == "sqlite":
        yield request.getfixturevalue("sqlite")
        return
    engine: Engine = request.getfixturevalue("shared_postgres")
    yield engine
    with engine.begin() as connection:
        connection.execute(text("TRUNCATE training_run CASCADE"))


@pytest.fixture
def history(engine: Engine) -> Engine:
    """Five runs of team-a and three of team-b, each with a curve and an event."""
    runs = [a_run(number) for number in range(5)] + [of_team_b(number) for number in range(5, 8)]
    points = [
        MetricPoint(run_id=run.id, name="training_loss", step=step, value=1 / (step + 1))
        for run in runs
        for step in range(3)
    ]
    events = [
        RunEvent(run_id=run.id, time=run.create_time, type="Accepted", reason="Accepted", message="m") for run in runs
    ]
    record_many(engine, runs, events=events, points=points)
    return engine


@pytest.fixture
def client(kubernetes: FakeApiServer) -> Iterator[Client]:
    """Return a function that starts the app over a history and returns a client with a token."""
    with ExitStack() as stack:

        def start(engine: Engine, token: str | None = None, **environment: str) -> TestClient:
            url = engine.url.render_as_string(hide_password=False)
            own = {"TRAININGTASK_HISTORY_URL": url, "TRAININGTASK_WEB_THREADS": "4", "TRAININGTASK_WEB_HOSTS": HOST}
            settings = load_settings(own | environment)
            api = None if settings.auth == "none" else connect(kubernetes)
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            client = TestClient(create_app(settings, api), f"https://{HOST}", headers=headers, follow_redirects=False)
            return stack.enter_context(client)

        yield start
