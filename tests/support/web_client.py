"""The pages through a test client: as a browser asks, over a history to which all may look."""

from fastapi.testclient import TestClient

from trainingtask_web.app import create_app
from trainingtask_web.settings import load_settings

HTML = {"Accept": "text/html"}


def start(url: str) -> TestClient:
    settings = load_settings({"TRAININGTASK_HISTORY_URL": url, "TRAININGTASK_WEB_AUTH": "none"})
    return TestClient(
        create_app(settings), "http://localhost", headers=HTML, follow_redirects=False, raise_server_exceptions=False
    )
