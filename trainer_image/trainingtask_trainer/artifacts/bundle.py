"""A saved model: a folder of files, which is one once its manifest is there.

``trainingtask.json`` (the manifest for `predict`), ``results.json``, the model card, and the files of the model's kind.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import joblib  # type: ignore[import-untyped]
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trainingtask_api.fields import IndicatorName, RegisteredName
from trainingtask_api.reasons import Reason
from trainingtask_api.status import Results
from trainingtask_api.task import describe_errors
from trainingtask_trainer import registry
from trainingtask_trainer.artifacts.model_card import write_card
from trainingtask_trainer.errors import TrainerError, UserError, describe_with_location, join_names
from trainingtask_trainer.evaluation import thresholds
from trainingtask_trainer.evaluation.metrics import Probabilities
from trainingtask_trainer.models.base import Model
from trainingtask_trainer.preprocessors.base import Preprocessor
from trainingtask_trainer.reporting.progress import CurvePoint
from trainingtask_trainer.sources.columns import join_texts
from trainingtask_trainer.storage.folder_store import MODEL_MANIFEST
from trainingtask_trainer.volumes import describe_contents

RESULTS_FILE = "results.json"
CONFIG_FILE = "config.json"
_MAX_MANIFEST_BYTES = 32 << 20

_Label = Annotated[str, Field(max_length=200)]
_Threshold = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class Manifest(BaseModel):
    """The manifest of a saved model. It may come from an untrusted folder: every value is bounded."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    task: Annotated[str, Field(min_length=1, max_length=63)]
    """Name of the task that trained it."""
    model: RegisteredName
    preprocessor: RegisteredName
    labels: Annotated[tuple[_Label, ...], Field(min_length=1, max_length=100_000)]
    thresholds: tuple[_Threshold, ...]
    """One per label: the probability from which it is predicted."""
    text_columns: Annotated[tuple[IndicatorName, ...], Field(max_length=16)] = ()
    """The columns that a row's text was joined from; none for a text of one column."""


@dataclass(frozen=True)
class Prediction:
    """The labels of a text, with their probabilities, most probable first."""

    text: str
    labels: dict[str, float]


def write_bundle(
    folder: Path,
    model: Model,
    preprocessor: Preprocessor,
    *,
    manifest: Manifest,
    results: Results,
    curve: Sequence[CurvePoint],
) -> None:
    """Write the files of a saved model into `folder`, which is empty."""
    model.save(folder, preprocessor)
    write_card(folder, manifest.task, results, curve)
    _add_thresholds(folder / CONFIG_FILE, manifest.thresholds)
    _write_json(folder / RESULTS_FILE, results.to_json())
    _write_json(folder / MODEL_MANIFEST, manifest.model_dump(exclude_defaults=True))


def _add_thresholds(config: Path, values: Sequence[float]) -> None:
    """Write the thresholds, in the order of `id2label`, into a transformer's configuration for tools that read no manifest."""
    if config.is_file():
        _write_json(config, {**json.loads(config.read_text(encoding="utf-8")), "thresholds": list(values)})


def _write_json(path: Path, content: object) -> None:
    with path.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=2, ensure_ascii=False, allow_nan=False)
        file.write("\n")


def predict(folder: Path, rows: Sequence[str]) -> list[Prediction]:
    """Return the labels of each row: those whose probability reaches their threshold.

    A row is a text. For a model of several text columns it may be a JSON object with these.

    The folder may be untrusted: no code in it is run.

    Raises
    ------
    UserError
        When `folder` holds no saved model, a broken one, or one that needs code.
    """
    manifest = _read_manifest(folder)
    texts = [_read_row(row, manifest.text_columns) for row in rows]
    model: type[Model] = registry.load_for_saved_model("models", manifest.model)
    try:
        with joblib.parallel_config(backend="threading"):  # an `n_jobs` in the files must not start processes
            probabilities = model.load(folder)(texts)
    except TrainerError:
        raise
    except Exception as error:  # libraries raise any error over forged files
        raise _create_invalid_bundle_error(
            folder, f"its files cannot be read as model '{manifest.model}': {describe_with_location(error)}"
        ) from error
    _check_probabilities(folder, probabilities, (len(texts), len(manifest.labels)))
    predicted = thresholds.apply_thresholds(manifest.thresholds, probabilities)
    predictions = []
    for text, row, labels in zip(texts, probabilities, predicted, strict=True):
        chosen = [index for index in (-row).argsort(kind="stable") if labels[index]]
        predictions.append(Prediction(text, {manifest.labels[index]: float(row[index]) for index in chosen}))
    return predictions


def _read_row(row: str, columns: Sequence[str]) -> str:
    """Return the text of a row: of a JSON object, its text columns joined as those of the training rows were.

    Raises
    ------
    UserError
        When an object has text in none of the columns.
    """
    if not columns or not row.lstrip().startswith("{"):
        return row
    try:
        cells = json.loads(row)
    except ValueError:
        return row
    text = join_texts(cells.get(column) for column in columns)
    if not text:
        raise UserError(
            Reason.INVALID_DATA,
            f"a JSON object for this model has text under {join_names(columns, limit=16)}; this one has"
            f" {join_names(list(cells)) or 'nothing'}",
        )
    return text


def _read_manifest(folder: Path) -> Manifest:
    """Return the manifest of a saved model.

    Raises
    ------
    UserError
        When `folder` holds no saved model, or a manifest that breaks its bounds.
    """
    path = folder / MODEL_MANIFEST
    if not path.is_file():
        there = f"it holds {describe_contents(folder)}" if folder.is_dir() else "there is no such folder"
        raise UserError(
            Reason.MODEL_UNAVAILABLE, f"{folder} is not a saved model, {MODEL_MANIFEST} is missing: {there}"
        )
    if (size := path.stat().st_size) > _MAX_MANIFEST_BYTES:
        raise _create_invalid_bundle_error(
            folder, f"{MODEL_MANIFEST} has {size} bytes, at most {_MAX_MANIFEST_BYTES} are allowed"
        )
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = describe_errors(error).partition("\n")[0]
        raise _create_invalid_bundle_error(folder, f"{MODEL_MANIFEST}: {first}") from error
    if len(manifest.labels) != len(manifest.thresholds):
        counts = f"{len(manifest.labels)} labels and {len(manifest.thresholds)} thresholds"
        raise _create_invalid_bundle_error(folder, f"{MODEL_MANIFEST} has {counts}: one threshold per label is allowed")
    return manifest


def _check_probabilities(folder: Path, probabilities: Probabilities, expected: tuple[int, int]) -> None:
    shape = np.shape(probabilities)
    if shape != expected:
        raise _create_invalid_bundle_error(
            folder, f"the model gives numbers of shape {shape} for {expected[0]} texts and {expected[1]} labels"
        )
    if not np.isfinite(probabilities).all():
        raise _create_invalid_bundle_error(folder, "the model gives probabilities that are no numbers")


def _create_invalid_bundle_error(folder: Path, why: str) -> UserError:
    return UserError(Reason.MODEL_UNAVAILABLE, f"{folder} is not a saved model of this project, or was changed: {why}")
