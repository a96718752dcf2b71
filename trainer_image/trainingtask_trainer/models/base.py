"""The protocol of models, and what `fit` takes and returns."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

from trainingtask_api.spec import TrainingTaskSpec
from trainingtask_api.status import Scalar
from trainingtask_trainer.datasets.base import LabelMatrix
from trainingtask_trainer.evaluation.metrics import Probabilities
from trainingtask_trainer.preprocessors.base import Preprocessor
from trainingtask_trainer.reporting.progress import CurvePoint, Progress
from trainingtask_trainer.storage.folder_store import FolderStore
from trainingtask_trainer.volumes import Volumes

Predictor = Callable[[Sequence[str]], Probabilities]
"""Texts to probabilities of shape [texts, labels]."""


@dataclass(frozen=True)
class TrainingRows:
    """Training rows, and the validation rows for early stopping and calibration."""

    features: Any
    """Features of the training rows, from the preprocessor."""
    labels: LabelMatrix
    """0/1, shape [training rows, labels]."""
    validation_features: Any
    validation_labels: LabelMatrix
    """0/1, shape [validation rows, labels]."""
    label_names: Sequence[str]


@dataclass(frozen=True)
class FitResult:
    """The result of a training."""

    global_step: int
    """Optimizer steps."""
    training_loss: float
    """Binary cross-entropy on the training rows, mean over rows and labels."""
    rows_seen: int
    """Training rows read by this attempt, all epochs together."""
    tokens_seen: int | None = None
    """Training tokens read by this attempt, padding not counted; None for models without tokens."""
    best_epoch: int | None = None
    """The epoch whose weights were kept, from 1; None for models without epochs."""
    resumed_from_step: int | None = None
    """Optimizer step of the checkpoint that the training resumed from."""
    curve: tuple[CurvePoint, ...] = ()
    """Training loss and validation scores by step, for the model card."""
    warnings: tuple[str, ...] = ()
    scaling_efficiency: float | None = None
    """Share of the processes' time outside of their exchange, mean over all of them; None for a single process."""


class Model(Protocol):
    """A kind of model, registered under the entry-point group ``trainingtask.models``.

    One that trains over several processes has `is_distributed: ClassVar[bool] = True`: all ranks call `fit` and
    `predict`, in the process group of `torch.distributed` that they have joined. Without it rank 0 alone calls them.
    """

    preprocessor: ClassVar[str]
    """The registered preprocessor for tasks that name none."""
    packages: ClassVar[tuple[str, ...]]
    """Distributions whose versions are part of the results."""

    def __init__(self, spec: TrainingTaskSpec, volumes: Volumes) -> None: ...

    def arguments(self) -> dict[str, Scalar]:
        """Return the arguments after all defaults, by their path in the spec."""
        ...

    def fit(
        self, rows: TrainingRows, preprocessor: Preprocessor, progress: Progress, checkpoints: FolderStore | None
    ) -> FitResult:
        """Train on the features of `preprocessor`.

        Parameters
        ----------
        rows
            Training and validation rows.
        preprocessor
            The fitted preprocessor that made the features.
        progress
            To be called with each step.
        checkpoints
            The store of this task's checkpoints, to resume from and write to; None without an output.
        """
        ...

    def predict(self, features: Any) -> Probabilities:
        """Return probabilities of shape [rows, labels] in the order of the rows."""
        ...

    def save(self, folder: Path, preprocessor: Preprocessor) -> None:
        """Write all that `load` needs into an existing, empty folder."""
        ...

    @staticmethod
    def load(folder: Path) -> Predictor:
        """Return the predictor of a saved model; runs no code from the folder."""
        ...


def is_distributed(kind: type) -> bool:
    """Return whether a model or a preprocessor works over several processes."""
    return getattr(kind, "is_distributed", False) is True


@runtime_checkable
class Exportable(Protocol):
    """A model that can be written as ONNX beside its own format."""

    def export(self, folder: Path, preprocessor: Preprocessor) -> None:
        """Write the ONNX file, and the files that turn texts into its inputs, into an existing folder.

        Raises
        ------
        NotExportableError
            When this model has no such form.
        """
        ...
