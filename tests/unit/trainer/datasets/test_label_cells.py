"""Cells of a label column as tools and people write them."""

from array import array
from typing import Any

import pytest

from trainingtask_api.dataset import LabelFormat
from trainingtask_trainer.datasets.label_cells import LabelColumn, parse_labels
from trainingtask_trainer.errors import UserError
from trainingtask_trainer.sources.columns import Columns


def parse(cells: list[Any], form: LabelFormat | None = None, names: list[str] | None = None) -> LabelColumn:
    columns = Columns("d.csv", {"labels": cells}, array("q", range(2, len(cells) + 2)))
    return parse_labels(columns, "labels", delimiter=",", form=form, names=names)


def labels_of(column: LabelColumn) -> list[tuple[str, ...]]:
    return [column.sets[code] for code in column.codes]


EMPTY = [None, "", "  ", [], "[]", "()", "set()", "frozenset()", float("nan")]
READ: dict[str, tuple[list[Any], list[tuple[str, ...]]]] = {
    "a delimited string": (["a, b", "b"], [("a", "b"), ("b",)]),
    "a list": ([["a", "b"], ["b"]], [("a", "b"), ("b",)]),
    "a list and a single value": ([["a", "b"], "b"], [("a", "b"), ("b",)]),
    "numbers": ([3, 7], [("3",), ("7",)]),
    "numbers in lists": ([[3, 7], [1]], [("3", "7"), ("1",)]),
    "a JSON list": (['["a", "b"]', '["b"]'], [("a", "b"), ("b",)]),
    "Python's list": (["['a', 'it\\'s']", "['b']"], [("a", "it's"), ("b",)]),
    "Python's tuple and set": (["('a', 'b')", "('b',)", "{'a'}"], [("a", "b"), ("b",), ("a",)]),
    "numpy's array": (["['a' 'b']", "['b']"], [("a", "b"), ("b",)]),
    "numpy's array in several lines": (["[ 'a'\n 'b']", "[ 1 12]"], [("a", "b"), ("1", "12")]),
    "numpy's scalars": (["[np.str_('a'), np.str_('b')]", "[np.int64(3)]"], [("a", "b"), ("3",)]),
    "calls within labels": (['["np.mean(x)", "b"]', "['np.mean(x)']"], [("np.mean(x)", "b"), ("np.mean(x)",)]),
    "a frozen set and an array": (["frozenset({'a'})", "array(['b'], dtype=object)"], [("a",), ("b",)]),
    "whole floats": ([3.0, 7.0], [("3",), ("7",)]),
    "booleans": ([True, False], [("True",), ("False",)]),
    "Label Studio's choices": (['{"choices": ["a", "b"]}', "c, d"], [("a", "b"), ("c, d",)]),
    "Label Studio's minimal JSON": ([{"choices": ["a", "b"]}, "b"], [("a", "b"), ("b",)]),
    "several annotators' choices": ([[{"choices": ["a"]}, {"choices": ["a", "b"]}]], [("a", "b")]),
    "an accent in two ways": (["caf\u00e9", "cafe\u0301"], [("caf\u00e9",), ("caf\u00e9",)]),
    "a label that is there twice": (["a,a", "b"], [("a",), ("b",)]),
}  # fmt: skip


@pytest.mark.parametrize("kind", READ)
def test_labels_are_read_in_every_format(kind: str) -> None:
    cells, expected = READ[kind]
    column = parse([*cells, *EMPTY])
    assert column.bad == []
    assert labels_of(column) == [*expected, *[()] * len(EMPTY)]


VECTORS = [
    [1, 0, 1],
    [1.0, 0.0, 1.0],
    [True, False, True],
    "[1.0, 0.0, 1.0]",
    "[1, 0, 1]",
    "[1. 0. 1.]",
    "1 0 1",
    "1,0,1",
    "(1, 0, 1)",
]


@pytest.mark.parametrize("cell", VECTORS, ids=str)
def test_vectors_are_labels_once_they_have_names(cell: Any) -> None:
    assert labels_of(parse([cell, None], names=["x", "y", "z"])) == [("x", "z"), ()]


@pytest.mark.parametrize(
    "cells",
    [[[1, 0], [0, 1]], ["[1, 0]", "[0, 1]"], ["1,0", "0,1"], ["1 0", "0 1"], [[1, 0, 0], [0, 1]], [[1, 0, 1], [2, 0]]],
    ids=str,
)
def test_vectors_without_names_are_no_labels(cells: list[Any]) -> None:
    with pytest.raises(UserError, match=r"looks like a 0/1 vector over . labels: give their names"):
        parse(cells)
    assert labels_of(
        parse(cells, LabelFormat.DELIMITED if "," in cells[0] and "[" not in cells[0] else LabelFormat.LIST)
    )


def test_cells_of_several_formats_are_refused_with_three_examples() -> None:
    with pytest.raises(UserError) as caught:
        parse(['["a", "b"]', "a,b", '["c"]', "c"])
    assert caught.value.message.startswith(
        "d.csv, column 'labels' holds labels in several formats: '[\"a\", \"b\"]' (row 2) is a list,"
        " 'a,b' (row 3) is a delimited string, '[\"c\"]' (row 4) is a list: write all in one"
    )


BROKEN = {
    "[a]": "looks like a list, and is none",
    '["a", "b"': "",
    '{"choice": "a"}': "is no list of labels",
    "[['a'], ['b']]": "looks like a list, and is none",
    "[" * 5000 + "]" * 5000: "looks like a list, and is none",
    "[__import__('os')]": "looks like a list, and is none",
    "['''a]": "looks like a list, and is none",
    "[01, 02]": "looks like a list, and is none",
    '["\\ud83d", "b"]': "is not Unicode text",
}


@pytest.mark.parametrize(
    ("cell", "why"), [item for item in BROKEN.items() if item[1]], ids=[key[:12] for key, why in BROKEN.items() if why]
)
def test_what_looks_like_a_list_and_is_none_makes_the_row_bad(cell: str, why: str) -> None:
    column = parse([cell, "a"])
    assert [row.row for row in column.bad] == [0]
    assert why in column.bad[0].why


def test_the_format_that_a_task_names_is_kept() -> None:
    assert labels_of(parse(["a,b", "[draft]"], LabelFormat.SINGLE)) == [("a,b",), ("[draft]",)]
    assert labels_of(parse(["(2020)", "[1, 2]"], LabelFormat.SINGLE)) == [("(2020)",), ("[1, 2]",)]
    assert labels_of(parse(["array([x])", "np.f(x)"], LabelFormat.SINGLE)) == [("array([x])",), ("np.f(x)",)]
    assert labels_of(parse(["[draft]", "a,b"], LabelFormat.DELIMITED)) == [("[draft]",), ("a", "b")]
    column = parse(["a,b", '["a", "b"]'], LabelFormat.DELIMITED)
    assert [row.why for row in column.bad] == [
        "'[\"a\", \"b\"]' is a list, and dataset.columns.labelFormat is 'delimited'"
    ]
