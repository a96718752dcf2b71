"""Parsing of objects that are nested deeper than a parser follows."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainingtask_api.bounded_json import MAX_LEVELS, parse_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


def nest(levels: int, value: str = "1") -> str:
    return '{"a":' * levels + value + "}" * levels


def measure_levels(value: Any) -> int:
    levels = 0
    while isinstance(value, dict):
        levels += 1
        value = value["a"]
    assert value is None
    return levels


@given(VALUES)
def test_what_the_parser_follows_is_read_as_it_is(value: Any) -> None:
    assert parse_json(json.dumps(value).encode()) == value


@given(VALUES, st.sampled_from([300, 10_000]))
def test_what_stands_beside_a_deep_value_is_read_as_it_is(value: Any, levels: int) -> None:
    shown = json.dumps(value)
    found = parse_json(f'{{"items": [{shown}, {nest(levels)}, {shown}], "last": {shown}}}'.encode())
    first, deep, second = found["items"]
    assert first == second == found["last"] == value
    assert measure_levels(deep) == MAX_LEVELS - 2


@pytest.mark.parametrize("string", ["}]", '"}', "\\", '{"[', '\\"{'])
def test_brackets_and_quotes_in_strings_do_not_count(string: str) -> None:
    shown = json.dumps(string)
    found = parse_json(f'{{"deep": {nest(500, shown)}, "after": {shown}}}'.encode())
    assert found["after"] == string


@pytest.mark.parametrize("levels", [1, 500])
def test_bytes_that_are_no_utf_8_are_replaced(levels: int) -> None:
    value = nest(levels)
    found = parse_json(b'{"f:\xff": 1, "g\xc3": [' + value.encode() + b'], "\xc3\xa9": "\xed\xa0\x80"}')
    assert list(found) == ["f:\ufffd", "g\ufffd", "é"]


def test_deep_arrays_are_cut_as_well() -> None:
    assert len(json.dumps(parse_json(b"[" * 5000 + b"]" * 5000))) == 2 * MAX_LEVELS + len("null")


@pytest.mark.parametrize("content", [b"", b"{", b"<html>", b"[" * 300])
def test_what_is_no_json_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"line 1 column \d"):
        parse_json(content)
