"""Saved models: where they may stand, what is in them, what they predict."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from support.results import RESULTS
from trainingtask_trainer import registry
from trainingtask_trainer.artifacts.bundle import Manifest, predict, prepare_output_folder, save_bundle
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


def saved(folder: Path) -> Path:
    save_bundle(folder, FixedModel(), None, manifest=MANIFEST, results=RESULTS, curve=())  # type: ignore[arg-type]
    return folder


def test_output_must_be_a_folder_in_the_claim(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"output.subPath '.' is the root of the claim"):
        prepare_output_folder(tmp_path, ".")
    assert prepare_output_folder(tmp_path, "team/model") == tmp_path / "team" / "model"
    assert list((tmp_path / "team").iterdir()) == []


def test_output_takes_the_place_of_an_earlier_model_and_of_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "trainingtask.json").touch()
    for path in ("empty", "model"):
        assert prepare_output_folder(tmp_path, path) == tmp_path / path
    (tmp_path / "team" / "data").mkdir(parents=True)
    (tmp_path / "file").touch()
    for path, there in (("team", "data/"), ("file", "a file")):
        with pytest.raises(UserError, match=f"output.subPath '{path}' is no trained model, but .*{there}") as caught:
            prepare_output_folder(tmp_path, path)
        assert caught.value.reason == "OutputOccupied"
    assert (tmp_path / "team" / "data").is_dir()


def test_saved_files_can_be_read_by_others(tmp_path: Path) -> None:
    (tmp_path / ".model.partial").mkdir()  # what a killed run left behind
    (tmp_path / ".model.partial" / "half").touch()
    (tmp_path / "model").mkdir()  # an earlier model
    (tmp_path / "model" / "old").touch()
    model = saved(tmp_path / "model")
    assert (model / "weights").stat().st_mode & 0o777 == 0o644
    assert sorted(path.name for path in model.iterdir()) == [
        "README.md",
        "per-label-f1.png",
        "results.json",
        "trainingtask.json",
        "weights",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert json.loads((model / "results.json").read_text()) == RESULTS.to_json()


def test_a_model_that_a_killed_run_was_replacing_is_restored(tmp_path: Path) -> None:
    saved(tmp_path / "model").rename(tmp_path / ".model.previous")
    assert prepare_output_folder(tmp_path, "model") == tmp_path / "model"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (tmp_path / "model" / "weights").is_file()
    shutil.copytree(tmp_path / "model", tmp_path / ".model.previous")  # killed a moment later: the new one counts
    (tmp_path / "model" / "new").touch()
    assert (prepare_output_folder(tmp_path, "model") / "new").is_file()


def test_each_label_is_predicted_from_its_own_threshold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        registry, "load_for_saved_model", lambda kind, name: {("models", "fixed"): FixedModel}[kind, name]
    )
    [prediction] = predict(saved(tmp_path / "model"), ["a text"])
    assert prediction.text == "a text"
    assert list(prediction.labels.items()) == [("c", 0.9), ("b", 0.2)]  # 0.4 does not reach a's 0.5


def test_a_model_of_several_text_columns_reads_json_objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "load_for_saved_model", lambda kind, name: FixedModel)
    manifest = MANIFEST.model_copy(update={"text_columns": ("subject", "body")})
    save_bundle(tmp_path / "m", FixedModel(), None, manifest=manifest, results=RESULTS, curve=())  # type: ignore[arg-type]
    rows = ['{"body": "b", "subject": "a", "id": 1}', '{"subject": null, "body": "b"}', "plain", "{not JSON"]
    assert [prediction.text for prediction in predict(tmp_path / "m", rows)] == ["a\nb", "b", "plain", "{not JSON"]
    with pytest.raises(UserError, match="has text under subject, body; this one has text"):
        predict(tmp_path / "m", ['{"text": "x"}'])
    saved(tmp_path / "one")
    assert predict(tmp_path / "one", rows[:1])[0].text == rows[0]  # of a model of one column, text is text
