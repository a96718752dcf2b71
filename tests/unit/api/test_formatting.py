"""Durations and sizes as people read them."""

import pytest

from trainingtask_api.formatting import format_age, format_duration, format_size, format_time_left


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0s"), (0, "0s"), (119, "119s"), (120, "2m"), (130, "2m10s"), (599, "9m59s"), (600, "10m"), (10_799, "179m"),
        (10_800, "3h"), (12_000, "3h20m"), (28_800, "8h"), (172_799, "47h"), (172_800, "2d"), (190_800, "2d5h"), (691_200, "8d"),
        (86_400 * 400, "400d"),
    ],
)  # fmt: skip
def test_ages_are_formatted_as_kubectl_does(seconds: float, text: str) -> None:
    assert format_age(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0s"), (0.04, "0s"), (4.21, "4.2s"), (8.0, "8s"), (9.97, "10s"), (45, "45s"), (59.7, "1m"), (60, "1m"),
        (130, "2m 10s"), (3599.6, "1h"), (12_000, "3h 20m"), (86_400, "1d"), (190_800, "2d 5h"), (-3, "0s"),
    ],
)  # fmt: skip
def test_durations(seconds: float, shown: str) -> None:
    assert format_duration(seconds) == shown


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (59.4, "59s"), (130, "2m10s"), (3599, "59m59s"), (3900, "1h05m")]
)
def test_times_left(seconds: float, text: str) -> None:
    assert format_time_left(seconds) == text


def test_sizes_have_a_unit() -> None:
    assert [format_size(count) for count in (5, 2048, 3 * 2**20, 5.5 * 2**30)] == [
        "5 B", "2 KiB", "3 MiB", "5.5 GiB",
    ]  # fmt: skip
