"""Signing in with a token and out again, in a browser."""

import re
from collections.abc import Callable, Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from support.browser import serve_web
from support.fake_api_server import FakeApiServer, serve_fake_api
from support.sample_history import SampleHistory
from support.web_client import connect


@pytest.fixture
def kubernetes() -> Iterator[FakeApiServer]:
    with serve_fake_api() as kubernetes:
        kubernetes.namespaces = {"ml-team": "uid-of-ml-team", "research": "uid-of-research"}
        kubernetes.add_user("token-of-ann", "system:serviceaccount:research:ann")
        kubernetes.allowed = {("system:serviceaccount:research:ann", "list", "research")}
        yield kubernetes


@pytest.fixture
def guarded(history_url: str, sample: SampleHistory, kubernetes: FakeApiServer) -> Iterator[str]:
    """The web app with authentication."""
    with serve_web(history_url, connect(kubernetes)) as address:
        yield address


def test_signing_in_and_out(open_page: Callable[..., Page], guarded: str) -> None:
    page = open_page(f"{guarded}/runs?state=Succeeded")
    expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")
    token = page.get_by_label("Kubernetes token")
    token.fill("nobody's")
    token.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("does not know this token")
    page.get_by_label("Kubernetes token").fill(" token-of-ann\n")
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(re.compile(r"/runs\?state=Succeeded$"))
    assert set(page.locator(".c-namespace").all_text_contents()) == {"research"}
    expect(page.locator(".who .name")).to_have_text("system:serviceaccount:research:ann")
    assert Axe().run(page).violations_count == 0
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")
    page.goto(f"{guarded}/runs")
    expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")


def test_a_live_page_redirects_to_sign_in_when_the_session_ends(
    open_page: Callable[..., Page], guarded: str, sample: SampleHistory
) -> None:
    page = open_page(f"{guarded}/session?next=/runs", own_clock=True)
    page.get_by_label("Kubernetes token").fill("token-of-ann")
    page.get_by_role("button", name="Sign in").click()
    expect(page.locator("#live-state")).to_have_text("Live")
    page.context.clear_cookies()
    page.clock.run_for(5000)
    expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")
    assert page.url.endswith("/session?next=%2Fruns")
