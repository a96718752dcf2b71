"""Exports of annotation tools, and labels with another delimiter than the task's."""

import json
from pathlib import Path
from typing import Any

import pytest

from trainingtask_api.dataset import Dataset
from trainingtask_trainer.datasets.base import RawData
from trainingtask_trainer.datasets.table import Table
from trainingtask_trainer.errors import UserError


def load(folder: Path, rows: list[dict[str, Any]], ending: str = "jsonl", **fields: object) -> RawData:
    content = json.dumps(rows) if ending == "json" else "".join(json.dumps(row) + "\n" for row in rows)
    (folder / f"d.{ending}").write_text(content)
    spec = {"name": "table", "volumeClaim": "d", "path": f"d.{ending}", **fields}
    return Table().load(Dataset.model_validate(spec), folder)


def prodigy(**fields: Any) -> dict[str, Any]:
    return {"_input_hash": 1, "_task_hash": 2, "answer": "accept", "options": [{"id": "a"}, {"id": "b"}]} | fields


READ: dict[str, tuple[list[dict[str, Any]], dict[str, str]]] = {
    "doccano": ([{"id": 1, "text": "x", "label": ["a", "b"]}, {"id": 2, "text": "y", "label": ["a"]}, {"id": 3, "text": "z", "label": ["b"]}], {}),
    "doccano without labels of a row": ([{"text": "x", "label": ["a", "b"], "Comments": []}, {"text": "y", "label": ["a", "b"]}, {"text": "z", "label": []}], {}),
    "an older doccano": ([{"data": "x", "label": ["a", "b"]}, {"data": "y", "label": ["a"]}, {"data": "z", "label": ["b"]}], {"text": "data"}),
    "Prodigy's choices": ([prodigy(text="x", accept=["a", "b"]), prodigy(text="y", accept=["a"]), prodigy(text="z", accept=["b"])], {"labels": "accept"}),
    "Prodigy's label": ([prodigy(text="x", label="a"), prodigy(text="y", label="a"), prodigy(text="z", label="b"), prodigy(text="w", label="b")], {}),
    "an answer that is not Prodigy's": ([{"text": "x", "answer": "reject", "label": "a,b"}, {"text": "y", "answer": "no", "label": "a,b"}], {}),
}  # fmt: skip


@pytest.mark.parametrize("ending", ["json", "jsonl"])
@pytest.mark.parametrize("kind", READ)
def test_exports_of_annotation_tools_are_read(tmp_path: Path, kind: str, ending: str) -> None:
    rows, columns = READ[kind]
    data = load(tmp_path, rows, ending, columns=columns)
    assert data.label_names == ("a", "b")
    assert data.train.labels.sum(axis=0).tolist() == [2, 2]


REFUSED: dict[str, tuple[list[dict[str, Any]], dict[str, str], str]] = {
    "both columns": ([{"text": "x", "labels": ["a"], "label": "b"}], {}, "has the columns 'labels', 'label': name the one"),
    "both columns in other case": ([{"text": "x", "labels": ["a"], "Label ": "b"}], {}, "has the columns 'labels', 'label'"),
    "both columns in a later row": ([{"text": "x", "labels": "a"}, {"text": "x", "label": "b", "labels": None}], {}, "has the columns"),
    "Prodigy's choices without a name": ([prodigy(text="x", accept=["a"])], {}, "set dataset.columns.labels to 'accept'"),
    "Prodigy's options": ([prodigy(text="x", accept=["a"])], {"labels": "options"}, "is no list of labels"),
    "Prodigy's rejections": ([prodigy(text="x", label="a", answer="reject"), prodigy(text="y", label="a")], {}, "row 1: Prodigy's answer is 'reject'"),
    "what Prodigy ignores": ([prodigy(text="x", accept=[], answer="ignore"), prodigy(text="y", accept=["a"])], {"labels": "accept"}, "Prodigy's answer is 'ignore'"),
    "doccano's spans": ([{"text": "x y", "label": [[0, 1, "X"]]}], {}, "holds spans within the text"),
    "doccano's spans of data": ([{"data": "x y", "label": [[0, 1, "X"]]}], {"text": "data"}, "holds spans within the text"),
    "doccano's entities": ([{"text": "x", "entities": [{"start_offset": 0, "end_offset": 1, "label": "X"}]}], {"labels": "entities"}, "holds spans within the text"),
    "Prodigy's spans": ([prodigy(text="x", spans=[{"start": 0, "end": 1, "label": "X"}])], {"labels": "spans"}, "holds spans within the text"),
    "Label Studio's spans": ([{"text": "x", "label": [{"start": 0, "end": 1, "text": "x", "labels": ["X"]}]}], {}, "holds spans within the text"),
    "Label Studio's spans in a string": ([{"text": "x", "label": '[{"start": 0, "end": 1, "labels": ["X"]}]'}], {}, "holds spans within the text"),
}  # fmt: skip


