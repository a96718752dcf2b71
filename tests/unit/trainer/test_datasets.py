import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trainingtask_api.dataset import Dataset
from trainingtask_trainer import metrics
from trainingtask_trainer.datasets.go_emotions import GoEmotions
from trainingtask_trainer.datasets.splits import prepare
from trainingtask_trainer.datasets.table import Table
from trainingtask_trainer.errors import Fault, UserError


def table(path: str, **columns: object) -> Dataset:
    fields = {"name": "table", "volumeClaim": "data", "path": path}
    return Dataset.model_validate(fields | ({"columns": columns} if columns else {}))


def emotions(path: str = ".") -> Dataset:
    return Dataset.model_validate({"name": "go_emotions", "volumeClaim": "data", "path": path})


ROWS = [("one, two", ["a", "b"]), ("three", ["b"]), ("four", [])]
MATRIX = [[1, 1], [0, 1], [0, 0]]


def write(root: Path, name: str) -> None:
    path = root / name
    if name.endswith(".csv"):
        path.write_text('text,labels\n"one, two","a,b"\nthree,b\nfour,\n')
    elif name.endswith(".tsv"):
        path.write_text("text\tlabels\none, two\ta,b\nthree\tb\nfour\t\n")
    elif name.endswith(".jsonl"):
        path.write_text("".join(json.dumps({"text": text, "labels": labels}) + "\n" for text, labels in ROWS))
    else:
        pq.write_table(pa.table({"text": [row[0] for row in ROWS], "labels": [row[1] for row in ROWS]}), path)


@pytest.mark.parametrize("name", ["data.csv", "data.tsv", "data.jsonl", "data.parquet"])
def test_every_format_reads_the_same_rows(tmp_path: Path, name: str) -> None:
    write(tmp_path, name)
    data = Table().load(table(name), tmp_path)
    assert data.label_names == ("a", "b")
    assert data.train.texts == [text for text, _ in ROWS]
    assert data.train.labels.tolist() == MATRIX
    assert data.validation is None
    assert data.test is None


