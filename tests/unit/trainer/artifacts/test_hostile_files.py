"""A model folder is data: no file in it runs code, breaks a bound or sends compiled code out of an array."""

import io
import json
import os
import pickle
import re
import shutil
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.svm import SVC

from support.hostile_models import (
    BROKEN,
    Payload,
    refusal,
    write_archive,
    write_manifest,
)
from trainingtask_trainer.__main__ import main
from trainingtask_trainer.models.classical import skops_files

pytestmark = pytest.mark.usefixtures("isolated_process")


def test_an_honest_classical_model_is_read(classical: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(classical), "the page is very slow"]) == 0
    assert "crash" in capsys.readouterr().out


FORGED = {
    "key": ({"hook": "evil:run"}, "hook: 'evil:run' is refused: Extra inputs are not permitted"),
    "model type": ({"model": ["bert"]}, "model: Input should be a valid string"),
    "model name": ({"model": "../evil"}, "model: '../evil' is refused: must be a registered name"),
    "no labels": ({"labels": [], "thresholds": []}, "labels: .*at least 1 item"),
    "label type": ({"labels": [{"a": 1}]}, "labels.0: Input should be a valid string"),
    "label length": ({"labels": ["a" * 201]}, "labels.0: .*at most 200 characters"),
    "threshold": ({"thresholds": [1.5]}, "thresholds.0: 1.5 is refused: Input should be less than or equal to 1"),
    "no number": ({"thresholds": [float("nan")]}, "thresholds.0: nan is refused"),
    "counts": ({"labels": ["a", "b"], "thresholds": [0.5]}, "has 2 labels and 1 thresholds: one threshold per label"),
    "more labels than the model": ({"labels": ["a"], "thresholds": [0.5]}, r"shape \(1, 8\) for 1 texts and 1 labels"),
}


@pytest.mark.parametrize("forged", FORGED)
def test_a_manifest_out_of_bounds_is_refused(classical: Path, capsys: pytest.CaptureFixture[str], forged: str) -> None:
    values, sentence = FORGED[forged]
    write_manifest(classical, **values)
    said = refusal(classical, capsys)
    assert BROKEN in said
    assert re.search(sentence, said), said


