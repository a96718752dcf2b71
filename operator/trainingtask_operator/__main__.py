"""``python -m trainingtask_operator``: run the operator until it is told to stop."""
# ruff: noqa: E402 - something has to happen before the imports

import gc
import logging
import os
import sys
from typing import cast

sys.modules["kubernetes"] = None  # type: ignore[assignment]  # kopf would import it if it is there: 30 MiB for nothing

import kopf
import uvloop
from pydantic import ValidationError

import trainingtask_operator.handlers  # noqa: F401 - registers the handlers
from trainingtask_api import names
from trainingtask_operator import logs
from trainingtask_operator.manager import App
from trainingtask_operator.settings import SETTINGS_VARIABLE, load_settings

log = logging.getLogger(__name__)


def main() -> None:
    """Read the settings and hand over to kopf."""
    style = os.environ.get(names.ENV_LOG_FORMAT, "text")
    if style not in ("json", "text"):
        sys.exit(f"{names.ENV_LOG_FORMAT} is {style!r}: set it to 'json' or 'text'")
    logs.configure(cast("logs.Format", style))
    try:
        settings = load_settings()
    except (KeyError, OSError, ValidationError) as error:
        sys.exit(f"The settings cannot be read; set {SETTINGS_VARIABLE} to a settings file: {error}")
    # What is imported by now stays, and what an event allocates is freed by counting references: look for cycles seldom.
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    code = 1
    try:
        kopf.run(loop=uvloop.new_event_loop(), standalone=True, clusterwide=True, memo=kopf.Memo(app=App(settings)))
        code = 0
    except Exception:
        log.exception("the operator ends")
    finally:
        # At once: the interpreter would wait for its threads, and one may wait for a database that never answers.
        os._exit(code)


if __name__ == "__main__":
    main()
