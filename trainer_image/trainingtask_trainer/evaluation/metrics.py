"""Scores of multi-label predictions: pure functions on arrays.

`truth` is a 0/1 matrix and `probabilities` a matrix of the same shape [rows, labels], values in [0, 1]; `predicted` is
`probabilities` after its thresholds, 0/1. A score with a denominator of 0 is NaN here.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainingtask_trainer.datasets.base import LabelMatrix

Probabilities = NDArray[np.float64]
Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


def binary_cross_entropy(truth: LabelMatrix, probabilities: Probabilities) -> float:
    """Return the mean over rows and labels of -(y log p + (1 - y) log(1 - p)), in nats.

    A decision with the probability 0 counts as one float64 epsilon, as in `sklearn.metrics.log_loss`.
    """
    given = np.where(truth == 1, probabilities, 1 - probabilities)
    return float(-np.mean(np.log(np.maximum(given, np.finfo(np.float64).eps))))


def estimate_label_prior(labels: LabelMatrix) -> Floats:
    """Return each label's share of the rows, shape [labels], moved off 0 and 1 by half a row (Jeffreys' prior)."""
    positives = labels.sum(axis=0, dtype=np.float64)
    smoothed: Floats = (positives + 0.5) / (len(labels) + 1)
    return smoothed


def accuracy_thresh(truth: LabelMatrix, predicted: LabelMatrix) -> float:
    """Return the fraction of single label decisions that are right: 1 - Hamming loss."""
    return float(np.mean(truth == predicted))


def subset_accuracy(truth: LabelMatrix, predicted: LabelMatrix) -> float:
    """Return the fraction of rows whose labels are all right."""
    return float(np.mean((truth == predicted).all(axis=1)))


class Decisions(NamedTuple):
    """Positive decisions, counted per label, per row or all together."""

    hits: Counts
    """Predicted and true."""
    predicted: Counts
    support: Counts
    """True."""

    @classmethod
    def of(cls, truth: LabelMatrix, predicted: LabelMatrix, axis: int | None) -> "Decisions":
        """Count along an axis: 0 gives one count per label, 1 one per row, None a single one."""

        def count(cells: LabelMatrix) -> Counts:
            return np.asarray(cells.sum(axis=axis, dtype=np.int64))

        return cls(count(truth & predicted), count(predicted), count(truth))

    @property
    def precision(self) -> Floats:
        """TP / (TP + FP); NaN where nothing is predicted."""
        return _divide(self.hits, self.predicted)

    @property
    def recall(self) -> Floats:
        """TP / (TP + FN); NaN where nothing is true."""
        return _divide(self.hits, self.support)

    @property
    def f1(self) -> Floats:
        """2 TP / (2 TP + FP + FN); NaN where nothing is predicted and nothing is true."""
        return _divide(2 * self.hits, self.predicted + self.support)


def _divide(above: Counts, below: Counts) -> Floats:
    result = np.full(np.shape(below), np.nan)
    np.divide(above, below, out=result, where=below > 0)
    return result


class Ranking(NamedTuple):
    """Decisions by falling probability; equal probabilities are predicted together or not at all.

    All three have one entry per distinct probability: the probability, how many are predicted from it on, and how
    many of those are right.
    """

    probabilities: Probabilities
    predicted: Counts
    hits: Counts


def rank_decisions(truth: NDArray[np.uint8], probabilities: Probabilities) -> Ranking:
    """Return the ranking of all decisions in two arrays of the same shape, which may be any."""
    truth, probabilities = truth.ravel(), probabilities.ravel()
    order = np.argsort(-probabilities)
    ranked = probabilities[order]
    hits = np.cumsum(truth[order], dtype=np.int64)
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    return Ranking(ranked[last], last + 1, hits[last])


def average_precision(ranking: Ranking) -> float:
    """Return the sum over the ranking of precision times the gain in recall, NaN without a positive.

    This is `sklearn.metrics.average_precision_score`: the step-wise sum, without interpolation.
    """
    positives = ranking.hits[-1]
    if positives == 0:
        return math.nan
    gains = np.diff(ranking.hits, prepend=0)
    return float((gains * (ranking.hits / ranking.predicted)).sum() / positives)


def roc_auc(ranking: Ranking) -> float:
    """Return the area under the ROC curve, NaN without a positive or without a negative.

    This is the share of pairs of a positive and a negative that are ranked right, where an equal pair counts half.
    """
    false_alarms = ranking.predicted - ranking.hits
    pairs = ranking.hits[-1] * false_alarms[-1]
    if pairs == 0:
        return math.nan
    return float(np.trapezoid(np.append(0, ranking.hits), np.append(0, false_alarms)) / pairs)


def ranking_scores(truth: LabelMatrix, probabilities: Probabilities) -> tuple[Floats, Floats]:
    """Return average precision and ROC-AUC of each label, both of shape [labels], NaN where undefined."""
    labels = truth.shape[1]
    precisions, areas = np.empty(labels), np.empty(labels)
    for label in range(labels):  # one at a time: a matrix of rankings would be several times the probabilities
        ranking = rank_decisions(truth[:, label], probabilities[:, label])
        precisions[label], areas[label] = average_precision(ranking), roc_auc(ranking)
    return precisions, areas


def mean_average_precision(truth: LabelMatrix, probabilities: Probabilities) -> float | None:
    """Return the mean of the average precision over the labels that some row carries, None when none is."""
    scores = [
        average_precision(rank_decisions(truth[:, label], probabilities[:, label]))
        for label in np.flatnonzero(truth.any(axis=0))
    ]
    return float(np.mean(scores)) if scores else None


def label_ranking_average_precision(truth: LabelMatrix, probabilities: Probabilities) -> Floats:
    """Return for each row the mean precision at its true labels' ranks, shape [rows], NaN for a row without labels.

    It is the average precision of the row's own ranking of the labels. scikit-learn's score of the same name is the
    mean of these, but it counts a row without labels as 1.
    """
    return np.array([average_precision(rank_decisions(*row)) for row in zip(truth, probabilities, strict=True)])


def average_defined(values: Floats, weights: NDArray[Any] | None = None) -> float | None:
    """Return the mean over the defined values, None where there are none or all weights are 0."""
    defined = ~np.isnan(values)
    weights = np.ones(len(values)) if weights is None else weights
    total = weights[defined].sum()
    return float((values[defined] * weights[defined]).sum() / total) if total else None
