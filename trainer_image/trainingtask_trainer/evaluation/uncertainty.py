"""How far scores would move on other rows of the same kind: the percentile bootstrap over rows.

Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13. A resample of n rows with replacement is a
vector of n weights, how often each row was drawn, so that no row is copied.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainingtask_api.scores import Interval, Intervals
from trainingtask_trainer.datasets.base import LabelMatrix
from trainingtask_trainer.evaluation.metrics import Floats, Probabilities

MAX_RESAMPLES, _MIN_RESAMPLES = 1000, 200
_MAX_DECISIONS = 1_000_000_000  # of all resamples together: about ten seconds of one core
_CHUNK_BYTES = 32 << 20
_LEVEL = 0.95
_SEED = 20_121_993

Weights = NDArray[np.float32]
"""How often each resample has each row, shape [rows, resamples]. Sums are exact: of at most 2e7 rows."""


def count_resamples(decisions: int) -> int:
    """Return the number of resamples that the time allows for so many rows x labels, 0 when they would be too few."""
    allowed = min(MAX_RESAMPLES, _MAX_DECISIONS // max(1, decisions))
    return allowed if allowed >= _MIN_RESAMPLES else 0


def explain_missing(truth: LabelMatrix) -> str:
    """Return why an interval is missing for these rows."""
    if count_resamples(truth.size) == 0:
        return f"a bootstrap over {truth.size} decisions would take too long"
    return "too few rows: the score is undefined in some resamples of them"


def estimate_intervals(truth: LabelMatrix, predicted: LabelMatrix, probabilities: Probabilities) -> Intervals:
    """Return the intervals with 95 % of the resamples' scores; one is None where its score is undefined.

    Parameters
    ----------
    truth, predicted, probabilities
        Of the rows that are scored, each of shape [rows, labels].
    """
    resampled = resample_scores(truth, [Predictions(predicted, probabilities)])
    if resampled is None:
        return Intervals()
    micro, macro, precision = map(cut_interval, resampled[0])
    return Intervals(micro_f1=micro, macro_f1=macro, mean_average_precision=precision)


class Predictions(NamedTuple):
    """A model's predictions, of shape [rows, labels]."""

    predicted: LabelMatrix
    probabilities: Probabilities


def resample_scores(truth: LabelMatrix, models: Sequence[Predictions]) -> NDArray[np.float64] | None:
    """Return micro-F1, macro-F1 and mean average precision of each model on the same resamples of the rows.

    Returns
    -------
    numpy.ndarray or None
        Of shape [models, 3, resamples], NaN where undefined; None where the rows allow for no resamples.
    """
    rows = len(truth)
    resamples = count_resamples(truth.size)
    if resamples == 0 or rows < 2:
        return None
    random = np.random.RandomState(_SEED)  # frozen (NEP 19): the same intervals with every version of numpy
    chunk = max(1, min(resamples, _CHUNK_BYTES // (4 * rows)))
    scores = np.empty((len(models), 3, resamples))
    for start in range(0, resamples, chunk):
        part = slice(start, min(start + chunk, resamples))
        weights = _draw_weights(random, rows, part.stop - start)
        for model, (predicted, probabilities) in enumerate(models):
            scores[model, :2, part] = _resample_f1(weights, truth, predicted)
            scores[model, 2, part] = _resample_average_precision(weights, truth, probabilities)
    return scores


def _draw_weights(random: np.random.RandomState, rows: int, resamples: int) -> Weights:
    weights = np.empty((rows, resamples), dtype=np.float32)
    for resample in range(resamples):
        weights[:, resample] = np.bincount(random.randint(0, rows, rows), minlength=rows)
    return weights


def _resample_f1(weights: Weights, truth: LabelMatrix, predicted: LabelMatrix) -> tuple[Floats, Floats]:
    """Return micro-F1 and macro-F1 of each resample, NaN where undefined."""

    def count(cells: LabelMatrix) -> Floats:  # shape [labels, resamples]
        counts: Floats = (cells.T.astype(np.float32) @ weights).astype(np.float64)
        return counts

    hits, total = count(truth & predicted), count(truth) + count(predicted)
    return _divide(2 * hits.sum(axis=0), total.sum(axis=0)), _average_defined(_divide(2 * hits, total))


def _resample_average_precision(weights: Weights, truth: LabelMatrix, probabilities: Probabilities) -> Floats:
    """Return the mean average precision of each resample, NaN where no row of it carries a label.

    Precision counts where a true label is found, so the rows between two of them are added up at once.
    """
    scores = np.full((truth.shape[1], weights.shape[1]), np.nan)
    for label in np.flatnonzero(truth.any(axis=0)):
        order = np.argsort(-probabilities[:, label], kind="stable")
        ranked = probabilities[order, label]
        group = np.cumsum(np.append(0, ranked[1:] != ranked[:-1]))  # equal probabilities are predicted together
        positives = np.flatnonzero(truth[order, label])
        found, first = np.unique(group[positives], return_index=True)
        ends = np.searchsorted(group, found, side="right")
        drawn = weights[order[: ends[-1]]]
        predicted = np.cumsum(np.add.reduceat(drawn, np.append(0, ends[:-1]), axis=0), axis=0, dtype=np.float64)
        gains = np.add.reduceat(drawn[positives], first, axis=0).astype(np.float64)
        hits = np.cumsum(gains, axis=0)
        scores[label] = _divide((gains * _divide(hits, predicted, 0.0)).sum(axis=0), hits[-1])
    return _average_defined(scores)


def _divide(above: Floats, below: NDArray[Any], undefined: float = np.nan) -> Floats:
    result = np.full(np.shape(below), undefined)
    np.divide(above, below, out=result, where=below > 0)
    return result


def _average_defined(scores: Floats) -> Floats:
    """Return the mean over the labels where it is defined, NaN where it is for none."""
    defined = ~np.isnan(scores)
    return _divide(np.where(defined, scores, 0).sum(axis=0), defined.sum(axis=0))


def cut_interval(scores: Floats) -> Interval | None:
    """Return the interval between the percentiles; None if a score is undefined in any resample."""
    if np.isnan(scores).any():
        return None
    tail = (1 - _LEVEL) / 2
    low, high = np.quantile(scores, (tail, 1 - tail))
    return Interval(low=float(low), high=float(high))
