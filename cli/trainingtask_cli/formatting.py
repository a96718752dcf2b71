"""Times, durations and numbers as a person reads them. Pure."""

from datetime import datetime

Cell = str | int | float | None


def duration(seconds: float) -> str:
    """Return a duration as kubectl shows an age: ``45s``, ``2m10s``, ``15m``, ``3h20m``, ``30h``, ``2d5h``, ``40d``."""
    whole = max(0, int(seconds))
    minutes, hours, days = whole // 60, whole // 3600, whole // 86_400
    if minutes < 2:
        return f"{whole}s"
    if minutes < 10:
        return _two(minutes, "m", whole % 60, "s")
    if hours < 3:
        return f"{minutes}m"
    if hours < 8:
        return _two(hours, "h", minutes % 60, "m")
    if hours < 48:
        return f"{hours}h"
    return _two(days, "d", hours % 24, "h") if days < 8 else f"{days}d"


def _two(large: int, unit: str, small: int, smaller: str) -> str:
    return f"{large}{unit}" + (f"{small}{smaller}" if small else "")


def format_age(since: datetime | None, now: datetime) -> str | None:
    """Return how long ago something was."""
    return None if since is None else duration((now - since).total_seconds())


def format_time(when: datetime | None) -> str | None:
    """Return a time on the clock of whoever reads it."""
    return None if when is None else f"{when.astimezone():%Y-%m-%d %H:%M:%S}"


def format_elapsed(start: datetime | None, end: datetime | None) -> str | None:
    """Return how long something took."""
    return None if start is None or end is None else duration((end - start).total_seconds())


def size(count: float | None) -> str | None:
    """Return a size in memory."""
    if count is None:
        return None
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def format_cell(cell: Cell) -> str:
    """Return a cell of a table; what is absent is a dash."""
    if cell is None or cell == "":
        return "-"
    if isinstance(cell, bool):
        return str(cell).lower()
    if isinstance(cell, float):
        return f"{cell:.0f}" if abs(cell) >= 1000 else f"{cell:.4g}" if 0 < abs(cell) < 0.001 else f"{cell:.3f}"
    # What would steer a terminal is shown as a box; a message may hold a line of anybody's log.
    return str(cell).translate(_CONTROL_CHARACTERS)


_CONTROL_CHARACTERS = {code: "\ufffd" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}
