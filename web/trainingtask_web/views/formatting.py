"""Times, durations and numbers as a person reads them. Pure."""

from datetime import UTC, datetime

ABSENT = "—"


def format_duration(seconds: float | None) -> str:
    """Return a duration by its two largest units: ``4.2s``, ``45s``, ``2m 10s``, ``3h 20m``, ``2d 5h``."""
    if seconds is None:
        return ABSENT
    if 0 < seconds < 10 and seconds != int(seconds):
        return f"{seconds:.1f}".removesuffix(".0") + "s"
    whole = max(0, round(seconds))
    for size, unit, small, smaller in ((86_400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            rest = whole % size // small
            return f"{whole // size}{unit}" + (f" {rest}{smaller}" if rest else "")
    return f"{whole}s"


def format_age(when: datetime, now: datetime) -> str:
    """Return how long ago something was, by its largest unit alone."""
    seconds = (now - when).total_seconds()
    if seconds < 5:
        return "just now"
    return f"{format_duration(round(seconds)).split(' ')[0]} ago"


def format_time(when: datetime) -> str:
    """Return a time in full."""
    return f"{when.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def format_short_time(when: datetime, now: datetime) -> str:
    """Return a time as short as it is clear: without the year when it is this one."""
    time = when.astimezone(UTC)
    return f"{time:%b %d %H:%M}" if time.year == now.astimezone(UTC).year else f"{time:%Y-%m-%d}"


def format_score(value: float | None) -> str:
    """Return a score, three digits after the point."""
    return ABSENT if value is None else f"{value:.3f}"


def format_number(value: float | None) -> str:
    """Return a number: whole ones in groups of three digits, others with four significant ones."""
    if value is None:
        return ABSENT
    return f"{value:,.0f}" if value == int(value) and abs(value) < 1e15 else f"{value:.4g}"


def format_size(count: float | None) -> str:
    """Return a size in memory."""
    if count is None:
        return ABSENT
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
