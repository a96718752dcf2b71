"""``python -m trainingtask_operator``: run the operator until SIGTERM."""
# ruff: noqa: E402 - kopf must not find the kubernetes package

import gc
import logging
import os
import sys
from typing import cast

sys.modules["kubernetes"] = None  # type: ignore[assignment]  # kopf imports it if it is installed: 30 MiB

import kopf
import uvloop
from pydantic import ValidationError

from trainingtask_api import names
from trainingtask_operator import handlers as _handlers  # noqa: F401 - registers them with kopf
from trainingtask_operator import logs
from trainingtask_operator.manager.manager import Manager
from trainingtask_operator.settings import SETTINGS_VARIABLE, load_settings

log = logging.getLogger(__name__)


def main() -> None:
    """Configure logging and garbage collection, read the settings, and run kopf."""
    log_format = os.environ.get(names.ENV_LOG_FORMAT, "text")
    if log_format not in ("json", "text"):
        sys.exit(f"{names.ENV_LOG_FORMAT} is {log_format!r}: set it to 'json' or 'text'")
    logs.configure_logging(cast("logs.Format", log_format))
    try:
        settings = load_settings()
    except (KeyError, OSError, ValidationError) as error:
        sys.exit(f"The settings cannot be read; set {SETTINGS_VARIABLE} to a settings file: {error}")
    # Imported modules stay, and what an event allocates is freed by reference counting: collect cycles seldom.
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    code = 1
    try:
        kopf.run(
            loop=uvloop.new_event_loop(),
            standalone=True,
            clusterwide=True,
            memo=kopf.Memo(manager=Manager(settings)),
        )
        code = 0
    except Exception:
        log.exception("the operator ends")
    finally:
        # Without the interpreter's shutdown, which joins threads: one may wait for a database that never answers.
        os._exit(code)


if __name__ == "__main__":
    main()
