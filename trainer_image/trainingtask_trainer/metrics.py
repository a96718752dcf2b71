"""Scores of multi-label predictions: pure functions on arrays.

`truth` is a 0/1 matrix and `probabilities` a matrix of the same shape [rows, labels], values in [0, 1].
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_fscore_support

from trainingtask_api.status import Averages, Baseline

LabelMatrix = NDArray[np.uint8]
Probabilities = NDArray[np.float64]
DEFAULT_THRESHOLD = 0.5


class Scores(NamedTuple):
    """Averages of precision, recall and F1, and the fraction of right decisions."""

    accuracy_thresh: float
    micro: Averages
    macro: Averages
    weighted: Averages


def binary_cross_entropy(truth: LabelMatrix, probabilities: Probabilities) -> float:
    """Return the mean over rows and labels of -(y log p + (1 - y) log(1 - p)), in nats.

    A probability of exactly 0 or 1 is moved by one float64 epsilon, as `sklearn.metrics.log_loss` does.
    """
    epsilon = np.finfo(np.float64).eps
    clipped = np.clip(probabilities, epsilon, 1 - epsilon)
    return float(-np.mean(np.where(truth == 1, np.log(clipped), np.log1p(-clipped))))


def accuracy_thresh(truth: LabelMatrix, predicted: LabelMatrix) -> float:
    """Return the fraction of single label decisions that are right: 1 - Hamming loss."""
    return float(np.mean(truth == predicted))


def score(truth: LabelMatrix, predicted: LabelMatrix) -> Scores:
    """Return accuracy and the averaged precision, recall and F1; an undefined quotient (0/0) counts as 0."""

    def averages(kind: str) -> Averages:
        precision, recall, f1, _ = precision_recall_fscore_support(truth, predicted, average=kind, zero_division=0)
        return Averages(precision=float(precision), recall=float(recall), f1=float(f1))

    return Scores(accuracy_thresh(truth, predicted), averages("micro"), averages("macro"), averages("weighted"))


def apply_threshold(probabilities: Probabilities, threshold: float) -> LabelMatrix:
    """Return 1 where the probability reaches the threshold."""
    return (probabilities >= threshold).astype(np.uint8)


def tune_threshold(truth: LabelMatrix, probabilities: Probabilities) -> float:
    """Return the one threshold for all labels with the highest micro-averaged F1 on these rows.

    Exact: micro-F1 changes only where the threshold passes a probability, and with the k highest probabilities
    predicted it is 2 TP(k) / (k + positives). All k are tried in one cumulative sum; of equal ones the smallest k
    wins. The threshold lies in the middle between the last probability predicted and the first that is not, so
    that rounding on another machine does not move a row across it.
    """
    order = np.argsort(-probabilities, axis=None, kind="stable")
    ranked = probabilities.ravel()[order]
    hits = truth.ravel()[order].astype(np.int64)
    positives = int(hits.sum())
    if positives == 0:
        return DEFAULT_THRESHOLD
    f1 = 2 * np.cumsum(hits) / (np.arange(1, ranked.size + 1) + positives)
    # Equal probabilities are predicted together or not at all.
    f1[:-1][ranked[:-1] == ranked[1:]] = -1
    best = int(np.argmax(f1))
    if best == ranked.size - 1:
        return float(ranked[best])
    middle = float((ranked[best] + ranked[best + 1]) / 2)
    return middle if middle > ranked[best + 1] else float(ranked[best])


def all_zero_baseline(truth: LabelMatrix) -> Baseline:
    """Return what predicting no label at all scores: high accuracy where labels are rare, and no F1."""
    return _baseline(truth, np.zeros_like(truth))


def most_frequent_baseline(truth: LabelMatrix, train: LabelMatrix) -> Baseline:
    """Return what predicting the most frequent label of the training rows for every row scores."""
    predicted = np.zeros_like(truth)
    predicted[:, int(train.sum(axis=0, dtype=np.int64).argmax())] = 1
    return _baseline(truth, predicted)


def _baseline(truth: LabelMatrix, predicted: LabelMatrix) -> Baseline:
    scores = score(truth, predicted)
    return Baseline(accuracy_thresh=scores.accuracy_thresh, micro_f1=scores.micro.f1)


def baseline_warnings(scores: Scores, all_zero: Baseline, most_frequent: Baseline) -> list[str]:
    """Return a sentence for each baseline that the model does not beat."""
    warnings = []
    if scores.micro.f1 <= most_frequent.micro_f1:
        warnings.append(
            f"micro-F1 {scores.micro.f1:.3f} does not beat predicting the most frequent label for every row "
            f"({most_frequent.micro_f1:.3f})"
        )
    if scores.accuracy_thresh <= all_zero.accuracy_thresh:
        warnings.append(
            f"accuracy_thresh {scores.accuracy_thresh:.3f} does not beat predicting no label at all "
            f"({all_zero.accuracy_thresh:.3f})"
        )
    return warnings
