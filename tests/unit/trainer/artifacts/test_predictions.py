"""The predictions beside a model: what is written is read again, and what another program wrote is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from support.hostile_models import write_manifest
from trainingtask_trainer.artifacts import predictions
from trainingtask_trainer.artifacts.predictions import (
    PREDICTIONS_FILE,
    Metadata,
    list_size_warnings,
    read_test_predictions,
    write_predictions,
)
from trainingtask_trainer.datasets.base import Places, Split
from trainingtask_trainer.errors import UserError
from trainingtask_trainer.evaluation.label_errors import PredictedRows

LABELS = ("joy", 'row"; split', "=1+1")
METADATA = Metadata(labels=LABELS, test_fingerprint="a" * 64)


def draw_rows(name: str, count: int, seed: int = 0) -> PredictedRows:
    generator = np.random.default_rng(seed)
    truth, predicted = (generator.random((2, count, len(LABELS))) < 0.4).astype(np.uint8)
    places = Places.of([("a.csv", np.arange(2, 2 + count))])
    texts = [f"text {number} \ud800" for number in range(count)]
    return PredictedRows(name, Split(texts, truth, places), generator.random(truth.shape), predicted)


PARTS = [draw_rows("train", 20, 1), draw_rows("validation", 5, 2), draw_rows("test", 9, 3)]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    write_manifest(tmp_path, model="knn", preprocessor="tfidf", labels=["a"], thresholds=[0.5])
    write_predictions(tmp_path / PREDICTIONS_FILE, METADATA, PARTS, keep_texts=True)
    return tmp_path


def test_the_predictions_of_the_test_rows_are_read_again(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictions, "_MAX_GROUP_ROWS", 4)
    write_predictions(model / PREDICTIONS_FILE, METADATA, PARTS, keep_texts=False)
    stored = read_test_predictions(model)
    assert stored.metadata == METADATA
    assert (stored.truth == PARTS[2].split.labels).all()
    assert (stored.predicted == PARTS[2].predicted).all()
    assert stored.probabilities == pytest.approx(PARTS[2].probabilities, abs=1e-7)


def test_a_line_names_its_row_and_labels_for_other_programs(model: Path) -> None:
    frame = pd.read_parquet(model / PREDICTIONS_FILE)
    assert frame["split"].value_counts().to_dict() == {"train": 20, "test": 9, "validation": 5}
    first = frame.iloc[0]
    assert (first["source"], first["row"], first["text"]) == ("a.csv", 2, "text 0 ?")
    assert list(first["labels"]) == [LABELS[label] for label in np.flatnonzero(PARTS[0].split.labels[0])]
    assert np.stack(frame["probabilities"]).shape == (34, 3)


def test_texts_are_written_on_request_alone(model: Path) -> None:
    write_predictions(model / PREDICTIONS_FILE, METADATA, PARTS, keep_texts=False)
    assert "text" not in pq.read_schema(model / PREDICTIONS_FILE).names
    assert b"text 0" not in (model / PREDICTIONS_FILE).read_bytes()


def test_too_many_probabilities_are_left_out_with_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert list_size_warnings(PARTS) == []
    monkeypatch.setattr(predictions, "_MAX_BYTES", 400)
    [warning] = list_size_warnings(PARTS)
    assert warning == "predictions.parquet is not written: the probabilities of 34 rows take 408 B, more than 400 B"
    write_predictions(tmp_path / PREDICTIONS_FILE, METADATA, PARTS, keep_texts=False)
    assert not (tmp_path / PREDICTIONS_FILE).exists()


def change(model: Path, edit: Callable[[pa.Table], pa.Table]) -> None:
    table = pq.read_table(model / PREDICTIONS_FILE)
    pq.write_table(edit(table), model / PREDICTIONS_FILE)


def replace_column(table: pa.Table, name: str, values: Any) -> pa.Table:
    field = table.schema.field(name)
    return table.set_column(table.schema.get_field_index(name), field, pa.array(values, field.type))


FORGED: dict[str, tuple[Callable[[pa.Table], pa.Table], str]] = {
    "no metadata": (lambda table: table.replace_schema_metadata(None), "its metadata are not those of predictions"),
    "other metadata": (lambda table: table.replace_schema_metadata({"trainingtask": "[1]"}), "its metadata are not"),
    "a label twice": (
        lambda table: table.replace_schema_metadata(
            {"trainingtask": METADATA.model_copy(update={"labels": ("a", "a", "b")}).model_dump_json()}
        ),
        "a label is named twice",
    ),
    "fewer labels": (
        lambda table: table.replace_schema_metadata(
            {"trainingtask": METADATA.model_copy(update={"labels": ("a",)}).model_dump_json()}
        ),
        "its columns are split, source",
    ),
    "no column": (lambda table: table.drop_columns("predicted"), "its columns are split, source"),
    "an unknown label": (
        lambda table: replace_column(table, "labels", [["other"]] * 34),
        "that the metadata do not name",
    ),
    "a null": (lambda table: replace_column(table, "predicted", [None] * 34), "that the metadata do not name"),
    "no number": (
        lambda table: replace_column(table, "probabilities", [[0, float("nan"), 1]] * 34),
        "not within 0 to 1",
    ),
    "no probability": (lambda table: replace_column(table, "probabilities", [[0, 0, 1.5]] * 34), "not within 0 to 1"),
    "no list": (lambda table: replace_column(table, "probabilities", [None] * 34), "not within 0 to 1"),
    "no test rows": (lambda table: table.slice(0, 20), "it has no test rows"),
}


@pytest.mark.parametrize("forged", FORGED)
def test_a_forged_file_is_refused_with_one_sentence(model: Path, forged: str) -> None:
    edit, sentence = FORGED[forged]
    change(model, edit)
    with pytest.raises(UserError, match=sentence) as refused:
        read_test_predictions(model)
    assert "is not a file of predictions of this project, or was changed" in refused.value.message


def test_what_is_no_parquet_file_is_refused(model: Path) -> None:
    (model / PREDICTIONS_FILE).write_bytes(b"PAR1" + bytes(100) + b"PAR1")
    with pytest.raises(UserError, match="is not a file of predictions"):
        read_test_predictions(model)


@pytest.mark.parametrize("bound", ["_MAX_ROWS", "_MAX_BYTES", "_MAX_FILE_BYTES"])
def test_a_file_beyond_its_bounds_is_refused(model: Path, monkeypatch: pytest.MonkeyPatch, bound: str) -> None:
    monkeypatch.setattr(predictions, bound, 30)
    with pytest.raises(UserError, match=r"too much to be read|at most 30 are read"):
        read_test_predictions(model)


def test_a_model_without_predictions_says_what_to_do(model: Path) -> None:
    (model / PREDICTIONS_FILE).unlink()
    with pytest.raises(UserError, match=r"has no predictions.parquet: train the model again"):
        read_test_predictions(model)
