"""Nested mappings by path."""

from typing import Any

import pytest

from trainingtask_api.nested import align, diff, flatten, get_path


@pytest.mark.parametrize(
    ("value", "path", "found"),
    [({"a": {"b": 1}}, ("a", "b"), 1), ({"a": 3}, ("a", "b"), None), ({}, ("a",), None), (None, ("a",), None), (7, (), 7)],
)  # fmt: skip
def test_get_path(value: Any, path: tuple[str, ...], found: Any) -> None:
    assert get_path(value, *path) == found


@pytest.mark.parametrize(
    ("value", "keep_empty", "leaves"),
    [
        ({"a": {"b": 1, "c": [2]}, "d": None}, True, {"a.b": 1, "a.c": [2], "d": None}),
        ({"a": {}, "b": {"c": {}}}, True, {"a": {}, "b.c": {}}),
        ({"a": {}, "b": {"c": {}, "d": 1}}, False, {"b.d": 1}),
        ([1], True, {}),
        ({"k" * 10**6: {"a": 1}, "l" * 200: {"m" * 200: 2}}, True, {"k" * 256: 1, "l" * 200 + "." + "m" * 55: 2}),
    ],
)
def test_flatten(value: Any, keep_empty: bool, leaves: dict[str, Any]) -> None:
    assert dict(flatten(value, keep_empty=keep_empty)) == leaves


def test_align_and_diff_keep_the_order_of_first_appearance() -> None:
    objects = [{"b": 1, "a": 2}, {"c": 3, "a": 2}]
    assert list(align(objects)) == [("b", [1, None]), ("a", [2, 2]), ("c", [None, 3])]
    assert list(diff(objects)) == [("b", [1, None]), ("c", [None, 3])]
