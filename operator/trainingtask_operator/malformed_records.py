"""Watched objects and history rows that cannot be read: counted, logged in one short line, and skipped."""

import logging
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from trainingtask_operator import metrics

# What reading raises when a value has another type or size than expected.
MALFORMED = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)

Owner = TypeVar("Owner")
EventHandler = Callable[[Owner, str | None, Any], None]

log = logging.getLogger(__name__)


def report_malformed(kind: str, name: str, error: Exception) -> None:
    """Count and log a record of this kind that is skipped; the log line is bounded, whatever the record holds."""
    metrics.INVALID_RECORDS.labels(kind).inc()
    log.warning("%s %.200s cannot be read and is skipped: %.200s", kind, name, f"{type(error).__name__}: {error}")


def skip_malformed(
    kind: str, on_skipped: EventHandler[Any] | None = None
) -> Callable[[EventHandler[Owner]], EventHandler[Owner]]:
    """Make a handler of watch events skip an object of this kind that cannot be read, and tell it to `on_skipped`."""

    def wrap(handle: EventHandler[Owner]) -> EventHandler[Owner]:
        @wraps(handle)
        def guarded(self: Owner, event: str | None, body: Any) -> None:
            try:
                handle(self, event, body)
            except MALFORMED as error:
                report_malformed(kind, _describe(body), error)
                if on_skipped is not None:
                    on_skipped(self, event, body)

        return guarded

    return wrap


def _describe(body: Any) -> str:
    """Return namespace and name of an object for a log line, whatever the object is."""
    metadata = body.get("metadata") if isinstance(body, dict) else None
    if not isinstance(metadata, dict):
        return "without metadata"
    return "/".join(f"{metadata.get(field)!s:.80}" for field in ("namespace", "name"))
