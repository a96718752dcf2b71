"""Times and numbers as pages show them."""

from datetime import UTC, datetime, timedelta

import pytest

from support.sample_runs import NOW
from trainingtask_api.formatting import format_duration, format_size
from trainingtask_api.nested import flatten
from trainingtask_web.views import formatting


def test_times_are_in_utc_and_short_ones_omit_the_year() -> None:
    there = datetime(2026, 3, 1, 1, 30, tzinfo=UTC).astimezone()
    assert formatting.format_time(there) == "2026-03-01 01:30:00 UTC"
    assert formatting.format_short_time(there, NOW) == "Mar 01 01:30"
    assert formatting.format_short_time(there, NOW.replace(year=2027)) == "2026-03-01"
    assert formatting.format_age(NOW - timedelta(seconds=2), NOW) == "just now"
    assert formatting.format_age(NOW - timedelta(minutes=130), NOW) == "2h ago"
    assert formatting.format_age(NOW + timedelta(minutes=5), NOW) == "just now"  # a clock that goes ahead


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "—"), (43_410, "43,410"), (43_410.0, "43,410"), (0.123456, "0.1235"), (5e-5, "5e-05"), (1e30, "1e+30")],
)
def test_numbers(value: float | None, shown: str) -> None:
    assert formatting.format_number(value) == shown


def test_sizes_and_scores() -> None:
    assert [formatting.or_absent(format_size, value) for value in (None, 12, 2048, 3 * 2**20, 5 * 2**30)] == ["—", "12 B", "2 KiB", "3 MiB", "5.0 GiB"]  # fmt: skip
    assert [formatting.format_score(value) for value in (None, 0.0, 0.58349)] == ["—", "0.000", "0.583"]


def test_leaves_are_formatted_as_yaml() -> None:
    value = {"a": {"b": True, "c": None}, "d": [1, "x"], "e": {}, "f": 3e-5, "g": "yes", "h": {"i": "ü"}}
    assert [(path, formatting.format_leaf(leaf)) for path, leaf in flatten(value)] == [
        ("a.b", "true"), ("a.c", "null"), ("d", "[1, x]"), ("e", "{}"), ("f", "3.0e-05"), ("g", "yes"), ("h.i", "ü"),
    ]  # fmt: skip


def test_absent_values_are_a_dash() -> None:
    assert formatting.or_absent(format_duration, None) == "—"
    assert formatting.or_absent(format_duration, 130) == "2m 10s"
