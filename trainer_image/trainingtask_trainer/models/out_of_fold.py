"""Probabilities of the training rows from models that were not trained on them (k-fold cross-prediction)."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainingtask_trainer.evaluation.metrics import Probabilities
from trainingtask_trainer.models.base import Model, TrainingRows
from trainingtask_trainer.preprocessors.base import Preprocessor
from trainingtask_trainer.reporting.progress import Progress, Step

Folds = NDArray[np.intp]
"""The fold of each training row, shape [rows]."""


class SharedProgress:
    """Reports the steps of several trainings as those of a single long one; loss and curve are the first training's.

    Parameters
    ----------
    progress
        Receives the steps.
    trainings
        Their number; all have as many steps as the first one.
    """

    def __init__(self, progress: Progress, trainings: int) -> None:
        self._progress = progress
        self._trainings = trainings
        self._index = 0
        self._earlier_rows = 0
        self._last: Step | None = None

    def start_next(self) -> None:
        """Begin the next training."""
        self._index += 1
        self._earlier_rows = self._last.rows if self._last else 0

    def __call__(self, step: Step) -> None:
        """Take a step of the current training."""
        first = self._last if self._index else None
        self._last = replace(
            step,
            step=step.step + self._index * step.total_steps,
            total_steps=self._trainings * step.total_steps,
            rows=step.rows + self._earlier_rows,
            loss=first.loss if first else step.loss,
            curve=first.curve if first else step.curve,
            resumed_from=first.resumed_from if first else step.resumed_from,
        )
        self._progress(self._last)


def predict_out_of_fold(
    models: Sequence[Model], rows: TrainingRows, folds: Folds, preprocessor: Preprocessor, progress: SharedProgress
) -> Probabilities:
    """Return the probabilities of the training rows, shape [rows, labels], each from a model trained without its fold.

    The features are shared: with tf-idf, the vocabulary and the document frequencies are those of all training rows.

    Parameters
    ----------
    models
        A new model of the task for each fold.
    rows
        All training rows; the validation rows are those of each fold's training as well.
    folds
        The fold of each training row.
    preprocessor
        The fitted preprocessor that made the features.
    progress
        Has reported the training on all rows.
    """
    result = np.empty(rows.labels.shape)
    for fold, model in enumerate(models):
        held_out, rest = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
        progress.start_next()
        part = replace(rows, features=_take(rows.features, rest), labels=rows.labels[rest])
        model.fit(part, preprocessor, progress, None)
        result[held_out] = model.predict(_take(rows.features, held_out))
    return result


def _take(features: Any, rows: NDArray[np.intp]) -> Any:
    """Return the features of these rows; those of a preprocessor of the user's own may be a list."""
    return features[rows] if hasattr(features, "shape") else [features[row] for row in rows]
