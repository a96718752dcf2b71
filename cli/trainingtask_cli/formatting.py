"""Times and table cells as a terminal shows them. Pure."""

from datetime import datetime

from trainingtask_api import formatting

Cell = str | int | float | None

_CONTROL_CHARACTERS = {code: "\ufffd" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


def format_elapsed(start: datetime | None, end: datetime | None) -> str | None:
    """Return the time between two times, None unless both are known."""
    return None if start is None or end is None else formatting.format_age((end - start).total_seconds())


def format_time(when: datetime | None) -> str | None:
    """Return a time in the reader's zone."""
    return None if when is None else f"{when.astimezone():%Y-%m-%d %H:%M:%S}"


def format_time_and_age(when: datetime | None, now: datetime) -> str | None:
    """Return a time in the reader's zone, and how long ago it was."""
    return None if when is None else f"{format_time(when)} ({format_elapsed(when, now)} ago)"


def format_cell(cell: Cell) -> str:
    """Return a cell of a table; None and the empty string are a dash, control characters a replacement character."""
    if cell is None or cell == "":
        return "-"
    if isinstance(cell, bool):
        return str(cell).lower()
    if isinstance(cell, float):
        return f"{cell:.0f}" if abs(cell) >= 1000 else f"{cell:.4g}" if 0 < abs(cell) < 0.001 else f"{cell:.3f}"
    # A message may hold a line of a log, and with it sequences that steer the terminal.
    return str(cell).translate(_CONTROL_CHARACTERS)