def test_a_manifest_that_is_no_json_or_too_large_is_refused(
    classical: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = classical / "trainingtask.json"
    path.write_text("[" * 100_000)
    assert f"{BROKEN}: trainingtask.json: " in refusal(classical, capsys)
    with path.open("wb") as file:
        file.truncate((32 << 20) + 1)  # a hole: takes no space
    assert "trainingtask.json has 33554433 bytes, at most 33554432 are allowed" in refusal(classical, capsys)


@pytest.mark.parametrize("kind", ["pipe", "link to a device"])
def test_a_file_whose_read_never_ends_is_refused(
    classical: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    file = classical / "model.skops"
    file.unlink()
    if kind == "pipe":
        os.mkfifo(file)
    else:
        file.symlink_to("/dev/zero")
    assert f"{BROKEN}: model.skops is no file, but a pipe or a device" in refusal(classical, capsys)


def test_a_skops_file_holds_a_function_of_the_system(classical: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with zipfile.ZipFile(classical / "model.skops") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    schema = json.loads(parts["schema.json"])
    schema["content"]["vectorizer"] = {"__class__": "system", "__module__": "os", "__loader__": "FunctionNode"}
    write_archive(classical / "model.skops", parts | {"schema.json": json.dumps(schema).encode()})
    said = refusal(classical, capsys)
    assert BROKEN in said
    assert "os.system" in said


def test_a_skops_file_holds_a_pickled_array(classical: Path, marker: Path, capsys: pytest.CaptureFixture[str]) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.array([Payload(marker)], dtype=object), allow_pickle=True)
    with zipfile.ZipFile(classical / "model.skops") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    assert any(name.endswith(".npy") for name in parts)
    pickled = {name: buffer.getvalue() for name in parts if name.endswith(".npy")}
    write_archive(classical / "model.skops", parts | pickled)
    assert BROKEN in refusal(classical, capsys)
    assert not marker.exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 half a file", b"\x80\x04cos\nsystem\n"])
def test_a_skops_file_that_is_none_is_refused(
    classical: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    (classical / "model.skops").write_bytes(content)
    assert BROKEN in refusal(classical, capsys)


def test_a_pickle_in_the_place_of_the_skops_file(
    classical: Path, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (classical / "model.skops").write_bytes(pickle.dumps(Payload(marker)))
    assert BROKEN in refusal(classical, capsys)
    assert not marker.exists()


def forge_nodes(**first: int) -> Callable[[dict[str, Any]], None]:
    """Return a function that writes fields of the first node of a forest's first tree."""

    def forge(state: dict[str, Any]) -> None:
        tree = state["fitted"]["forest"].estimators_[0].tree_
        described = tree.__getstate__()
        for field, value in first.items():
            described["nodes"][field][0] = value
        tree.__setstate__(described)

    return forge


def forge_rows(state: dict[str, Any]) -> None:
    state["fitted"]["features"].indices[0] = 1 << 30


@pytest.mark.parametrize(
    ("model", "forge", "sentence"),
    [
        ("random_forest", forge_nodes(left_child=1 << 40), "a tree names nodes or features that it does not have"),
        (
            "random_forest",
            forge_nodes(left_child=0, right_child=0),
            "a tree names nodes or features that it does not have",
        ),
        ("random_forest", forge_nodes(feature=1 << 40), "a tree names nodes or features that it does not have"),
        ("knn", forge_rows, "indices must be < "),
    ],
)
def test_an_index_that_leads_out_of_its_array_is_refused(
    trained: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    model: str, forge: Callable[[dict[str, Any]], None], sentence: str,
) -> None:  # fmt: skip
    folder = Path(shutil.copytree(trained(model), tmp_path / "model"))
    state = skops_files.load(folder / "model.skops")
    forge(state)
    skops_files.dump(state, folder / "model.skops")
    capsys.readouterr()  # the training's words
    said = refusal(folder, capsys)
    assert BROKEN in said
    assert sentence in said


def svc() -> SVC:
    """Return an estimator whose compiled code reads as many vectors as its counts say."""
    estimator = SVC(kernel="linear").fit(np.eye(8), [0, 1] * 4)
    estimator._n_support = np.full(2, 1 << 28, dtype=np.int32)
    return estimator


def forge_estimator(state: dict[str, Any]) -> None:
    state["fitted"]["estimators"][0] = svc()


def forge_vectorizer(state: dict[str, Any]) -> None:
    state["vectorizer"] = Pipeline([("words", state["vectorizer"]), ("nested", FeatureUnion([("svc", svc())]))])


def forge_vocabulary(state: dict[str, Any]) -> None:
    words = state["vectorizer"]
    state["vectorizer"] = CountVectorizer(vocabulary=words.vocabulary_)
    state["vectorizer"].vocabulary_ = dict.fromkeys(words.vocabulary_, 1 << 30)


def forge_hashes(state: dict[str, Any]) -> None:
    state["vectorizer"] = HashingVectorizer(n_features=0)


def forge_features(state: dict[str, Any]) -> None:
    forest = state["fitted"]["forest"]
    tree = forest.estimators_[0].tree_
    constructor, (_, *others), content = tree.__reduce__()
    content["nodes"]["feature"][content["nodes"]["left_child"] != -1] = (1 << 40) - 1
    forest.estimators_[0].tree_ = constructor(1 << 40, *others)
    forest.estimators_[0].tree_.__setstate__(content)


def forge_method(state: dict[str, Any]) -> None:
    state["fitted"]["forest"]._validate_X_predict = np.float32  # in the place of the method that counts the features


def forge_single_tree(state: dict[str, Any]) -> None:
    state["fitted"] = {"estimators": state["fitted"]["forest"].estimators_, "chain": False}


@pytest.mark.parametrize(
    ("model", "forge", "sentence"),
    [
        ("random_forest", forge_method, "a value stands in the place of a method of RandomForestClassifier"),
        ("random_forest", forge_single_tree, "a tree stands outside of a forest"),
        ("logistic_regression", forge_estimator, "it holds a sklearn.svm._classes.SVC, where a vectorizer or an"),
        ("logistic_regression", forge_vectorizer, "it holds a sklearn.svm._classes.SVC, where a vectorizer or an"),
        ("logistic_regression", forge_vocabulary, "a vocabulary does not number its terms from 0 on, each once"),
        ("logistic_regression", forge_hashes, "n_features of a HashingVectorizer is 0, at least 1 is allowed"),
        ("random_forest", forge_features, "a tree of a forest reads other features than the forest"),
    ],
)
def test_compiled_code_follows_no_number_unchecked(
    trained: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    model: str, forge: Callable[[dict[str, Any]], None], sentence: str,
) -> None:  # fmt: skip
    folder = Path(shutil.copytree(trained(model), tmp_path / "model"))
    state = skops_files.load(folder / "model.skops")
    forge(state)
    skops_files.dump(state, folder / "model.skops")
    said = refusal(folder, capsys)
    assert BROKEN in said
    assert sentence in said


def test_a_file_that_unpacks_to_more_than_itself_is_not_read(
    classical: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with zipfile.ZipFile(classical / "model.skops") as archive:
        schema = json.loads(archive.read("schema.json"))
    with zipfile.ZipFile(classical / "model.skops", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("schema.json", json.dumps(schema) + " " * (200 << 20))
    tracemalloc.start()
    said = refusal(classical, capsys)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert BROKEN in said
    assert re.search(r"model\.skops has \d+ bytes and unpacks to 209\d+: at most its own size is allowed", said), said
    assert peak < 50 << 20


def test_an_honest_transformer_is_read(transformer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(transformer), "the page is slow"]) == 0
    assert capsys.readouterr().out.count("(0.") == 2


def test_weights_are_a_pickle(transformer: Path, marker: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (transformer / "model.safetensors").unlink()
    (transformer / "pytorch_model.bin").write_bytes(pickle.dumps(Payload(marker)))
    said = refusal(transformer, capsys)
    assert "has no *.safetensors" in said
    assert "weights in another format may be code, convert them where you trust them" in said
    (transformer / "other.safetensors").touch()
    said = refusal(transformer, capsys)
    assert "no file named model.safetensors" in said
    assert not marker.exists()


@pytest.mark.parametrize("file", ["tokenizer.json", "config.json", "model.safetensors"])
@pytest.mark.parametrize("content", [b"", b"[]", b'{"a": ' * 2000, b"\xff" * 64])
def test_files_that_are_not_what_they_are_called(
    transformer: Path, capsys: pytest.CaptureFixture[str], file: str, content: bytes
) -> None:
    (transformer / file).write_bytes(content)
    refusal(transformer, capsys)
