import csv
import json
import re
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from support.hub_server import Hub, to_parquet, write_card
from trainingtask_api.dataset import Dataset
from trainingtask_trainer.datasets.go_emotions import GoEmotions
from trainingtask_trainer.datasets.splits import prepare_data
from trainingtask_trainer.errors import Fault, UserError


def emotions(path: str = ".", **fields: object) -> Dataset:
    return Dataset.model_validate({"name": "go_emotions", "volumeClaim": "data", "path": path, **fields})


def test_go_emotions_from_real_files(go_emotions: Path) -> None:
    data = prepare_data(GoEmotions().load(emotions(go_emotions.name), go_emotions.parent), emotions())
    assert [len(split) for split in data.get_splits().values()] == [43410, 5426, 5427]
    assert (data.label_names[0], data.label_names[27]) == ("admiration", "neutral")
    assert data.train.labels.sum() / len(data.train) == pytest.approx(1.18, abs=0.01)
    assert data.count_texts_in_train() == {"validation": 43, "test": 37}
    assert data.list_warnings() == []


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


def test_go_emotions_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    write_emotions(tmp_path, "x\t0\tid")
    (tmp_path / "labels.txt").write_text("\ufeffjoy\nhot anger\n\n", encoding="utf-8")
    assert GoEmotions().load(emotions(), tmp_path).label_names == ("joy", "hot anger")
    (tmp_path / "labels.txt").write_bytes(b"joy\n\xff\n")
    with pytest.raises(UserError, match=r"labels.txt is not UTF-8 text"):
        GoEmotions().load(emotions(), tmp_path)


def test_go_emotions_bad_parquet_is_a_mistake(tmp_path: Path) -> None:
    for split in ("train", "validation", "test"):
        pq.write_table(pa.table({"text": ["x", None], "labels": [[0], [1]]}), tmp_path / f"{split}.parquet")
    (tmp_path / "labels.txt").write_text("joy\nanger\n")
    with pytest.raises(UserError, match=r"column 'text' has empty cells"):
        GoEmotions().load(emotions(), tmp_path)
    (tmp_path / "train.parquet").write_bytes(b"nonsense")
    with pytest.raises(UserError, match=r"holds a broken parquet file"):
        GoEmotions().load(emotions(), tmp_path)


def test_go_emotions_in_an_unknown_layout_says_what_it_needs(tmp_path: Path) -> None:
    (tmp_path / "train.tsv").touch()
    with pytest.raises(UserError, match=r"needs train.tsv, dev.tsv, test.tsv and labels.txt.*it holds train.tsv"):
        GoEmotions().load(emotions(), tmp_path)


def test_go_emotions_from_the_hub(hub: Hub, tmp_path: Path) -> None:
    label = datasets.ClassLabel(names=["joy", "anger"])
    features = datasets.Features({"text": datasets.Value("string"), "labels": datasets.List(label)})
    rows = to_parquet(datasets.Dataset.from_dict({"text": ["x", "y"], "labels": [[0], [0, 1]]}, features=features))
    splits = {split: f"simplified/{split}-*" for split in ("train", "validation", "test")}
    files = {f"simplified/{split}-00000-of-00001.parquet": rows for split in splits}
    hub.add("datasets/me/copy", {"README.md": write_card({"raw": {"train": "raw/*"}, "simplified": splits}), **files,
                                 "raw/train.parquet": rows})  # fmt: skip
    data = GoEmotions().load(Dataset.model_validate({"name": "go_emotions", "hub": {"id": "me/copy"}}), tmp_path)
    assert data.label_names == ("joy", "anger")
    assert data.train.texts == ["x", "y"]
    assert data.train.labels.tolist() == [[1, 0], [1, 1]]
    assert not any("raw/" in request for request in hub.requests if request.startswith("GET /datasets/"))


@pytest.mark.parametrize(
    ("texts", "labels", "sentence"),
    [
        (["x", "y"], [[0], [-1]], "split 'train', row 2, column 'labels': label index -1 is not within 0 to 1"),
        (["x", "y"], [[0], [1, None]], "split 'train', row 2, column 'labels': [1, None] are not label indexes"),
        (["x", "y"], [[0], None], "split 'train': column 'labels' has empty cells"),
        (["x", None], [[0], [1]], "split 'train': column 'text' has empty cells"),
    ],
)
def test_go_emotions_from_the_hub_names_bad_rows(
    hub: Hub, tmp_path: Path, texts: list[str | None], labels: list[list[int | None] | None], sentence: str
) -> None:
    label = datasets.ClassLabel(names=["joy", "anger"])
    features = datasets.Features({"text": datasets.Value("string"), "labels": datasets.List(label)})
    rows = to_parquet(datasets.Dataset.from_dict({"text": texts, "labels": labels}, features=features))
    splits = {split: f"{split}.parquet" for split in ("train", "validation", "test")}
    hub.add(
        "datasets/me/copy", {"README.md": write_card({"simplified": splits}), **dict.fromkeys(splits.values(), rows)}
    )
    with pytest.raises(UserError, match=re.escape(f"dataset.hub 'me/copy', {sentence}")):
        GoEmotions().load(Dataset.model_validate({"name": "go_emotions", "hub": {"id": "me/copy"}}), tmp_path)


