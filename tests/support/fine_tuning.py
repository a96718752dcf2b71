"""Fine-tuning the tiny checkpoints in a test."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from accelerate.state import AcceleratorState

from support.specs import task as manifest
from trainingtask_api.task import TrainingTask
from trainingtask_trainer.datasets.base import LabelMatrix
from trainingtask_trainer.evaluation.metrics import Probabilities
from trainingtask_trainer.models.base import FitResult, TrainingRows
from trainingtask_trainer.models.transformers.classifier import Transformer
from trainingtask_trainer.preprocessors.tokenizer import TokenIds, Tokenizer
from trainingtask_trainer.reporting.progress import Progress, Step
from trainingtask_trainer.storage.claim_folder import ClaimFolder
from trainingtask_trainer.storage.folder_store import FolderStore, ManifestLastStore
from trainingtask_trainer.volumes import Volumes

NAMES = ("speed", "money", "access")
TEXTS = ["the page slow", "charged", "password the page", "slow charged charged page the the", "guide"] * 8
LABELS: LabelMatrix = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 0, 0]] * 8, dtype=np.uint8)


def spec(family: str = "bert", checkpoint: str | None = None, **training: Any) -> dict[str, Any]:
    return {
        "dataset": {"name": "support_tickets"},
        "model": {"name": family, "volumeClaim": "models", "checkpoint": checkpoint or family},
        "training": {"epochs": 2, "batchSize": 6, "learningRate": 0.01, **training},
    }


def without_dropout(models: Path, family: str, folder: Path) -> str:
    """Copy a checkpoint into `folder`, its dropout set to 0, and return its path relative to `models`."""
    copy = folder / f"{family}-without-dropout"
    shutil.copytree(models / family, copy)
    config = json.loads((copy / "config.json").read_text())
    config |= {name: 0.0 for name, value in config.items() if "dropout" in name and value is not None}
    (copy / "config.json").write_text(json.dumps(config))
    return str(copy.relative_to(models))


class InDoublePrecision(Transformer):
    """In float64, so that rounding hides no real difference and makes none, on any processor."""

    def _load_pretrained(self, label_names: Sequence[str]) -> Any:
        return super()._load_pretrained(label_names).double()


@dataclass
class Run:
    model: Transformer
    tokenizer: Tokenizer
    features: TokenIds
    fitted: FitResult
    probabilities: Probabilities

    def weights(self) -> dict[str, Any]:
        assert self.model._model is not None
        return {name: tensor.cpu().numpy() for name, tensor in self.model._model.state_dict().items()}


def open_checkpoints(folder: Path) -> FolderStore:
    """Return the checkpoints in a folder of an output claim."""
    return ManifestLastStore(ClaimFolder(folder.parent, folder.name, "output.subPath"), "output.subPath")


def fit(
    spec: dict[str, Any],
    models: Path,
    *,
    labels: LabelMatrix = LABELS,
    progress: Progress = lambda step: None,
    checkpoints: FolderStore | Path | None = None,
    kind: type[Transformer] = Transformer,
) -> Run:
    """Train on `TEXTS`, which are the validation rows too; a path of checkpoints is a folder of an output claim."""
    AcceleratorState._reset_state(reset_partial_state=True)  # outside tests a process trains once, in one precision
    task = TrainingTask.model_validate(manifest("a-task", spec))
    volumes = Volumes(models, models, models / "out")
    model, tokenizer = kind(task.spec, volumes), Tokenizer(task.spec, volumes)
    features = tokenizer.transform(TEXTS)
    store = open_checkpoints(checkpoints) if isinstance(checkpoints, Path) else checkpoints
    fitted = model.fit(TrainingRows(features, labels, features, labels, NAMES), tokenizer, progress, store)
    return Run(model, tokenizer, features, fitted, model.predict(features))


def stop_at(step: int, error: BaseException, times: int = 1) -> Progress:
    """Raise when a step is told for the `times`-th time."""
    told = 0

    def progress(now: Step) -> None:
        nonlocal told
        told += now.step == step
        if told == times:
            raise error

    return progress


def assert_same_numbers(resumed: Run, whole: Run) -> None:
    for name, weight in whole.weights().items():
        np.testing.assert_array_equal(resumed.weights()[name], weight, err_msg=name)
    np.testing.assert_array_equal(resumed.probabilities, whole.probabilities)
    for name in ("global_step", "training_loss", "best_epoch", "curve"):
        assert getattr(resumed.fitted, name) == getattr(whole.fitted, name), name
