"""Log records for people or for machines: one line each, with the task they are about."""

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal

Format = Literal["json", "text"]

_subject: ContextVar[dict[str, Any] | None] = ContextVar("subject", default=None)


@contextmanager
def about(**fields: Any) -> Iterator[None]:
    """Add fields (namespace, task, uid, attempt) to every record that is logged inside; those that are None are left out."""
    known = {**(_subject.get() or {}), **{name: value for name, value in fields.items() if value is not None}}
    token = _subject.set(known)
    try:
        yield
    finally:
        _subject.reset(token)


class JsonFormatter(logging.Formatter):
    """One JSON object per record. Only named fields: nothing that a library attaches gets in."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **(_subject.get() or {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class TextFormatter(logging.Formatter):
    """One line per record, the task in brackets."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as text."""
        subject = _subject.get()
        text = super().format(record)
        return f"{text} [{' '.join(f'{key}={value}' for key, value in subject.items())}]" if subject else text


def configure(style: Format) -> None:
    """Send all records of level INFO to stderr in this format; chatty libraries speak from WARNING on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if style == "json" else TextFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for chatty in ("kopf", "aiohttp.access", "alembic"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
