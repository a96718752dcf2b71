"""Records that cannot be read, whoever wrote them: counted, logged in one short line, and skipped."""

import logging
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from trainingtask_operator import metrics

# What reading raises when a value has another type or size than expected.
MALFORMED = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)

Owner = TypeVar("Owner")

log = logging.getLogger(__name__)


def skip(kind: str, name: str, error: Exception) -> None:
    """Count and log a record of this kind that is left out; a log line holds little of what it says."""
    metrics.INVALID_RECORDS.labels(kind).inc()
    log.warning("%s %.200s cannot be read and is skipped: %.200s", kind, name, f"{type(error).__name__}: {error}")


def skips_malformed(
    kind: str,
) -> Callable[[Callable[[Owner, str | None, Any], None]], Callable[[Owner, str | None, Any], None]]:
    """Make a handler of watch events skip an object of this kind that cannot be read."""

    def wrap(handle: Callable[[Owner, str | None, Any], None]) -> Callable[[Owner, str | None, Any], None]:
        @wraps(handle)
        def guarded(self: Owner, event: str | None, body: Any) -> None:
            try:
                handle(self, event, body)
            except MALFORMED as error:
                skip(kind, name_of(body), error)

        return guarded

    return wrap


def name_of(body: Any) -> str:
    """Return namespace and name of an object for a log line, whatever it is."""
    metadata = body.get("metadata") if isinstance(body, dict) else None
    if not isinstance(metadata, dict):
        return "without metadata"
    return "/".join(f"{metadata.get(field)!s:.80}" for field in ("namespace", "name"))
