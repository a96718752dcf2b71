"""The audit log: one JSON object a line with time, event, result, user and address; never a token."""

import json
import logging
import sys
from datetime import UTC, datetime

from fastapi import Request

log = logging.getLogger("trainingtask_web.auth.audit")
_MAX_VALUE_LENGTH = 300


def log_to_stdout() -> None:
    """Send the audit log to standard output alone."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False


def record(event: str, result: str, *, user: str | None, address: str | None, **details: str | int | None) -> None:
    """Write one line: JSON escapes line breaks, and long values are cut."""
    fields = {"user": user, "address": address, **details}
    cut = {name: value[:_MAX_VALUE_LENGTH] if isinstance(value, str) else value for name, value in fields.items()}
    time = datetime.now(UTC).isoformat(timespec="milliseconds")
    log.info("%s", json.dumps({"time": time, "event": event, "result": result, **cut}))


def get_client_address(request: Request) -> str:
    """Return the client's address; behind a proxy that `trusted_proxies` does not name, the proxy's."""
    return request.client.host if request.client else ""
