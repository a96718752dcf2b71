"""What a model gives to a run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from trainingtask_api.spec import TrainingTaskSpec
from trainingtask_api.status import Scalar
from trainingtask_trainer.metrics import LabelMatrix, Probabilities
from trainingtask_trainer.places import Places
from trainingtask_trainer.preprocessors.base import Preprocessor
from trainingtask_trainer.progress import Progress

Predictor = Callable[[Sequence[str]], Probabilities]
"""Texts to probabilities of shape [texts, labels]."""


@dataclass(frozen=True)
class Fitted:
    """How the training went."""

    global_step: int
    """Optimiser steps."""
    training_loss: float
    """Binary cross-entropy on the training rows, mean over rows and labels."""
    rows_seen: int
    """Training rows read, all epochs together."""
    warnings: tuple[str, ...] = ()


class Model(Protocol):
    """A kind of model, registered under the entry-point group ``trainingtask.models``."""

    preprocessor: ClassVar[str]
    """The registered preprocessor that it needs when the task names none."""
    packages: ClassVar[tuple[str, ...]]
    """Distributions whose versions belong into the results."""

    def __init__(self, spec: TrainingTaskSpec, places: Places) -> None: ...

    def arguments(self) -> dict[str, Scalar]:
        """Return its arguments after all defaults, by their path in the spec."""
        ...

    def fit(
        self,
        features: Any,
        labels: LabelMatrix,
        label_names: Sequence[str],
        preprocessor: Preprocessor,
        progress: Progress,
    ) -> Fitted:
        """Train on the features of `preprocessor` and labels of shape [rows, labels]; tell `progress` as it goes."""
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


def label_prior(labels: LabelMatrix) -> NDArray[np.float64]:
    """Return each label's share of the rows, shape [labels], moved off 0 and 1 by half a row (Jeffreys' prior)."""
    positives = labels.sum(axis=0, dtype=np.float64)
    smoothed: NDArray[np.float64] = (positives + 0.5) / (len(labels) + 1)
    return smoothed
