"""The web app on a free port, and Debian's Chromium."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import uvicorn
from playwright.sync_api import Browser, sync_playwright

from support.ports import free_port
from trainingtask_web.app import create_app
from trainingtask_web.auth.kubernetes import ApiServer
from trainingtask_web.http.server import UVICORN_OPTIONS
from trainingtask_web.settings import load_settings

CHROMIUM = Path("/usr/bin/chromium")
_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextlib.contextmanager
def serve_web(history_url: str, api: ApiServer | None = None) -> Iterator[str]:
    """Serve the web app over a history, with authentication if an API server is given; yield the address."""
    environment = {
        "TRAININGTASK_HISTORY_URL": history_url,
        "TRAININGTASK_WEB_AUTH": "kubernetes" if api else "none",
        "TRAININGTASK_WEB_SECURE_COOKIE": "false",
    }
    server = uvicorn.Server(uvicorn.Config(create_app(load_settings(environment), api), **UVICORN_OPTIONS))
    # A connection before the server is ready waits in this socket's backlog.
    with socket.create_server(("127.0.0.1", free_port())) as listening:
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        try:
            yield "http://{}:{}".format(*listening.getsockname())
        finally:
            server.should_exit = True
            thread.join(30)


@contextlib.contextmanager
def launch_chromium() -> Iterator[Browser]:
    """Run a browser while the block runs."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), headless=True, args=list(_FLAGS))
        try:
            yield browser
        finally:
            browser.close()
