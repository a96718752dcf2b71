"""The audit log: who did what, when, from where, and with what result. One JSON object a line; never a token."""

import json
import logging
import sys
from datetime import UTC, datetime

from fastapi import Request

log = logging.getLogger("trainingtask_web.auth.audit")
_MAX_VALUE_LENGTH = 300


def log_to_stdout() -> None:
    """Write the lines to standard output and nowhere else, whatever other logs do."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False


def record(event: str, result: str, *, user: str | None, address: str | None, **details: str | int | None) -> None:
    """Write one line. JSON escapes what could begin a second one; long values are cut."""
    fields = {"user": user, "address": address, **details}
    cut = {name: value[:_MAX_VALUE_LENGTH] if isinstance(value, str) else value for name, value in fields.items()}
    time = datetime.now(UTC).isoformat(timespec="milliseconds")
    log.info("%s", json.dumps({"time": time, "event": event, "result": result, **cut}))


def client_address(request: Request) -> str:
    """Return the client's address: the last proxy's unless `trusted_proxies` names it."""
    return request.client.host if request.client else ""
