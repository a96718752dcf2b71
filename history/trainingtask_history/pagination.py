"""Keyset pagination over runs, newest first."""

import base64
import binascii
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime

from trainingtask_history.read_models import RunSummary


@dataclass(frozen=True)
class Page:
    """Some runs, newest first, and the cursor of the next page."""

    items: list[RunSummary]
    next: str | None


def encode_cursor(last: RunSummary) -> str:
    """Return the cursor of the page that follows a run."""
    assert last.create_time is not None  # noqa: S101 - rows without it are not listed
    return base64.urlsafe_b64encode(f"{last.create_time.isoformat()} {last.id}".encode()).decode()


def decode_cursor(cursor: str) -> tuple[datetime, uuid.UUID]:
    """Return the creation time and the id in a cursor.

    Raises
    ------
    ValueError
        When it is no cursor of this module.
    """
    try:
        create_time, _, key = base64.urlsafe_b64decode(cursor.encode()).decode().partition(" ")
        return datetime.fromisoformat(create_time).astimezone(UTC), uuid.UUID(key)
    except (ValueError, OverflowError, binascii.Error):
        raise ValueError("the cursor is not one of this list: leave it out to begin with the newest run") from None