@pytest.mark.parametrize("ending", ["json", "jsonl"])
@pytest.mark.parametrize("kind", REFUSED)
def test_exports_of_other_tasks_are_refused(tmp_path: Path, kind: str, ending: str) -> None:
    rows, columns, sentence = REFUSED[kind]
    with pytest.raises(UserError) as caught:
        load(tmp_path, rows, ending, columns=columns)
    assert sentence in caught.value.message


def test_columns_that_a_task_names_may_stand_beside_others(tmp_path: Path) -> None:
    rows = [{"text": "x", "labels": "a", "label": "b,c"}, {"text": "y", "labels": "a", "label": "c,b"}]
    assert load(tmp_path, rows, columns={"labels": "label"}).label_names == ("b", "c")


def test_rejected_rows_are_skipped_on_request(tmp_path: Path) -> None:
    rows = [prodigy(text="x", label="a", answer="reject"), *(prodigy(text="y", label="a,b") for _ in range(2))]
    assert load(tmp_path, rows, onBadRow="skip").train.texts == ["y", "y"]


OTHER = {
    "|": (["a|b", "a", "b|c", "c"], ","),
    ";": (["a;b", "b;c", "c;a"], ","),
    ",": (["a, b", "b, c", "a"], "|"),
    "a blank beside": (["a | b", "b | a", "c"], ","),
    "four labels": (["a|b|c|d", "d|a", "e"], ","),
    "most of the parts": (["a|b", "b|x", "a", "y"], ";"),
    "one cell of several labels": (["spam;urgent", "spam", "urgent"], ","),
}


@pytest.mark.parametrize("kind", OTHER)
def test_labels_with_another_delimiter_are_refused(tmp_path: Path, kind: str) -> None:
    cells, delimiter = OTHER[kind]
    rows = [{"text": cell, "labels": cell} for cell in cells * 2]
    with pytest.raises(UserError, match=r"like several labels( each)?: set dataset.columns.delimiter to") as caught:
        load(tmp_path, rows, columns={"delimiter": delimiter})
    assert repr(cells[0]) in caught.value.message
    single = load(tmp_path, rows, columns={"delimiter": delimiter, "labelFormat": "single"})
    assert single.label_names == tuple(sorted(cells))


ONE_LABEL = {
    "a label with a bar": ["a|b", "c"],
    "levels of a tree": ["animal;dog", "animal;cat", "plant;tree", "plant;rose"],
    "each part once": ["Q;A", "R|S", "T"],
    "one part alone": ["Q;A", "A", "T"],
    "a mark": [";", "T"],
    "the task's delimiter as well": ["a|b,c", "a|b", "c"],
    "sentences": ["Yes; please", "No; thanks"],
}


@pytest.mark.parametrize("kind", ONE_LABEL)
def test_one_label_may_hold_another_delimiter(tmp_path: Path, kind: str) -> None:
    cells = ONE_LABEL[kind]
    data = load(tmp_path, [{"text": cell, "labels": cell} for cell in cells * 2])
    assert data.label_names == tuple(sorted({label for cell in cells for label in cell.split(",")}))
