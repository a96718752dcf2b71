"""The web app below a path of a host that it shares with others."""

import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine

import trainingtask_web
from trainingtask_web.settings import SettingsError, load_settings

Client = Callable[..., TestClient]
BASE = "/tools/training"
HTML = {"Accept": "text/html"}
SAME_ORIGIN = {"Sec-Fetch-Site": "same-origin"}


@pytest.fixture
def engine(sqlite: Engine) -> Engine:
    return sqlite


def start(client: Client, engine: Engine) -> TestClient:
    return client(engine, TRAININGTASK_WEB_BASE_PATH=BASE)


def sign_in(browser: TestClient) -> None:
    answer = browser.post(f"{BASE}/session", data={"token": "token-of-admin"}, headers=SAME_ORIGIN)
    assert (answer.status_code, answer.headers["location"]) == (303, f"{BASE}/runs")


def test_every_link_of_every_page_leads_below_the_path(client: Client, history: Engine) -> None:
    browser = start(client, history)
    sign_in(browser)
    waiting, seen = [f"{BASE}/", f"{BASE}/runs?limit=2", f"{BASE}/docs", f"{BASE}/session", f"{BASE}/runs/none"], set()
    compare = browser.get(f"{BASE}/api/v1/runs").json()["items"][:3]
    waiting.append(f"{BASE}/runs/compare?ids={','.join(run['id'] for run in compare)}")
    missing = waiting[4]
    while waiting:
        page = waiting.pop()
        answer = browser.get(page, headers=HTML)
        assert answer.status_code in (200, 303, 422) or page == missing, page  # 422: a form's action alone
        links = (
            re.findall(r'(?:href|src|action)="([^"#]+)', answer.text)
            if "html" in answer.headers.get("content-type", "")
            else []
        )
        links += [answer.headers["location"]] if answer.status_code == 303 else []
        for link in (urlsplit(urljoin(f"https://host{page}", link.replace("&amp;", "&"))) for link in links):
            assert link.path.startswith(f"{BASE}/"), f"{link} on {page}"
            address = f"{link.path}?{link.query}" if link.query else link.path
            if address not in seen and not address.endswith("/session/end"):
                waiting.append(address)
            seen.add(address)
    assert {f"{BASE}/static/page.css", f"{BASE}/docs/files/swagger-ui.css", f"{BASE}/docs/start.js"} <= seen
    assert len([address for address in seen if re.fullmatch(rf"{BASE}/runs/[0-9a-f-]{{36}}", address)]) == 8


def test_no_template_has_a_link_from_the_root() -> None:
    """Also in the parts of a page that no run of the test above has."""
    templates = Path(trainingtask_web.__file__).with_name("templates").glob("*.html")
    links = [link for page in templates for link in re.findall(r'(?:href|src|action)="/[^"]*', page.read_text())]
    assert links == []


def test_the_session_is_sent_below_the_path_alone(client: Client, engine: Engine) -> None:
    browser = start(client, engine)
    begun = browser.post(f"{BASE}/session", data={"token": "token-of-ann"}, headers=SAME_ORIGIN)
    assert begun.headers["set-cookie"].startswith("__Secure-trainingtask=")
    assert f"Path={BASE};" in begun.headers["set-cookie"]
    assert browser.get(f"{BASE}/runs", headers=HTML).status_code == 200
    ended = browser.post(f"{BASE}/session/end", headers=SAME_ORIGIN)
    assert (ended.headers["location"], f"Path={BASE};" in ended.headers["set-cookie"]) == (f"{BASE}/session", True)
    away = browser.get(f"{BASE}/runs?model=bert", headers=HTML)
    assert away.headers["location"] == f"{BASE}/session?next=%2Ftools%2Ftraining%2Fruns%3Fmodel%3Dbert"


@pytest.mark.parametrize("path", ["/healthz", "/runs", "/static/page.css", "/docs/files/swagger-ui.css"])
def test_a_proxy_may_remove_the_path(client: Client, engine: Engine, path: str) -> None:
    browser = start(client, engine)
    sign_in(browser)
    whole, removed = browser.get(f"{BASE}{path}", headers=HTML), browser.get(path, headers=HTML)
    assert (whole.status_code, removed.status_code) == (200, 200 if path != "/runs" else 303)
    assert whole.headers["content-security-policy"] == removed.headers["content-security-policy"]
    assert whole.headers["cache-control"] == removed.headers["cache-control"]


def test_the_api_is_described_and_answers_below_the_path(client: Client, engine: Engine) -> None:
    browser = start(client, engine)
    assert browser.get(f"{BASE}/openapi.json").json()["servers"] == [{"url": BASE}]
    assert browser.get(f"{BASE}/api/v1/runs", headers=HTML).headers["content-type"] == "application/json"


@pytest.mark.parametrize("path", ["tools", "/tools/", "/a b", "//host"])
def test_a_path_that_is_none_is_refused(path: str) -> None:
    with pytest.raises(SettingsError, match="TRAININGTASK_WEB_BASE_PATH"):
        load_settings({"TRAININGTASK_HISTORY_URL": "sqlite://", "TRAININGTASK_WEB_BASE_PATH": path})