def test_hub_errors_tell_a_mistake_from_a_fault(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'google-research-datasets/go_emotions' at .* does not exist") as mistake:
        GoEmotions().load(Dataset(name="go_emotions"), tmp_path)
    assert mistake.value.reason == "DatasetUnavailable"
    hub.outage = 503
    with pytest.raises(Fault, match=r"could not be reached for dataset.hub 'google-research-datasets/go_") as fault:
        GoEmotions().load(Dataset(name="go_emotions"), tmp_path)
    assert fault.value.reason == "HubUnavailable"


RAW_COLUMNS = ("text", "id", "author", "subreddit", "link_id", "parent_id", "created_utc", "rater_id",
               "example_very_unclear", "joy", "anger", "neutral")  # fmt: skip


def rating(text: str, comment: str, rater: int, *labels: str) -> dict[str, object]:
    known = {"text": text, "id": comment, "author": "a", "subreddit": "s", "link_id": "l", "parent_id": "p"}
    known |= {"created_utc": 1.5e9, "rater_id": rater, "example_very_unclear": not labels}
    return known | {name: int(name in labels) for name in RAW_COLUMNS[9:]}


RATINGS = [
    rating('so "good",\nreally', "c1", 1, "joy"),
    rating("agreed by nobody", "c2", 1, "joy"),
    rating('so "good",\nreally', "c1", 2, "joy", "anger"),
    rating("agreed by nobody", "c2", 2, "anger"),
    rating("agreed by nobody", "c2", 3),
    rating("42", "c3", 3, "anger", "neutral"),
    rating("42", "c3", 4, "anger", "neutral"),
    rating("said twice", "c4", 1, "joy"),
    rating("said twice", "c5", 2, "joy"),
    rating("rated twice by one", "c6", 7, "neutral"),
    rating("rated twice by one", "c7", 7, "neutral"),
]
AGREED = {'so "good",\nreally': [1, 0, 0], "42": [0, 1, 1], "said twice": [1, 0, 0]}


def write_ratings(folder: Path, layout: str) -> None:
    folder.mkdir(exist_ok=True)
    if layout == "parquet":
        pq.write_table(pa.Table.from_pylist(RATINGS), folder / "train-00000-of-00001.parquet")
        return
    for number, part in enumerate((RATINGS[:4], RATINGS[4:5], RATINGS[5:]), start=1):
        with (folder / f"goemotions_{number}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, RAW_COLUMNS)
            writer.writeheader()
            writer.writerows(part)


@pytest.mark.parametrize(("layout", "folder"), [("csv", "."), ("parquet", "."), ("parquet", "raw")])
def test_raw_keeps_what_two_raters_of_a_text_chose(tmp_path: Path, layout: str, folder: str) -> None:
    write_ratings(tmp_path / folder, layout)
    data = GoEmotions().load(emotions(config="raw"), tmp_path)
    assert data.label_names == ("joy", "anger", "neutral")
    assert dict(zip(data.train.texts, data.train.labels.tolist(), strict=True)) == AGREED
    assert (data.validation, data.test) == (None, None)


def test_raw_from_the_hub(hub: Hub, tmp_path: Path) -> None:
    files = {"README.md": write_card({"raw": {"train": "raw/*.parquet"}})}
    files["raw/train.parquet"] = to_parquet(datasets.Dataset.from_list(RATINGS))
    hub.add("datasets/google-research-datasets/go_emotions", files)
    data = GoEmotions().load(Dataset.model_validate({"name": "go_emotions", "config": "raw"}), tmp_path)
    assert dict(zip(data.train.texts, data.train.labels.tolist(), strict=True)) == AGREED


def test_raw_names_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config 'raw' needs goemotions_\*.csv or train.parquet.*it holds nothing"):
        GoEmotions().load(emotions(config="raw"), tmp_path)
    write_ratings(tmp_path, "csv")
    third = tmp_path / "goemotions_3.csv"
    third.write_text(third.read_text().replace(",0,1,1", ",0,1,yes", 1))
    with pytest.raises(UserError, match=r"goemotions_3.csv, row 2, column 'neutral': 'yes' is neither 0 nor 1"):
        GoEmotions().load(emotions(config="raw"), tmp_path)


def test_raw_without_any_agreement_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist([RATINGS[1], RATINGS[3]]), tmp_path / "train.parquet")
    with pytest.raises(UserError, match=r"no two raters agree on a label of any of the 1 texts"):
        GoEmotions().load(emotions(config="raw"), tmp_path)
