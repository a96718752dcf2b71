"""Times and numbers as pages show them. Pure."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import yaml

from trainingtask_api.formatting import format_duration

ABSENT = "—"


def or_absent(format_value: Callable[[float], str], value: float | None) -> str:
    """Return the formatted value, a dash for None."""
    return ABSENT if value is None else format_value(value)


def format_age(when: datetime, now: datetime) -> str:
    """Return how long ago a time was, in its largest unit alone."""
    seconds = (now - when).total_seconds()
    if seconds < 5:
        return "just now"
    return f"{format_duration(round(seconds)).split(' ')[0]} ago"


def format_time(when: datetime) -> str:
    """Return a time in full."""
    return f"{when.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def format_short_time(when: datetime, now: datetime) -> str:
    """Return a time without the year if it is this one, else the day alone."""
    time = when.astimezone(UTC)
    return f"{time:%b %d %H:%M}" if time.year == now.astimezone(UTC).year else f"{time:%Y-%m-%d}"


def format_score(value: float | None) -> str:
    """Return a score with three digits after the point."""
    return ABSENT if value is None else f"{value:.3f}"


def format_number(value: float | None) -> str:
    """Return a number: whole ones in groups of three digits, others with four significant ones."""
    if value is None:
        return ABSENT
    return f"{value:,.0f}" if value == int(value) and abs(value) < 1e15 else f"{value:.4g}"


def format_leaf(value: Any) -> str:
    """Return a value of a spec as YAML writes it on one line."""
    if isinstance(value, str):
        return value
    return dump_yaml(value, default_flow_style=True, width=2**31 - 1).removesuffix("\n").removesuffix("\n...")


def dump_yaml(value: Any, **style: Any) -> str:
    """Return a value as YAML."""
    text: str = yaml.dump(value, Dumper=yaml.CSafeDumper, allow_unicode=True, **style)  # ten times as fast as in Python
    return text
