"""Saved models: where they may stand, what is in them, what they predict."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from support.results import RESULTS
from trainingtask_trainer import registry
from trainingtask_trainer.artifacts.bundle import _add_thresholds, write_bundle
from trainingtask_trainer.artifacts.model_manifest import Manifest
from trainingtask_trainer.artifacts.saved_model import SavedModel
from trainingtask_trainer.errors import UserError
from trainingtask_trainer.evaluation.metrics import Probabilities

MANIFEST = Manifest(
    task="a-task", model="fixed", preprocessor="none", labels=("a", "b", "c"), thresholds=(0.5, 0.2, 0.3)
)


class FixedModel:
    """Says the same of every text."""

    def save(self, folder: Path, preprocessor: object) -> None:
        (folder / "weights").touch(mode=0o600)

    @staticmethod
    def load(folder: Path) -> object:
        def probabilities(texts: Sequence[str]) -> Probabilities:
            return np.tile([0.4, 0.2, 0.9], (len(texts), 1))

        return probabilities


def saved(folder: Path, manifest: Manifest = MANIFEST) -> Path:
    folder.mkdir()
    write_bundle(folder, FixedModel(), None, manifest=manifest, results=RESULTS, curve=())  # type: ignore[arg-type]
    return folder


def test_a_model_is_a_folder_of_files_with_a_manifest(tmp_path: Path) -> None:
    model = saved(tmp_path / "model")
    assert sorted(path.name for path in model.iterdir()) == [
        "README.md",
        "per-label-f1.png",
        "results.json",
        "trainingtask.json",
        "weights",
    ]
    assert json.loads((model / "results.json").read_text()) == RESULTS.to_json()


def test_thresholds_stand_in_the_configuration_for_other_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FixedModel, "save", lambda self, folder, _: (folder / "config.json").write_text('{"a": 1}'))
    config = json.loads((saved(tmp_path / "model") / "config.json").read_text())
    assert config == {"a": 1, "thresholds": [0.5, 0.2, 0.3]}


def test_each_label_is_predicted_from_its_own_threshold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        registry, "load_for_saved_model", lambda kind, name: {("models", "fixed"): FixedModel}[kind, name]
    )
    [prediction] = SavedModel(saved(tmp_path / "model")).predict(["a text"])
    assert prediction.text == "a text"
    assert list(prediction.labels.items()) == [("c", 0.9), ("b", 0.2)]  # 0.4 does not reach a's 0.5


def test_a_model_of_several_text_columns_reads_json_objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "load_for_saved_model", lambda kind, name: FixedModel)
    manifest = MANIFEST.model_copy(update={"text_columns": ("subject", "body")})
    saved(tmp_path / "m", manifest)
    rows = ['{"body": "b", "subject": "a", "id": 1}', '{"subject": null, "body": "b"}', "plain", "{not JSON"]
    rows += ['{"Subject ": "a", "BODY": "b"}', '{"Subject": 1, "subject": "a"}']  # a name as it is goes first
    assert [prediction.text for prediction in SavedModel(tmp_path / "m").predict(rows)] == [
        "a\nb",
        "b",
        "plain",
        "{not JSON",
        "a\nb",
        "a",
    ]
    with pytest.raises(UserError, match="has text under subject, body; this one has text"):
        SavedModel(tmp_path / "m").predict(['{"text": "x"}'])
    with pytest.raises(UserError, match="has text under subject, body; this one is nested too deep to be read"):
        SavedModel(tmp_path / "m").predict(['{"subject": "a", "body": ' + "[" * 100_000])
    with pytest.raises(UserError, match=r"text 2 is not Unicode text: .*surrogates not allowed"):
        SavedModel(tmp_path / "m").predict(["a", r'{"subject": "\ud83d"}'])
    with pytest.raises(UserError, match=r"text 1 is not Unicode text: .*surrogates not allowed"):
        SavedModel(tmp_path / "m").predict([os.fsdecode(b"\xff")])
    saved(tmp_path / "one")
    assert SavedModel(tmp_path / "one").predict(rows[:1])[0].text == rows[0]  # of a model of one column, text is text


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ('{"subject": 404, "body": "b"}', "has text or null under subject; this one has a number"),
        ('{"subject": "a", "BODY": ["b"]}', "has text or null under body; this one has a list"),
        ('{"subject": false, "body": "b"}', "has text or null under subject; this one has a boolean"),
        ('{"Subject": "a", "SUBJECT": "b"}', "has one 'subject'; this one has 'Subject', 'SUBJECT'"),
    ],
)
def test_a_text_column_that_would_be_left_out_is_refused(
    row: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "load_for_saved_model", lambda kind, name: FixedModel)
    model = SavedModel(saved(tmp_path / "m", MANIFEST.model_copy(update={"text_columns": ("subject", "body")})))
    with pytest.raises(UserError, match=f"^a JSON object for this model {sentence}$"):
        model.predict([row])


@pytest.mark.parametrize(
    ("rule", "labels"),
    [
        ({"thresholds": (0.95, 0.95, 0.95)}, []),
        ({"thresholds": (0.95, 0.95, 0.95), "at_least_one": True}, ["c"]),
        ({"max_labels": 1}, ["c"]),
        ({"thresholds": (0.42, 0.2, 0.3), "temperature": 2.0}, ["c", "a", "b"]),
    ],
)
def test_labels_follow_the_rule_of_the_manifest(
    rule: dict[str, object], labels: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "load_for_saved_model", lambda *_: FixedModel)
    model = SavedModel(saved(tmp_path / "model", MANIFEST.model_copy(update=rule)))
    assert list(model.predict(["a text"])[0].labels) == labels


def test_a_temperature_divides_the_logits_of_predictions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "load_for_saved_model", lambda *_: FixedModel)
    model = SavedModel(saved(tmp_path / "model", MANIFEST.model_copy(update={"temperature": 2.0})))
    assert model.predict_probabilities(["a text"])[0].tolist() == pytest.approx([0.449, 1 / 3, 0.75], abs=1e-3)


def test_thresholds_in_the_configuration_are_those_before_calibration(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    _add_thresholds(
        tmp_path / "config.json", MANIFEST.model_copy(update={"thresholds": (0.5, 0.75, 0.25), "temperature": 2.0})
    )
    written = json.loads((tmp_path / "config.json").read_text())["thresholds"]
    assert written == pytest.approx([0.5, 0.9, 0.1])  # odds of 3 squared


def test_a_label_that_is_never_predicted_stays_so_in_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    _add_thresholds(
        tmp_path / "config.json", MANIFEST.model_copy(update={"thresholds": (1.0, 0.5, 0.5), "temperature": 0.1})
    )
    assert json.loads((tmp_path / "config.json").read_text())["thresholds"][0] == 1


def test_a_manifest_without_a_rule_is_that_of_an_older_model(tmp_path: Path) -> None:
    written = json.loads((saved(tmp_path / "model") / "trainingtask.json").read_text())
    assert not {"at_least_one", "max_labels", "temperature"} & written.keys()