def test_indicator_columns(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("body,b,a\none,1,0\ntwo,0,1\n")
    data = Table().load(table("data.csv", text="body", indicators=["a", "b"]), tmp_path)
    assert data.label_names == ("a", "b")
    assert data.train.labels.tolist() == [[0, 1], [1, 0]]


def test_a_folder_holds_one_file_per_split(tmp_path: Path) -> None:
    for name in ("train.csv", "dev.csv", "test.jsonl"):
        write(tmp_path, name)
    data = Table().load(table("."), tmp_path)
    assert data.validation is not None
    assert data.test is not None
    assert data.test.labels.tolist() == MATRIX


@pytest.mark.parametrize(
    ("content", "columns", "sentence"),
    [
        ("body,labels\nx,a\n", {}, "row 2: no column 'text', only body, labels"),
        ("text,tags\nx,a\n", {}, "row 2: no column 'labels', only text, tags"),
        ("text,labels\nx,a\n  ,b\n", {}, "row 3, column 'text': '  ' is not a text"),
        ("text,labels\nx,a\ny\n", {}, "row 3: the number of columns is not the header's 2"),
        ("text,labels\nx,a,b\n", {}, "row 2: the number of columns is not the header's 2"),
        ("text,labels\nx,a\ny,a\n", {}, r"column 'labels': 1 labels \(a\), at least 2 are needed"),
        ("text,labels\n", {}, "data.csv has no rows"),
        ("text,a,b\nx,1,2\n", {"indicators": ["a", "b"]}, "row 2, column 'b': '2' is neither 0 nor 1"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, content: str, columns: dict[str, object], sentence: str) -> None:
    (tmp_path / "data.csv").write_text(content)
    with pytest.raises(UserError, match=sentence) as caught:
        Table().load(table("data.csv", **columns), tmp_path)
    assert caught.value.reason == "InvalidData"
    assert str(tmp_path / "data.csv") in caught.value.message


def test_a_label_that_training_has_not_seen_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "train.csv")
    (tmp_path / "test.csv").write_text("text,labels\nx,a\ny,zebra\n")
    with pytest.raises(UserError, match=r"test.csv, row 3, column 'labels': label 'zebra' does not occur"):
        Table().load(table("."), tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("data.csv", b"text,labels\n\xff,a\n", "is not UTF-8 text"),
        ("data.jsonl", b'{"text": 1}\n{"te', "row 2: not JSON"),
        ("data.jsonl", b"[]\n", "row 1: not a JSON object"),
        ("data.jsonl", b'{"text": "x", "labels": 3}\n', "row 1, column 'labels': 3 is neither"),
        ("data.parquet", b"nonsense", "is not a parquet file"),
        ("data.xlsx", b"", "ends in '.xlsx', which is none of"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, name: str, content: bytes, sentence: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        Table().load(table(name), tmp_path)


def test_a_missing_path_says_what_is_there(tmp_path: Path) -> None:
    write(tmp_path, "data.csv")
    (tmp_path / "more").mkdir()
    with pytest.raises(UserError) as caught:
        Table().load(table("nowhere/data.csv"), tmp_path)
    assert caught.value.reason == "DatasetNotFound"
    assert caught.value.message == (
        f"dataset.path 'nowhere/data.csv' does not exist in volume claim 'data' ({tmp_path}/nowhere/data.csv): "
        f"{tmp_path} holds data.csv, more/"
    )


def test_go_emotions_from_real_files(go_emotions: Path) -> None:
    data = prepare(GoEmotions().load(emotions(go_emotions.name), go_emotions.parent), emotions())
    assert [len(split) for split in data.splits().values()] == [43410, 5426, 5427]
    assert (data.label_names[0], data.label_names[27]) == ("admiration", "neutral")
    assert data.train.labels.sum() / len(data.train) == pytest.approx(1.18, abs=0.01)
    baseline = metrics.most_frequent_baseline(data.test.labels, data.train.labels)
    assert baseline.micro_f1 == pytest.approx(0.30, abs=0.005)
    assert metrics.all_zero_baseline(data.test.labels).accuracy_thresh == pytest.approx(0.958, abs=0.001)


def write_emotions(folder: Path, row: str) -> None:
    (folder / "labels.txt").write_text("joy\nanger\n")
    for name in ("train.tsv", "dev.tsv", "test.tsv"):
        (folder / name).write_text('a "quote\t0,1\tid1\n')
    (folder / "dev.tsv").write_text(f"fine\t1\tid2\n{row}\n")


def test_go_emotions_keeps_quotes(tmp_path: Path) -> None:
    write_emotions(tmp_path, "x\t0\tid3")
    data = GoEmotions().load(emotions(), tmp_path)
    assert data.train.texts == ['a "quote']
    assert data.validation is not None
    assert data.validation.labels.tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ("x\t2\tid", "dev.tsv, row 2, column 2: label index 2 is not within 0 to 1"),
        ("x\tjoy\tid", "dev.tsv, row 2, column 2: ['joy'] are not label indexes"),
        ("x\t0", "dev.tsv, row 2: 2 columns where text, labels and id are expected"),
    ],
)
def test_go_emotions_names_bad_rows(tmp_path: Path, row: str, sentence: str) -> None:
    write_emotions(tmp_path, row)
    with pytest.raises(UserError, match=re.escape(sentence)):
        GoEmotions().load(emotions(), tmp_path)


@pytest.mark.parametrize("kind", ["Sequence", "List"])
def test_go_emotions_from_the_hubs_parquet(tmp_path: Path, kind: str) -> None:
    features = {"labels": {"feature": {"names": ["joy", "anger"], "_type": "ClassLabel"}, "_type": kind}}
    rows = pa.table({"text": ["x", "y"], "labels": [[0], [0, 1]], "id": ["1", "2"]})
    rows = rows.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    (tmp_path / "simplified").mkdir()
    for split in ("train", "validation", "test"):
        pq.write_table(rows, tmp_path / "simplified" / f"{split}-00000-of-00001.parquet")
    data = GoEmotions().load(emotions(), tmp_path)
    assert data.label_names == ("joy", "anger")
    assert np.array_equal(data.train.labels, [[1, 0], [1, 1]])


def test_go_emotions_in_an_unknown_layout_says_what_it_needs(tmp_path: Path) -> None:
    (tmp_path / "train.tsv").touch()
    with pytest.raises(UserError, match=r"needs train.tsv, dev.tsv, test.tsv and labels.txt.*it holds train.tsv"):
        GoEmotions().load(emotions(), tmp_path)


def test_go_emotions_from_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import datasets

    label = datasets.ClassLabel(names=["joy", "anger"])
    features = datasets.Features({"text": datasets.Value("string"), "labels": datasets.List(label)})
    rows = datasets.Dataset.from_dict({"text": ["x", "y"], "labels": [[0], [0, 1]]}, features=features)
    asked: list[object] = []

    def load_dataset(path: str, name: str, revision: str) -> object:
        asked.extend([path, name, revision])
        return datasets.DatasetDict({"train": rows, "validation": rows, "test": rows})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    data = GoEmotions().load(
        Dataset.model_validate({"name": "go_emotions", "hub": {"id": "me/copy", "revision": "v1"}}), tmp_path
    )
    assert asked == ["me/copy", "simplified", "v1"]
    assert data.label_names == ("joy", "anger")
    assert data.train.texts == ["x", "y"]
    assert data.train.labels.tolist() == [[1, 0], [1, 1]]


@pytest.mark.parametrize(
    ("raised", "kind", "reason"),
    [("missing", UserError, "DatasetUnavailable"), ("offline", Fault, "HubUnavailable")],
)
def test_hub_errors_tell_a_mistake_from_a_fault(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, raised: str, kind: type[Exception], reason: str
) -> None:
    import datasets
    from datasets.exceptions import DatasetNotFoundError

    errors = {"missing": DatasetNotFoundError("doesn't exist"), "offline": ConnectionError("no route")}

    def load_dataset(*_: object, **__: object) -> None:
        raise errors[raised]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(kind, match="google-research-datasets/go_emotions") as caught:
        GoEmotions().load(Dataset(name="go_emotions"), tmp_path)
    assert getattr(caught.value, "reason", None) == reason
