"""Log records as text or as JSON: one line each, with the task they are about."""

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal

Format = Literal["json", "text"]

_context: ContextVar[dict[str, Any] | None] = ContextVar("context", default=None)


@contextmanager
def log_context(**fields: Any) -> Iterator[None]:
    """Add fields (namespace, task, uid, attempt) to every record that is logged inside; those that are None are left out."""
    merged = {**(_context.get() or {}), **{name: value for name, value in fields.items() if value is not None}}
    token = _context.set(merged)
    try:
        yield
    finally:
        _context.reset(token)


class JsonFormatter(logging.Formatter):
    """One JSON object per record, with named fields only: nothing that a library attaches gets in."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **(_context.get() or {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class TextFormatter(logging.Formatter):
    """One line per record, the context in brackets."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as text."""
        context = _context.get()
        text = super().format(record)
        return f"{text} [{' '.join(f'{key}={value}' for key, value in context.items())}]" if context else text


def configure_logging(log_format: Format) -> None:
    """Send all records from INFO on to stderr in this format; of some libraries only those from WARNING on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for library in ("kopf", "aiohttp.access", "alembic"):
        logging.getLogger(library).setLevel(logging.WARNING)
