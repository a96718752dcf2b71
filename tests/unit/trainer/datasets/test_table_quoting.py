"""Csv files whose quotes are not as RFC 4180 has them."""

from pathlib import Path

import pytest

from trainingtask_api.dataset import Dataset
from trainingtask_trainer.datasets.base import RawData
from trainingtask_trainer.datasets.table import Table
from trainingtask_trainer.errors import UserError


def load(folder: Path, lines: list[str], **fields: object) -> RawData:
    (folder / "d.csv").write_text("\n".join(lines) + "\n", newline="")
    return Table().load(
        Dataset.model_validate({"name": "table", "volumeClaim": "d", "path": "d.csv", **fields}), folder
    )


READ: dict[str, tuple[list[str], list[str], str]] = {
    "escaped quotes": (["text,labels", r'"say \"no\", ok","a,b"', r'"x \"y\"",a', "z,b"], ['say "no", ok', 'x "y"', "z"], r"\" as a quote"),
    "an escaped quote at the end": (["text,labels", r'"say \"no\"","a,b"', "y,a", "z,b"], ['say "no"', "y", "z"], r"\" as a quote"),
    "an escaped quote at the start": (["text,labels", r'"\"no\" he said","a,b"', "y,a", "z,b"], ['"no" he said', "y", "z"], r"\" as a quote"),
    "other backslashes stay": (["text,labels", r'"C:\new \"x\"","a,b"', "y,a", "z,b"], [r'C:\new "x"', "y", "z"], r"\" as a quote"),
    "an escaped backslash at the end": (["text,labels", r'"\"x\" y\\","a,b"', "y,a", "z,b"], [r'"x" y\\', "y", "z"], r"\" as a quote"),
    "escaped JSON lists": (["text,labels", r'x,"[\"a\", \"b\"]"', r'y,"[\"a\"]"', r'z,"[\"b\"]"'], ["x", "y", "z"], r"\" as a quote"),
    "escaped quotes in several lines": (["text,labels", r'"one', r'\"two\"","a,b"', "y,a", "z,b"], ['one\n"two"', "y", "z"], r"\" as a quote"),
    "escaped quotes and semicolons": (["text;labels", r'"x; \"y\"";a,b', "y;a", "z;b"], ['x; "y"', "y", "z"], r"\" as a quote"),
    "escapes after a declaration": (["sep=,", "text,labels", r'"x, \"y\"","a,b"', "y,a", "z,b"], ['x, "y"', "y", "z"], r"\" as a quote"),
    "a backslash before the end": (["text,labels", '"C:\\","a,b"', '"y",a', "z,b"], ["C:\\", "y", "z"], ""),
    "a backslash and doubled quotes": (["text,labels", '"say ""C:\\""","a,b"', "y,a", "z,b"], ['say "C:\\"', "y", "z"], ""),
    "backslashes in plain cells": (["text,labels", 'say \\"x\\","a,b"', "y,a", "z,b"], ['say \\"x\\"', "y", "z"], ""),
    "a blank before quotes": (["text, labels", 'x, "a, b"', 'y, "a"', "z, b"], ["x", "y", "z"], "blanks before quotes"),
    "a blank before each quote": (["text, labels", '"x, y", "a, b"', '"y", "a"', '"z", "b"'], ["x, y", "y", "z"], "blanks before quotes"),
    "a blank before quotes of single labels": (["labels, text", 'a, "x"', 'b, "y"', 'a, "z"', 'b, "w"'], ["x", "y", "z", "w"], "blanks before quotes"),
    "several blanks": (["text,  labels", 'x,  "a, b"', 'y,  "a"', "z,  b"], ["x", "y", "z"], "blanks before quotes"),
    "blanks and escapes": (["text, labels", r'"x \"1\"", "a, b"', 'y, "a"', "z, b"], ['x "1"', "y", "z"], r"\" as a quote in a cell and blanks"),
    "a quote after a comma within a cell": (["text,labels", '"he said, ""no""","a,b"', "y,a", "z,b"], ['he said, "no"', "y", "z"], ""),
    "a separator for Excel": (["sep=;", "text;labels", "x, y;a,b", "y;a", "z;b"], ["x, y", "y", "z"], ""),
    "a comma for Excel": (["sep=,", "text,labels", 'x,"a,b"', "y,a", "z,b"], ["x", "y", "z"], ""),
    "a tab for Excel": (["sep=\t", "text\tlabels", "x\ta,b", "y\ta", "z\tb"], ["x", "y", "z"], ""),
    "a quoted declaration": (['"sep=|"', "text|labels", "x|a,b", "y|a", "z|b"], ["x", "y", "z"], ""),
    "an uncommon separator for Excel": (["sep=^", "text^labels", "x;y^a,b", "y^a", "z^b"], ["x;y", "y", "z"], ""),
    "Windows line ends": (["sep=;\r", "text;labels\r", "x;a,b\r", "y;a\r", "z;b\r"], ["x", "y", "z"], ""),
    "apostrophes": (["text,labels", "'tis x,\"a,b\"", "y',a", "z,b"], ["'tis x", "y'", "z"], ""),
}  # fmt: skip


@pytest.mark.parametrize("kind", READ)
def test_quotes_of_other_writers_are_read(tmp_path: Path, kind: str) -> None:
    lines, texts, told = READ[kind]
    data = load(tmp_path, lines)
    assert data.label_names == ("a", "b")
    assert data.train.texts == texts
    assert data.train.labels.sum(axis=0).tolist() == [2, 2]
    assert (told in data.warnings[0]) if told else not data.warnings


SINGLE = {
    "a comma in a text": ["text,labels", "'x, y','a'", "'y','b'"],
    "a comma in labels": ["'text','labels'", "'x','a,b'", "'y','b'"],
    "semicolons": ["text;labels", "'x; y';'a'", "'y';'b'"],
    "some cells": ["text,labels", "'x, y',a", "y,b"],
}


@pytest.mark.parametrize("kind", SINGLE)
def test_single_quotes_around_separators_are_refused(tmp_path: Path, kind: str) -> None:
    header = {"columns": {"text": "'text'", "labels": "'labels'"}} if "'" in SINGLE[kind][0] else {}
    with pytest.raises(UserError, match=r"d\.csv: its cells are in single quotes"):
        load(tmp_path, SINGLE[kind], **header)


def test_single_quotes_around_all_cells_are_warned_about(tmp_path: Path) -> None:
    data = load(tmp_path, ["text,labels", "'x',a", "'y',b", "'z',a", "'w',b"])
    assert data.train.texts == ["'x'", "'y'", "'z'", "'w'"]
    assert "column 'text': each cell is in single quotes, which are taken as text" in data.warnings[0]


def test_rows_are_counted_from_excels_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"d\.csv, row 5: 1 cells, and the header has 2 columns"):
        load(tmp_path, ["sep=;", "text;labels", "x;a", "y;b", "only text"])


def test_quotes_by_no_rule_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"row 2: a quote closes before the cell ends"):
        load(tmp_path, ["text,labels", r'"say \"no\"",a', '"say "no"",b'])
