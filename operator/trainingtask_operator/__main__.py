"""``python -m trainingtask_operator``: run the operator until it is told to stop."""

import logging
import sys

import kopf
from pydantic import ValidationError

import trainingtask_operator.handlers  # noqa: F401 - registers the handlers
from trainingtask_operator.app import App
from trainingtask_operator.settings import SETTINGS_VARIABLE, load_settings

HEALTH_ENDPOINT = "http://0.0.0.0:8080/healthz"


def main() -> None:
    """Read the settings and hand over to kopf."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for chatty in ("kopf", "aiohttp.access", "alembic"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    try:
        settings = load_settings()
    except (KeyError, OSError, ValidationError) as error:
        sys.exit(f"The settings cannot be read; set {SETTINGS_VARIABLE} to a settings file: {error}")
    kopf.run(standalone=True, clusterwide=True, liveness_endpoint=HEALTH_ENDPOINT, memo=kopf.Memo(app=App(settings)))


if __name__ == "__main__":
    main()
