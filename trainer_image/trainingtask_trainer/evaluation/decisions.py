"""The rule by which probabilities become labels: that of the evaluation, and of the saved model."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trainingtask_trainer.datasets.base import LabelMatrix
from trainingtask_trainer.evaluation.metrics import Floats, Probabilities, split_rows

NEVER = 1.0
"""The threshold of a label that is not predicted, however probable it is."""


@dataclass(frozen=True)
class DecisionRule:
    """Thresholds, and how many labels a row gets at least and at most."""

    thresholds: Sequence[float] | Floats
    """The probability from which a label is predicted, one per label or one for all; or `NEVER`."""
    at_least_one: bool = False
    """Predict the most probable label where none reaches its threshold."""
    max_labels: int | None = None
    """Of the labels that reach their threshold, keep this many, the most probable ones."""

    def predict(self, probabilities: Probabilities) -> LabelMatrix:
        """Return 1 where a label is predicted, shape [rows, labels]; of equal probabilities the first label wins."""
        thresholds = np.asarray(self.thresholds)
        predicted = ((probabilities >= thresholds) & (thresholds < NEVER)).view(np.uint8)
        if self.max_labels is not None:
            for block in split_rows(probabilities):
                _keep_most_probable(predicted[block], probabilities[block], self.max_labels)
        if self.at_least_one:
            empty = np.flatnonzero(~predicted.any(axis=1))
            predicted[empty, probabilities[empty].argmax(axis=1)] = 1
        return predicted


def _keep_most_probable(predicted: LabelMatrix, probabilities: Probabilities, count: int) -> None:
    """Remove the predicted labels of each row but the `count` most probable ones, in place."""
    rows = np.flatnonzero(predicted.sum(axis=1, dtype=np.int64) > count)
    ranked = np.argsort(np.where(predicted[rows] == 1, -probabilities[rows], 1.0), axis=1, kind="stable")
    kept = np.zeros_like(predicted[rows])
    np.put_along_axis(kept, ranked[:, :count], 1, axis=1)
    predicted[rows] = kept
