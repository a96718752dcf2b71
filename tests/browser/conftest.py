from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, expect
from sqlalchemy import Engine

from support.browser import CHROMIUM, chromium, serving
from support.sample_history import Scene, two_weeks
from trainingtask_history.engine import open_history
from trainingtask_history.migrations.runner import migrate

PATIENCE = 60_000  # milliseconds; a machine may be busy with other things

expect.set_options(timeout=PATIENCE)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One browser for all tests."""
    if not CHROMIUM.exists():
        pytest.skip(f"there is no {CHROMIUM}: install Debian's package chromium")
    with chromium() as one:
        yield one


@pytest.fixture(scope="session")
def history_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('history')}/history.db"


@pytest.fixture(scope="session")
def engine(history_url: str) -> Iterator[Engine]:
    engine = open_history(history_url)
    migrate(engine)
    yield engine
    engine.dispose()


@pytest.fixture(scope="session")
def scene(engine: Engine) -> Scene:
    scene = two_weeks()
    scene.write(engine)
    return scene


@pytest.fixture(scope="session")
def address(history_url: str, scene: Scene) -> Iterator[str]:
    """The web app over the scene."""
    with serving(history_url) as url:
        yield url


@pytest.fixture(scope="session")
def empty_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The web app over a history without a run."""
    url = f"sqlite:///{tmp_path_factory.mktemp('empty')}/history.db"
    engine = open_history(url)
    migrate(engine)
    engine.dispose()
    with serving(url) as address:
        yield address


@pytest.fixture
def opened(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Open a page of a fresh context; at the end nothing may have been said on any console, nor any script have failed."""
    contexts: list[BrowserContext] = []
    complaints: list[str] = []

    def heard(message: ConsoleMessage) -> None:
        # That a page itself was answered with 404 is no fault of the page.
        own = "Failed to load resource" in message.text and message.page and message.location["url"] == message.page.url
        if message.type in ("error", "warning") and not own:
            complaints.append(f"{message.type}: {message.text}")

    def opened(url: str, *, own_clock: bool = False, **options: object) -> Page:
        context = browser.new_context(**{"viewport": {"width": 1440, "height": 900}, **options})
        context.set_default_timeout(PATIENCE)
        contexts.append(context)
        page = context.new_page()
        page.on("console", heard)
        page.on("pageerror", lambda error: complaints.append(f"script: {error}"))
        if own_clock:  # which the test moves on
            page.clock.install()
        page.goto(url)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []
