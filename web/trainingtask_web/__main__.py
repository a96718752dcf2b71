"""``python -m trainingtask_web``: serve the view over all runs until told to stop."""

import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import uvicorn

from trainingtask_history.errors import HistoryError
from trainingtask_web.app import create_app
from trainingtask_web.auth import audit
from trainingtask_web.auth.kubernetes import Address, ApiServer
from trainingtask_web.http.server import OPTIONS
from trainingtask_web.settings import Auth, BadSettings, Settings, load_settings


def main() -> None:
    """Read the environment and serve."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it tells of every question to Kubernetes
    audit.log_to_stdout()
    try:
        settings = load_settings(os.environ)
        app = create_app(settings, _api_server(settings, os.environ))
    except (BadSettings, HistoryError, OSError) as error:
        sys.exit(f"The web app cannot start: {error}")
    uvicorn.run(
        app,
        host=settings.host,
        port=settings.port,
        forwarded_allow_ips=list(settings.trusted_proxies),  # none: whatever X-Forwarded-For says is ignored
        **OPTIONS,
    )


def _api_server(settings: Settings, environment: Mapping[str, str]) -> ApiServer | None:
    if settings.auth is Auth.NONE:
        return None
    host, port = (environment.get(f"KUBERNETES_SERVICE_{part}") for part in ("HOST", "PORT"))
    if host and port:
        return ApiServer(Address.in_cluster(host, port))
    if kubeconfig := environment.get("KUBECONFIG"):
        return ApiServer(Address.of_kubeconfig(Path(kubeconfig)))
    raise BadSettings(
        "there is no Kubernetes to ask who may see what: run in a pod, name a KUBECONFIG,"
        " or set TRAININGTASK_WEB_AUTH=none to show everything to everybody"
    )


if __name__ == "__main__":
    main()
