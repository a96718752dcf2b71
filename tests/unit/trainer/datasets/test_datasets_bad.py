"""Bad data and what a person reads of it: ``pytest -rP tests/unit/trainer/datasets/test_datasets_bad.py`` prints the messages."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import pytest

from trainingtask_api.dataset import Dataset
from trainingtask_trainer.datasets.splits import prepare_data
from trainingtask_trainer.datasets.table import Table
from trainingtask_trainer.errors import UserError

GOOD = b"text,labels\nx,a\ny,b\nz,a\nw,b\n"
INDICATORS = {"columns": {"indicators": ["a", "b"]}}


class Bad(NamedTuple):
    files: dict[str, bytes]
    message: str
    fields: Mapping[str, object] = MappingProxyType({})
    reason: str = "InvalidData"


BAD = {
    "missing file": Bad(
        {"data.csv": GOOD, "train.csv": GOOD},
        "dataset.path 'dta.csv' does not exist in volume claim 'data' ({root}/dta.csv): {root} holds data.csv, train.csv",
        {"path": "dta.csv"},
        "DatasetNotFound",
    ),
    "no train file": Bad(
        {"test.csv": GOOD},
        "{root} holds no train file (train.csv, train.tsv, train.json, train.jsonl, train.parquet, train.arrow, train.xlsx,"
        " also as .gz, .zst, numbered parts or a folder); it holds test.csv",
        reason="DatasetNotFound",
    ),
    "two train files": Bad(
        {"train.csv": GOOD, "train.tsv": GOOD}, "{root} holds several train files: train.csv, train.tsv"
    ),
    "unknown format": Bad(
        {"data.doc": GOOD},
        "{root}/data.doc ends in '.doc', which is none of .csv, .tsv, .json, .jsonl, .parquet, .arrow, .xlsx (also as"
        " .gz, .zst or in a .zip)",
        {"path": "data.doc"},
    ),
    "no text column": Bad({"train.csv": b"body,labels\nx,a\n"}, "{root}/train.csv: no column 'text', only 'body', 'labels'"),
    "no label column": Bad({"train.csv": b"text,tags\nx,a\n"}, "{root}/train.csv: no column 'labels', only 'text', 'tags'"),
    "no indicator column": Bad(
        {"train.csv": b"text,a,c\nx,1,0\n"}, "{root}/train.csv: no column 'b', only 'text', 'a', 'c'", INDICATORS
    ),
    "empty split": Bad({"train.csv": GOOD, "test.csv": b"text,labels\n"}, "{root}/test.csv has no rows"),
    "label with one example": Bad(
        {"train.csv": GOOD + b"v,rare\nu,odd\n"},
        "{root}/train.csv, row 6, column 'labels': only this row has label 'rare' (so it is with 1 more); "
        "a row to learn from and a row to score on are needed: add rows, remove the label, "
        "or let dataset.topLabels keep fewer labels",
    ),
    "indicator with one example": Bad(
        {"train.csv": b"text,a,b\nx,1,0\ny,1,1\n"},
        "{root}/train.csv, row 3, column 'b': only this row has label 'b'; "
        "a row to learn from and a row to score on are needed: add rows, remove the label, "
        "or let dataset.topLabels keep fewer labels",
        INDICATORS,
    ),
    "indicator without example": Bad(
        {"train.csv": b"text,a,b\nx,1,0\ny,1,0\n", "test.csv": b"text,a,b\nx,1,1\n"},
        "dataset.columns.indicators: no training row has label 'b': add rows, or remove the name",
        INDICATORS,
    ),
    "label longer than any": Bad(
        {"train.csv": b"text,labels\n" + 6 * (b"x," + 68 * b"a; " + b"\ny,b\n")},
        "the label 'a; a; a; a; a; a; a; a; a; a; a; a; a; a...' has 203 characters, at most 200 are allowed: "
        "is it a label, and dataset.columns.delimiter what separates the labels?",
    ),
    "half a character": Bad(
        {"train.jsonl": b'{"text": "x", "labels": ["a"]}\n{"text": "y \\ud83d", "labels": ["b"]}\n'},
        "{root}/train.jsonl, row 2: not Unicode text: 'utf-8' codec can't encode character '\\ud83d' in position 12: "
        "surrogates not allowed",
    ),
    "one label": Bad(
        {"train.csv": b"text,labels\nx,a\ny,a\n"},
        "{root}/train.csv, column 'labels': 1 labels (a), at least 2 are needed",
    ),
    "blank text": Bad({"train.csv": b"text,labels\nx,a\n  ,b\n"}, "{root}/train.csv, row 3, column 'text': '  ' is not a text"),
    "too few cells": Bad(
        {"train.csv": b"text,labels\nx,a\ny\n"}, "{root}/train.csv, row 3: 1 cells, and the header has 2 columns ('text', 'labels')"
    ),
    "too many cells": Bad(
        {"train.csv": b"text,labels\nx,a,b\n"}, "{root}/train.csv, row 2: 3 cells, and the header has 2 columns ('text', 'labels')"
    ),
    "indicator neither 0 nor 1": Bad(
        {"train.csv": b"text,a,b\nx,1,2\n"}, "{root}/train.csv, row 2, column 'b': '2' is neither 0 nor 1", INDICATORS
    ),
    "labels that are none": Bad(
        {"train.jsonl": b'{"text": "x", "labels": 0.5}\n'},
        "{root}/train.jsonl, row 1, column 'labels': 0.5 is neither a list of labels nor a delimited string",
    ),
    "not UTF-8": Bad(
        {"train.csv": b"text,labels\n\xff,a\n"},
        "{root}/train.csv is not UTF-8, and its encoding cannot be told from its bytes (the characters beyond ASCII are \u00ff in"
        " cp1252, \u02d9 in cp1250, \u044f in cp1251): name it in dataset.format.encoding, or save the file as UTF-8",
    ),
    "broken JSON": Bad(
        {"train.jsonl": b'{"text": "x", "labels": "a"}\n{"te'},
        "{root}/train.jsonl, row 2: not JSON: Unterminated string starting at: line 1 column 2 (char 1)",
    ),
    "JSON, but no object": Bad({"train.jsonl": b"[]\n"}, "{root}/train.jsonl, row 1: not a JSON object"),
    "broken parquet": Bad({"train.parquet": b"nonsense"}, "{root}/train.parquet is not a parquet file that can be read: "),
    "too few rows": Bad(
        {"train.csv": b'text,labels\nx,"a,b"\ny,"a,b"\n'},
        "dataset.validationFraction 0.1 of 1 rows leaves none to train on: more rows are needed",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_bad_data_is_named_with_its_place(tmp_path: Path, kind: str) -> None:
    bad = BAD[kind]
    for name, content in bad.files.items():
        (tmp_path / name).write_bytes(content)
    spec = Dataset.model_validate({"name": "table", "volumeClaim": "data", "path": ".", **bad.fields})
    with pytest.raises(UserError) as caught:
        prepare_data(Table().load(spec, tmp_path), spec)
    print(f"{kind}: {caught.value.message}")
    assert caught.value.reason == bad.reason
    # A library's own words may follow.
    assert caught.value.message.startswith(bad.message.format(root=tmp_path))
