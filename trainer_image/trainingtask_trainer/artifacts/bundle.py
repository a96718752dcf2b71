"""A saved model: a folder of files, which is one once its manifest is there.

``trainingtask.json`` (the manifest for `SavedModel`), ``results.json``, the model card, and the files of the model's kind.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from trainingtask_api.status import Results
from trainingtask_trainer.artifacts.model_card import write_card
from trainingtask_trainer.artifacts.model_manifest import Manifest
from trainingtask_trainer.evaluation.calibration import scale_probabilities
from trainingtask_trainer.evaluation.decisions import NEVER
from trainingtask_trainer.models.base import Model
from trainingtask_trainer.preprocessors.base import Preprocessor
from trainingtask_trainer.reporting.progress import CurvePoint
from trainingtask_trainer.storage.folder_store import MODEL_MANIFEST

RESULTS_FILE = "results.json"
CONFIG_FILE = "config.json"


def write_bundle(
    folder: Path,
    model: Model | None,
    preprocessor: Preprocessor,
    *,
    manifest: Manifest,
    results: Results,
    curve: Sequence[CurvePoint],
) -> None:
    """Write the files of a saved model into `folder`, which holds its exports; without `model` these alone."""
    if model is not None:
        model.save(folder, preprocessor)
    write_card(folder, manifest.task, results, curve)
    _add_thresholds(folder / CONFIG_FILE, manifest)
    _write_json(folder / RESULTS_FILE, results.to_json())
    _write_json(folder / MODEL_MANIFEST, manifest.model_dump(exclude_defaults=True))


def _add_thresholds(config: Path, manifest: Manifest) -> None:
    """Write the thresholds into a transformer's configuration for tools that read no manifest.

    They are in the order of `id2label`, and those of the probabilities as the model gives them, before calibration.
    """
    if config.is_file():
        values = np.array([manifest.thresholds])
        is_never = values >= NEVER
        if manifest.temperature is not None:
            scale_probabilities(values, 1 / manifest.temperature)
        values[is_never] = NEVER
        _write_json(config, {**json.loads(config.read_text(encoding="utf-8")), "thresholds": values[0].tolist()})


def _write_json(path: Path, content: object) -> None:
    with path.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=2, ensure_ascii=False, allow_nan=False)
        file.write("\n")
