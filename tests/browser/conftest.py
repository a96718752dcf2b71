from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, expect
from sqlalchemy import Engine

from support.browser import CHROMIUM, launch_chromium, serve_web
from support.sample_history import SampleHistory, make_sample_history
from trainingtask_history.engine import open_history
from trainingtask_history.migrations.runner import migrate

TIMEOUT = 60_000  # milliseconds, for a busy machine

expect.set_options(timeout=TIMEOUT)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One browser for all tests."""
    if not CHROMIUM.exists():
        pytest.skip(f"there is no {CHROMIUM}: install Debian's package chromium")
    with launch_chromium() as browser:
        yield browser


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
def sample(engine: Engine) -> SampleHistory:
    sample = make_sample_history()
    sample.store(engine)
    return sample


@pytest.fixture(scope="session")
def address(history_url: str, sample: SampleHistory) -> Iterator[str]:
    """The web app over the sample history."""
    with serve_web(history_url) as url:
        yield url


@pytest.fixture(scope="session")
def empty_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The web app over a history without a run."""
    url = f"sqlite:///{tmp_path_factory.mktemp('empty')}/history.db"
    engine = open_history(url)
    migrate(engine)
    engine.dispose()
    with serve_web(url) as address:
        yield address


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Open a page in a fresh context; at the end, no console message or script error may have occurred."""
    contexts: list[BrowserContext] = []
    problems: list[str] = []

    def collect(message: ConsoleMessage) -> None:
        # A 404 of the page itself is no problem.
        own = "Failed to load resource" in message.text and message.page and message.location["url"] == message.page.url
        if message.type in ("error", "warning") and not own:
            problems.append(f"{message.type}: {message.text}")

    def open_page(url: str, *, own_clock: bool = False, **options: object) -> Page:
        context = browser.new_context(**{"viewport": {"width": 1440, "height": 900}, **options})
        context.set_default_timeout(TIMEOUT)
        contexts.append(context)
        page = context.new_page()
        page.on("console", collect)
        page.on("pageerror", lambda error: problems.append(f"script: {error}"))
        if own_clock:  # which the test advances
            page.clock.install()
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert problems == []
