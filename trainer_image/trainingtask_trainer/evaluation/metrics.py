"""Scores of multi-label predictions: pure functions on arrays.

`truth` is a 0/1 matrix and `probabilities` a matrix of the same shape [rows, labels], values in [0, 1]; `predicted` is
`probabilities` after its thresholds, 0/1. A score with a denominator of 0 is NaN here.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from trainingtask_trainer.datasets.base import LabelMatrix
from trainingtask_trainer.runtime.cgroup import get_cpu_limit

Probabilities = NDArray[np.floating[Any]]
"""float32 is enough, and half as large; no function here makes a float64 copy of all of them."""
Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
Score = TypeVar("Score")

# Rows are scored in blocks, whose intermediate values take a multiple of this.
_BLOCK_BYTES = 16 << 20


def binary_cross_entropy(truth: LabelMatrix, probabilities: Probabilities) -> float:
    """Return the mean over rows and labels of -(y log p + (1 - y) log(1 - p)), in nats.

    A decision with the probability 0 counts as one float64 epsilon, as in `sklearn.metrics.log_loss`.
    """
    total = 0.0
    for block in split_rows(probabilities):
        given = np.where(truth[block] == 1, probabilities[block], 1 - probabilities[block])
        total -= float(np.log(np.maximum(given, np.finfo(np.float64).eps)).sum())
    return total / probabilities.size


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

    Recall and F1 grow at the probabilities of true decisions alone: all but the first have one entry for each of these.
    """

    ordered: Probabilities
    """The probabilities of all decisions, rising."""
    cuts: Probabilities
    """The distinct probabilities of true decisions, falling."""
    above: Counts
    """How many decisions have a higher probability than the cut."""
    predicted: Counts
    """How many have the cut's probability or a higher one."""
    hits: Counts
    """How many of the predicted are true."""


def rank_decisions(truth: NDArray[np.uint8], probabilities: Probabilities) -> Ranking:
    """Return the ranking of all decisions in two arrays of the same shape, which may be any."""
    ordered = np.sort(probabilities, axis=None)
    rising, gains = np.unique(probabilities[truth == 1], return_counts=True)
    cuts = rising[::-1]
    above, predicted = (ordered.size - np.searchsorted(ordered, cuts, side) for side in ("right", "left"))
    return Ranking(ordered, cuts, above, predicted, np.cumsum(gains[::-1]))


def map_rankings(
    score: Callable[[Ranking], Score],
    truth: LabelMatrix,
    probabilities: Probabilities,
    labels: Iterable[int],
    rows: NDArray[np.bool_] | None = None,
) -> list[Score]:
    """Return the score of each label's ranking, of all or of some rows; sorting, the most of the work, takes all cores."""
    read = slice(None) if rows is None else rows

    def score_label(label: int) -> Score:
        return score(rank_decisions(truth[:, label][read], probabilities[:, label][read]))

    with ThreadPoolExecutor(get_cpu_limit()) as pool:
        return list(pool.map(score_label, labels))


def average_precision(ranking: Ranking) -> float:
    """Return the sum over the ranking of precision times the gain in recall, NaN without a positive.

    This is `sklearn.metrics.average_precision_score`: the step-wise sum, without interpolation.
    """
    if ranking.hits.size == 0:
        return math.nan
    gains = np.diff(ranking.hits, prepend=0)
    return float((gains * (ranking.hits / ranking.predicted)).sum() / ranking.hits[-1])


def roc_auc(ranking: Ranking) -> float:
    """Return the area under the ROC curve, NaN without a positive or without a negative.

    This is the share of pairs of a positive and a negative that are ranked right, where an equal pair counts half.
    """
    if ranking.hits.size == 0 or ranking.hits[-1] == ranking.ordered.size:
        return math.nan
    positives, before = ranking.hits[-1], np.append(0, ranking.hits[:-1])
    # Of a true decision, the false ones above it are wrong pairs, and those of its probability half wrong ones.
    wrong = (ranking.above - before + ranking.predicted - ranking.hits) / 2
    return float(1 - ((ranking.hits - before) * wrong).sum() / (positives * (ranking.ordered.size - positives)))


def ranking_scores(truth: LabelMatrix, probabilities: Probabilities) -> tuple[Floats, Floats]:
    """Return average precision and ROC-AUC of each label, both of shape [labels], NaN where undefined."""
    scores = map_rankings(
        lambda ranking: (average_precision(ranking), roc_auc(ranking)), truth, probabilities, range(truth.shape[1])
    )
    precisions, areas = np.array(scores).T
    return precisions, areas


def mean_average_precision(truth: LabelMatrix, probabilities: Probabilities) -> float | None:
    """Return the mean of the average precision over the labels that some row carries, None when none is."""
    scores = map_rankings(average_precision, truth, probabilities, np.flatnonzero(truth.any(axis=0)))
    return float(np.mean(scores)) if scores else None


def label_ranking_average_precision(truth: LabelMatrix, probabilities: Probabilities) -> Floats:
    """Return for each row the mean precision at its true labels' ranks, shape [rows], NaN for a row without labels.

    It is the average precision of the row's own ranking of the labels. scikit-learn's score of the same name is the
    mean of these, but it counts a row without labels as 1.
    """
    result = np.full(len(truth), math.nan)
    labels = truth.shape[1]
    for block in split_rows(probabilities):
        order = np.argsort(-probabilities[block], axis=1)
        ranked = np.take_along_axis(probabilities[block], order, axis=1)
        hits = np.take_along_axis(truth[block], order, axis=1)
        # Equal probabilities are predicted together: all of them count from the last on.
        is_last = np.append(ranked[:, 1:] != ranked[:, :-1], np.ones((len(ranked), 1), dtype=bool), axis=1)
        last = np.where(is_last, np.arange(labels), labels)
        last = np.minimum.accumulate(last[:, ::-1], axis=1)[:, ::-1]
        precisions = np.take_along_axis(np.cumsum(hits, axis=1, dtype=np.int64), last, axis=1) / (last + 1)
        support = hits.sum(axis=1, dtype=np.int64)
        np.divide((hits * precisions).sum(axis=1), support, out=result[block], where=support > 0)
    return result


def split_rows(values: NDArray[Any]) -> Iterator[slice]:
    """Yield the rows of a matrix as blocks, so that what is computed from one stays small."""
    rows = max(1, _BLOCK_BYTES // (8 * values.shape[1]))
    return (slice(start, start + rows) for start in range(0, len(values), rows))


def average_defined(values: Floats, weights: NDArray[Any] | None = None) -> float | None:
    """Return the mean over the defined values, None where there are none or all weights are 0."""
    defined = ~np.isnan(values)
    weights = np.ones(len(values)) if weights is None else weights
    total = weights[defined].sum()
    return float((values[defined] * weights[defined]).sum() / total) if total else None
