"""Signing in with a token and out again, as a person does it."""

import re
from collections.abc import Callable, Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from support.browser import serving
from support.fake_api_server import FakeApiServer, serve_fake_api
from support.sample_history import Scene
from support.web_client import connect


@pytest.fixture
def kubernetes() -> Iterator[FakeApiServer]:
    with serve_fake_api() as kubernetes:
        kubernetes.namespaces = {"ml-team": "uid-of-ml-team", "research": "uid-of-research"}
        kubernetes.add_user("token-of-ann", "system:serviceaccount:research:ann")
        kubernetes.allowed = {("system:serviceaccount:research:ann", "list", "research")}
        yield kubernetes


@pytest.fixture
def guarded(history_url: str, scene: Scene, kubernetes: FakeApiServer) -> Iterator[str]:
    """The web app for those whom Kubernetes knows."""
    with serving(history_url, connect(kubernetes)) as address:
        yield address


def test_a_person_signs_in_looks_and_signs_out(opened: Callable[..., Page], guarded: str) -> None:
    page = opened(f"{guarded}/runs?state=Succeeded")
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


def test_a_page_that_follows_its_runs_asks_again_when_the_session_ends(
    opened: Callable[..., Page], guarded: str, scene: Scene
) -> None:
    page = opened(f"{guarded}/session?next=/runs", own_clock=True)
    page.get_by_label("Kubernetes token").fill("token-of-ann")
    page.get_by_role("button", name="Sign in").click()
    expect(page.locator("#live-state")).to_have_text("Live")
    page.context.clear_cookies()
    page.clock.run_for(5000)
    expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")
    assert page.url.endswith("/session?next=%2Fruns")
