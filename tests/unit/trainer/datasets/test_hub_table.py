"""Data sets of a hub on this machine as tables."""

import re
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets import ClassLabel, Features, List, Value
from datasets import Dataset as Rows
from huggingface_hub import constants

from support.hub_server import Hub, to_parquet, write_card
from trainingtask_api.dataset import Dataset
from trainingtask_trainer.datasets.base import RawData
from trainingtask_trainer.datasets.table import Table
from trainingtask_trainer.errors import Fault, UserError

NAMES = ClassLabel(names=["joy", "anger", "fear"])
TEXTS = ["a", "b", "c", "d"]


def load(columns: dict[str, Any] | None = None, folder: Path = Path("/nowhere"), **hub: Any) -> RawData:
    fields = {"name": "table", "hub": {"id": "me/rows"} | hub} | ({"columns": columns} if columns else {})
    return Table().load(Dataset.model_validate(fields), folder)


def write(labels: list[Any], feature: Any, column: str = "labels") -> bytes:
    rows = {"id": [str(row) for row in range(len(labels))], "text": TEXTS[: len(labels)], column: labels}
    features = Features({"id": Value("string"), "text": Value("string"), column: feature})
    return to_parquet(Rows.from_dict(rows, features=features))


LISTS = write([[0], [1], [0, 1], []], List(NAMES))


@pytest.mark.parametrize(
    ("labels", "feature", "columns"),
    [
        ([[0], [1], [0, 1], []], List(NAMES), None),
        ([["joy"], ["anger"], ["joy", "anger"], []], List(Value("string")), None),
        (["joy", "anger", "joy;anger", ""], Value("string"), {"delimiter": ";"}),
        ([[1, 0], [0, 1], [1, 1], [0, 0]], List(Value("int64")), {"labelNames": ["joy", "anger"]}),
    ],
    ids=["class labels", "strings", "delimited", "multi-hot"],
)
def test_labels_are_read_by_their_feature(hub: Hub, labels: list[Any], feature: Any, columns: dict[str, Any]) -> None:
    hub.add("datasets/me/rows", {"train.parquet": write(labels, feature)})
    data = load(columns)
    order = [data.label_names.index(name) for name in ("joy", "anger")]
    assert data.train.texts == TEXTS
    assert data.train.labels[:, order].tolist() == [[1, 0], [0, 1], [1, 1], [0, 0]]
    assert (data.validation, data.test, data.warnings) == (None, None, ())


def test_a_single_class_label_stands_in_column_label(hub: Hub) -> None:
    hub.add("datasets/me/rows", {"train.parquet": write([0, 1, 0, 1], NAMES, "label")})
    data = load()
    assert data.label_names == ("anger", "joy")
    assert data.train.labels.tolist() == [[0, 1], [1, 0], [0, 1], [1, 0]]


def test_indicators_may_be_booleans(hub: Hub) -> None:
    rows = Rows.from_dict({"text": TEXTS, "joy": [True, False, True, False], "anger": [0, 1, 0, 1]})
    hub.add("datasets/me/rows", {"train.parquet": to_parquet(rows)})
    assert load({"indicators": ["joy", "anger"]}).train.labels.tolist() == [[1, 0], [0, 1], [1, 0], [0, 1]]


def test_csv_takes_its_label_names_from_the_card(hub: Hub) -> None:
    names = "names: {'0': joy, '1': anger}"
    features = f"[{{name: text, dtype: string}}, {{name: label, dtype: {{class_label: {{{names}}}}}}}]"
    card = f"---\ndataset_info: {{features: {features}}}\n---\n".encode()
    hub.add("datasets/me/rows", {"README.md": card, "train.csv": b"text,label\na,0\nb,1\nc,0\nd,1\n"})
    assert load().label_names == ("anger", "joy")


@pytest.mark.parametrize("names", [("validation", "test"), ("valid", "eval"), ("dev", "TEST")])
def test_splits_are_found_by_usual_names(hub: Hub, names: tuple[str, str]) -> None:
    files = {f"{number}.parquet": LISTS for number in range(4)}
    splits = dict(zip(("train", *names, "unsupervised"), files, strict=True))
    hub.add("datasets/me/rows", {"README.md": write_card({"default": splits}), **files})
    data = load()
    assert data.validation is not None
    assert data.test is not None
    assert data.warnings == ("splits of dataset.hub 'me/rows' that were not read: unsupervised",)


def test_splits_may_be_named(hub: Hub) -> None:
    files = {f"{number}.parquet": LISTS for number in range(3)}
    splits = dict(zip(("train", "dev", "unseen.v2"), files, strict=True))
    hub.add("datasets/me/rows", {"README.md": write_card({"default": splits}), **files})
    data = load(splits={"train": "dev", "test": "unseen.v2"})
    assert data.validation is None
    assert data.test is not None
    assert data.warnings == ("splits of dataset.hub 'me/rows' that were not read: train",)


