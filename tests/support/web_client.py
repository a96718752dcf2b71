"""Test clients of the web app, and its client of a fake API server."""

from fastapi.testclient import TestClient

from support.fake_api_server import OWN_TOKEN, FakeApiServer
from trainingtask_web.app import create_app
from trainingtask_web.auth.kubernetes import ApiServer, make_configuration
from trainingtask_web.settings import load_settings

HTML = {"Accept": "text/html"}


def start(url: str) -> TestClient:
    """Return a browser's client of the web app over a history, without authentication."""
    settings = load_settings({"TRAININGTASK_HISTORY_URL": url, "TRAININGTASK_WEB_AUTH": "none"})
    return TestClient(
        create_app(settings), "http://localhost", headers=HTML, follow_redirects=False, raise_server_exceptions=False
    )


def connect(api: FakeApiServer) -> ApiServer:
    """Return the web app's client of a fake API server."""
    return ApiServer(make_configuration(host=api.url, api_key={"BearerToken": f"Bearer {OWN_TOKEN}"}))
