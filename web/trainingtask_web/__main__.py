"""``python -m trainingtask_web``: serve the API and the pages over all runs until SIGTERM."""

import logging
import os
import sys
from collections.abc import Mapping

import uvicorn
from kubernetes.config import ConfigException

from trainingtask_history.errors import HistoryError
from trainingtask_web.app import create_app
from trainingtask_web.auth import audit
from trainingtask_web.auth.kubernetes import ApiServer, load_configuration
from trainingtask_web.http.server import UVICORN_OPTIONS
from trainingtask_web.settings import AuthMode, Settings, SettingsError, load_settings


def main() -> None:
    """Read the settings from the environment and serve."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    audit.log_to_stdout()
    try:
        settings = load_settings(os.environ)
        app = create_app(settings, _make_api_server(settings, os.environ))
    except (SettingsError, HistoryError, ConfigException, OSError) as error:
        sys.exit(f"The web app cannot start: {error}")
    uvicorn.run(
        app,
        host=settings.host,
        port=settings.port,
        forwarded_allow_ips=list(settings.trusted_proxies),  # empty: X-Forwarded-For is ignored
        **UVICORN_OPTIONS,
    )


def _make_api_server(settings: Settings, environment: Mapping[str, str]) -> ApiServer | None:
    if settings.auth is AuthMode.NONE:
        return None
    configuration = load_configuration(environment)
    if configuration is None:
        raise SettingsError(
            "there is no Kubernetes to ask who may see what: run in a pod, name a KUBECONFIG,"
            " or set TRAININGTASK_WEB_AUTH=none to show everything to everybody"
        )
    return ApiServer(configuration)


if __name__ == "__main__":
    main()
