"""Calibration: whether of the decisions with a probability of 0.8 about 80 % are right, and temperature scaling.

Guo, Pleiss, Sun and Weinberger, On Calibration of Modern Neural Networks, ICML 2017; here with a sigmoid for each label
in place of a softmax over all.
"""

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit, logit

from trainingtask_api.scores import CalibrationScores, ReliabilityBin
from trainingtask_trainer.datasets.base import LabelMatrix
from trainingtask_trainer.evaluation.metrics import Probabilities, split_rows

_BINS = 10
# One number needs no more decisions than these.
_FITTED_DECISIONS = 10_000_000
# Of 1 / temperature. Where the rows want less or more, they are ranked by chance or without a mistake.
_SLOPES = (0.1, 10.0)
# A probability of 0 counts as this, and one of 1 as the number before it: their logits are infinite.
_LEAST = float(np.finfo(np.float64).eps)


def scale_probabilities(probabilities: Probabilities, temperature: float) -> None:
    """Divide the logits of probabilities by the temperature, in place."""
    for block in split_rows(probabilities):
        probabilities[block] = expit(_compute_logits(probabilities[block]) / temperature)


def fit_temperature(truth: LabelMatrix, probabilities: Probabilities) -> float:
    """Return the temperature that gives these rows the lowest binary cross-entropy.

    The cross-entropy is convex in 1 / temperature, and its minimum is where the mean of (p - y) logit is 0.
    """
    step = -(-probabilities.size // _FITTED_DECISIONS) or 1
    logits, labels = _compute_logits(probabilities[::step]), truth[::step]

    def differentiate(slope: float) -> float:
        return float(np.mean((expit(slope * logits) - labels) * logits))

    low, high = _SLOPES
    if differentiate(low) >= 0:
        return 1 / low
    if differentiate(high) <= 0:
        return 1 / high
    return 1 / float(brentq(differentiate, low, high, xtol=1e-4))


def _compute_logits(probabilities: Probabilities) -> Probabilities:
    highest = 1 - np.finfo(probabilities.dtype).epsneg
    return np.asarray(logit(np.clip(probabilities, probabilities.dtype.type(_LEAST), highest)))


def score_calibration(
    truth: LabelMatrix, probabilities: Probabilities, temperature: float | None = None
) -> CalibrationScores:
    """Return expected calibration error, Brier score and reliability bins over all decisions.

    Parameters
    ----------
    truth, probabilities
        Of the rows that are scored, both of shape [rows, labels].
    temperature
        What the probabilities were scaled by, if they were.
    """
    decisions, sums, hits = np.zeros((3, _BINS))
    squares = 0.0
    for block in split_rows(probabilities):
        given, labels = probabilities[block].ravel(), truth[block].ravel()
        places = np.minimum((given * _BINS).astype(np.int64), _BINS - 1)
        decisions += np.bincount(places, minlength=_BINS)
        sums += np.bincount(places, given, _BINS)
        hits += np.bincount(places, labels, _BINS)
        squares += float(np.square(given - labels, dtype=np.float64).sum())
    used = decisions > 0
    means, fractions = sums[used] / decisions[used], hits[used] / decisions[used]
    return CalibrationScores(
        expected_calibration_error=float((np.abs(means - fractions) * decisions[used]).sum() / decisions.sum()),
        brier_score=squares / probabilities.size,
        temperature=temperature,
        bins=[
            ReliabilityBin(probability=float(mean), fraction=float(fraction), decisions=int(count))
            for mean, fraction, count in zip(means, fractions, decisions[used], strict=True)
        ],
    )