@pytest.mark.parametrize(
    ("splits", "options", "sentence"),
    [
        (("rows", "more"), {}, "has no split 'train', only rows, more: name those to use in dataset.hub.splits"),
        (("train",), {"splits": {"test": "golden"}}, "has no split 'golden', only train"),
        (("train", "dev", "valid"), {}, "has several splits for validation, dev, valid: name one in dataset.hub.splits"),
        (("train",), {"config": "fr"}, "dataset.hub.config: BuilderConfig 'fr' not found. Available: ['default']"),
        (("train",), {"revision": "v2"}, "at revision 'v2': the hub knows no such revision"),
        (("train",), {"id": "me/none"}, "'me/none' at revision 'main' does not exist on the hub, or is private"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_named(hub: Hub, splits: tuple[str, ...], options: dict[str, Any], sentence: str) -> None:
    files = {f"{split}.parquet": LISTS for split in splits}
    card = write_card({"default": {split: f"{split}.parquet" for split in splits}})
    hub.add("datasets/me/rows", {"README.md": card, **files})
    with pytest.raises(UserError, match=re.escape(sentence)):
        load(**options)


def test_one_of_several_configurations_must_be_named(hub: Hub) -> None:
    card = write_card({"de": {"train": "de.parquet"}, "en": {"train": "en.parquet"}})
    hub.add("datasets/me/rows", {"README.md": card, "de.parquet": LISTS, "en.parquet": LISTS})
    with pytest.raises(UserError, match=r"dataset.hub.config: Config name is missing.*\['de', 'en'\]$"):
        load()
    assert len(load(config="en").train) == 4
    assert not any("de.parquet" in request for request in hub.requests)


def test_a_missing_column_is_named_with_those_that_are_there(hub: Hub) -> None:
    hub.add("datasets/me/rows", {"train.parquet": LISTS})
    with pytest.raises(UserError, match=r"'me/rows', split 'train': no column 'y', only 'id', 'text', 'labels'"):
        load({"labels": "y"})


def test_bad_rows_are_named_by_their_split(hub: Hub) -> None:
    rows = Rows.from_dict({"text": ["a", None, "c", "d"], "labels": [["x"], ["x"], ["y"], ["y"]]})
    hub.add("datasets/me/rows", {"train.parquet": to_parquet(rows)})
    with pytest.raises(UserError, match=r"'me/rows', split 'train', row 2, column 'text': None is not a text"):
        load()


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({"rows.py": b"raise SystemExit", "train.csv": b"text,label\na,b\n"}, "a data set must consist of data files"),
        ({"rows.bin": b""}, "No (supported) data files found"),
        ({"train.txt": b"a"}, "has files of the format 'text', but only arrow, csv, json, parquet are read"),
        ({"train.parquet": b"PAR1"}, "has files that cannot be read: Parquet file size is 4 bytes"),
        ({"README.md": write_card({"x": {"train": "/etc/host.conf"}}), "a.csv": b"a,b\n1,2\n"}, "cannot be had"),
        ({"README.md": write_card({"x": {"train": "hf://datasets/you/other/a.csv"}})}, "Data files don't belong to me/rows"),
    ],
    ids=["script", "nothing", "text", "broken", "file of this machine", "file of another"],
)  # fmt: skip
def test_data_files_of_its_own_are_read_alone(hub: Hub, files: dict[str, bytes], sentence: str) -> None:
    hub.add("datasets/me/rows", files)
    hub.add("datasets/you/other", {"a.csv": b"text,label\na,b\n"})
    with pytest.raises(UserError, match=re.escape(sentence)):
        load()


def test_a_gated_data_set_needs_the_token(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("datasets/me/rows", {"train.parquet": LISTS}, is_gated=True, token="secret")
    with pytest.raises(UserError, match=r"is a gated dataset on the Hub.*pass HF_TOKEN through spec.env") as caught:
        load()
    assert caught.value.reason == "DatasetUnavailable"
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert len(load().train) == 4


def test_an_id_is_never_a_local_folder(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "me" / "rows").mkdir(parents=True)
    (tmp_path / "me" / "rows" / "train.csv").write_text("text,label\nlocal,x\nlocal,y\n")
    monkeypatch.chdir(tmp_path)
    hub.add("datasets/me/rows", {"train.parquet": LISTS})
    assert load().train.texts == TEXTS


def test_in_an_outage_the_same_commit_is_read_from_the_cache(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = hub.add("datasets/me/rows", {"train.parquet": LISTS})
    first = repository.main
    load()
    repository.commit({"train.parquet": write([[2], [2], [1], [1]], List(NAMES))})
    assert load().label_names == ("anger", "fear")
    hub.outage = 503
    monkeypatch.setattr("trainingtask_trainer.storage.hub_client.MAX_WAIT", 0)
    assert load(revision=first).label_names == ("anger", "joy")
    with pytest.raises(Fault, match=r"could not be reached for dataset.hub 'me/rows' at revision '0000"):
        load(revision="0" * 40)


def test_offline_what_the_library_prepared_is_read(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("datasets/me/rows", {"README.md": b"# Rows", "train.parquet": LISTS})
    monkeypatch.setattr(datasets.config, "HF_UPDATE_DOWNLOAD_COUNTS", False)
    datasets.load_dataset("me/rows")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert load().train.texts == TEXTS
    with pytest.raises(Fault, match="is not in the cache, and HF_HUB_OFFLINE forbids to ask the hub"):
        load(config="other")
