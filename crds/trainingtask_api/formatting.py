"""Durations, sizes and CSV cells as people and spreadsheets read them.

Durations have three formats: kubectl's ages on the command line, wider ones on pages, and the trainer's time left,
which is stored in the status.
"""

from typing import Any

_FORMULA_PREFIXES = ("=", "+", "-", "@", "\t", "\n")


def format_age(seconds: float) -> str:
    """Return a duration as kubectl shows an age: ``45s``, ``2m10s``, ``15m``, ``3h20m``, ``30h``, ``2d5h``, ``40d``."""
    whole = max(0, int(seconds))
    minutes, hours, days = whole // 60, whole // 3600, whole // 86_400
    if minutes < 2:
        return f"{whole}s"
    if minutes < 10:
        return _join_units((minutes, "m"), (whole % 60, "s"))
    if hours < 3:
        return f"{minutes}m"
    if hours < 8:
        return _join_units((hours, "h"), (minutes % 60, "m"))
    if hours < 48:
        return f"{hours}h"
    return _join_units((days, "d"), (hours % 24, "h")) if days < 8 else f"{days}d"


def format_duration(seconds: float) -> str:
    """Return a duration by its two largest units: ``4.2s``, ``45s``, ``2m 10s``, ``3h 20m``, ``2d 5h``."""
    if 0 < seconds < 10 and seconds != int(seconds):
        return f"{seconds:.1f}".removesuffix(".0") + "s"
    whole = max(0, round(seconds))
    for size, unit, small, smaller in ((86_400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            return _join_units((whole // size, unit), (whole % size // small, smaller), " ")
    return f"{whole}s"


def format_time_left(seconds: float) -> str:
    """Return a duration of constant width: ``45s``, ``2m10s``, ``1h05m``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def _join_units(large: tuple[int, str], small: tuple[int, str], separator: str = "") -> str:
    text = f"{large[0]}{large[1]}"
    return f"{text}{separator}{small[0]}{small[1]}" if small[0] else text


def format_size(count: float) -> str:
    """Return a number of bytes in the largest fitting unit up to GiB."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def remove_query(uri: str) -> str:
    """Return a uri as messages and records have it: the query of a signed address is a secret."""
    return uri.partition("?")[0] if uri.startswith("https:") else uri  # in a store it is a part of the name


def escape_formula(value: Any) -> Any:
    """Return a CSV cell that spreadsheets show as text: one that begins like a formula gets an apostrophe in front."""
    if not isinstance(value, str):
        return value
    value = value.replace("\r", "\n")  # csv leaves the first of these unquoted, and spreadsheets begin a row with it
    return f"'{value}" if value.startswith(_FORMULA_PREFIXES) else value
