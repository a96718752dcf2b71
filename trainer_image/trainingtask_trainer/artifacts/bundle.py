"""A saved model: a folder that is either complete or not there.

``trainingtask.json`` (the manifest for `predict`), ``results.json``, the model card, and the files of the model's kind.
"""

import errno
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import joblib  # type: ignore[import-untyped]
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trainingtask_api import names
from trainingtask_api.fields import IndicatorName, RegisteredName
from trainingtask_api.reasons import Reason
from trainingtask_api.status import Results
from trainingtask_api.task import describe_errors
from trainingtask_trainer import registry
from trainingtask_trainer.artifacts.model_card import write_card
from trainingtask_trainer.errors import Fault, TrainerError, UserError, describe_with_location, join_names
from trainingtask_trainer.evaluation import thresholds
from trainingtask_trainer.evaluation.metrics import Probabilities
from trainingtask_trainer.models.base import Model
from trainingtask_trainer.preprocessors.base import Preprocessor
from trainingtask_trainer.reporting.progress import CurvePoint
from trainingtask_trainer.sources.columns import join_texts
from trainingtask_trainer.volumes import describe_contents, fsync_path

MANIFEST_FILE = names.MODEL_MANIFEST_FILE
RESULTS_FILE = "results.json"
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


def save_bundle(
    folder: Path,
    model: Model,
    preprocessor: Preprocessor,
    *,
    manifest: Manifest,
    results: Results,
    curve: Sequence[CurvePoint],
) -> None:
    """Write the model into `folder`, which replaces an earlier model.

    All files are written beside it and the finished folder is renamed, so that a half-saved model is never loaded.

    Raises
    ------
    Fault
        When the volume cannot be written.
    """
    partial = _make_partial_folder(folder)
    previous = _get_previous_folder(folder)
    model.save(partial, preprocessor)
    write_card(partial, manifest.task, results, curve)
    for file in partial.iterdir():
        if not file.stat().st_mode & 0o040:  # safetensors writes 0600; a server may run as another user
            file.chmod(0o644)
    _write_json(partial / MANIFEST_FILE, manifest.model_dump(exclude_defaults=True))
    _write_json(partial / RESULTS_FILE, results.to_json())
    for path in (*partial.rglob("*"), partial):  # before the checkpoints are removed
        fsync_path(path)
    shutil.rmtree(previous, ignore_errors=True)
    if folder.exists():
        folder.rename(
            previous
        )  # a folder that is not empty cannot be replaced in one step: `prepare_output_folder` repairs
    partial.rename(folder)
    fsync_path(folder.parent)
    shutil.rmtree(previous, ignore_errors=True)


def prepare_output_folder(root: Path, path: str, others: Sequence[Path] = ()) -> Path:
    """Return the output folder, after a check before the training that it can be written.

    `others` are the other folders on the claim that the training writes.

    Raises
    ------
    UserError
        When `path` is the root itself, which cannot be replaced as a whole, something else than an earlier model, or
        leads out of the root by a symbolic link.
    Fault
        When the volume cannot be written.
    """
    folder = root / path
    if folder == root:
        raise UserError(Reason.INVALID_SPEC, f"output.subPath '{path}' is the root of the claim: name a folder in it")
    for written in (folder, *others):
        if not written.resolve().is_relative_to(root.resolve()):
            raise UserError(
                Reason.OUTPUT_OCCUPIED,
                f"output.subPath '{path}': {written} leads out of the volume claim, to {written.resolve()}: "
                "remove the symbolic link",
            )
    if not folder.exists() and _get_previous_folder(folder).is_dir():
        _get_previous_folder(folder).rename(folder)  # a run was killed between two renames
    if (
        folder.exists()
        and not (folder / MANIFEST_FILE).is_file()
        and not (folder.is_dir() and not any(folder.iterdir()))
    ):
        there = describe_contents(folder) if folder.is_dir() else "a file"
        raise UserError(
            Reason.OUTPUT_OCCUPIED,
            f"output.subPath '{path}' is no trained model, but {there}: the model would replace it, name another folder",
        )
    _make_partial_folder(folder).rmdir()
    return folder


def _get_previous_folder(folder: Path) -> Path:
    """Return the folder of the earlier model while it is replaced."""
    return folder.with_name(f".{folder.name}.previous")


def _make_partial_folder(folder: Path) -> Path:
    """Return an empty folder beside `folder`, after removing that of a killed run."""
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise Fault(
                Reason.OUTPUT_NOT_WRITABLE, f"the output folder {folder.parent} cannot be written: {error}"
            ) from error
        raise
    return partial


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
    path = folder / MANIFEST_FILE
    if not path.is_file():
        there = f"it holds {describe_contents(folder)}" if folder.is_dir() else "there is no such folder"
        raise UserError(Reason.MODEL_UNAVAILABLE, f"{folder} is not a saved model, {MANIFEST_FILE} is missing: {there}")
    if (size := path.stat().st_size) > _MAX_MANIFEST_BYTES:
        raise _create_invalid_bundle_error(
            folder, f"{MANIFEST_FILE} has {size} bytes, at most {_MAX_MANIFEST_BYTES} are allowed"
        )
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = describe_errors(error).partition("\n")[0]
        raise _create_invalid_bundle_error(folder, f"{MANIFEST_FILE}: {first}") from error
    if len(manifest.labels) != len(manifest.thresholds):
        counts = f"{len(manifest.labels)} labels and {len(manifest.thresholds)} thresholds"
        raise _create_invalid_bundle_error(folder, f"{MANIFEST_FILE} has {counts}: one threshold per label is allowed")
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
