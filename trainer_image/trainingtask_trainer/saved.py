"""A saved model: a folder that is either whole or not there.

``trainingtask.json`` (what `predict` needs to know), ``results.json``, the model card, and the files of the model's kind.
"""

import errno
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from trainingtask_api.status import Results
from trainingtask_trainer import registry, thresholds
from trainingtask_trainer.card import write_card
from trainingtask_trainer.errors import Fault, UserError
from trainingtask_trainer.models.base import Model
from trainingtask_trainer.models.finetuning.checkpoints import sync
from trainingtask_trainer.places import contents
from trainingtask_trainer.preprocessors.base import Preprocessor
from trainingtask_trainer.progress import CurvePoint

MANIFEST_FILE = "trainingtask.json"
RESULTS_FILE = "results.json"


@dataclass(frozen=True)
class Manifest:
    """What a saved model says of itself."""

    task: str
    """Name of the task that trained it."""
    model: str
    preprocessor: str
    labels: tuple[str, ...]
    thresholds: tuple[float, ...]
    """One per label: the probability from which it is predicted."""


@dataclass(frozen=True)
class Prediction:
    """The labels of a text, with their probabilities, most probable first."""

    text: str
    labels: dict[str, float]


def save(
    folder: Path,
    model: Model,
    preprocessor: Preprocessor,
    *,
    manifest: Manifest,
    results: Results,
    curve: Sequence[CurvePoint],
) -> None:
    """Write the model into `folder`, in the place of an earlier one.

    All files are written beside it and the finished folder is renamed, so that a half-saved model is never taken for
    a whole one.

    Raises
    ------
    Fault
        When the volume cannot be written.
    """
    partial = _new_partial(folder)
    previous = _previous(folder)
    model.save(partial, preprocessor)
    write_card(partial, manifest.task, results, curve)
    for file in partial.iterdir():
        if not file.stat().st_mode & 0o040:  # safetensors keeps its file to its owner; others serve the model
            file.chmod(0o644)
    _write_json(partial / MANIFEST_FILE, asdict(manifest))
    _write_json(partial / RESULTS_FILE, results.to_json())
    for path in (*partial.rglob("*"), partial):  # the checkpoints are removed next
        sync(path)
    shutil.rmtree(previous, ignore_errors=True)
    if folder.exists():
        folder.rename(previous)  # a folder that is not empty cannot be replaced in one step: `check_output` repairs
    partial.rename(folder)
    sync(folder.parent)
    shutil.rmtree(previous, ignore_errors=True)


def check_output(root: Path, path: str) -> Path:
    """Return the output folder, after a look whether it can be written: better now than after the training.

    Raises
    ------
    UserError
        When `path` is the root itself, which cannot be replaced as a whole, or something else than an earlier model.
    Fault
        When the volume cannot be written.
    """
    folder = root / path
    if folder == root:
        raise UserError("InvalidSpec", f"output.subPath '{path}' is the root of the claim: name a folder in it")
    if not folder.exists() and _previous(folder).is_dir():
        _previous(folder).rename(folder)  # a run was killed while it replaced the model
    if (
        folder.exists()
        and not (folder / MANIFEST_FILE).is_file()
        and not (folder.is_dir() and not any(folder.iterdir()))
    ):
        there = contents(folder) if folder.is_dir() else "a file"
        raise UserError(
            "OutputOccupied",
            f"output.subPath '{path}' is no trained model, but {there}: the model would replace it, name another folder",
        )
    _new_partial(folder).rmdir()
    return folder


def _previous(folder: Path) -> Path:
    """Return where an earlier model stands while another takes its place."""
    return folder.with_name(f".{folder.name}.previous")


def _new_partial(folder: Path) -> Path:
    """Return an empty folder beside `folder`, without what a killed run left in it."""
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise Fault("OutputNotWritable", f"the output folder {folder.parent} cannot be written: {error}") from error
        raise
    return partial


def _write_json(path: Path, content: object) -> None:
    with path.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=2, ensure_ascii=False, allow_nan=False)
        file.write("\n")


def predict(folder: Path, texts: Sequence[str]) -> list[Prediction]:
    """Return the labels of each text: those whose probability reaches the threshold that the model holds for them.

    Raises
    ------
    UserError
        When `folder` holds no saved model.
    """
    path = folder / MANIFEST_FILE
    if not path.is_file():
        there = f"it holds {contents(folder)}" if folder.is_dir() else "there is no such folder"
        raise UserError("ModelUnavailable", f"{folder} is not a saved model, {MANIFEST_FILE} is missing: {there}")
    manifest = Manifest(**json.loads(path.read_text(encoding="utf-8")))
    model: type[Model] = registry.load("models", manifest.model)
    probabilities = model.load(folder)(texts)
    predicted = thresholds.apply(manifest.thresholds, probabilities)
    predictions = []
    for text, row, labels in zip(texts, probabilities, predicted, strict=True):
        chosen = [index for index in (-row).argsort(kind="stable") if labels[index]]
        predictions.append(Prediction(text, {manifest.labels[index]: float(row[index]) for index in chosen}))
    return predictions
