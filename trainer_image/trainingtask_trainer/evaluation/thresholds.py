"""Decision thresholds: one for all labels, or one for each, chosen on the validation rows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trainingtask_api.training import Evaluation, ThresholdTuning
from trainingtask_trainer.datasets.base import LabelMatrix
from trainingtask_trainer.evaluation.metrics import Floats, Probabilities, Ranking, map_rankings, rank_decisions

DEFAULT_THRESHOLD = 0.5


@dataclass(frozen=True)
class Thresholds:
    """Probabilities from which labels are predicted, and how they were chosen."""

    values: Floats
    """One per label, shape [labels]."""
    source: str
    """``fixed``, ``global`` or ``per_label``."""

    @property
    def shared_value(self) -> float | None:
        """The threshold that all labels share, None when each has its own."""
        return None if self.source == ThresholdTuning.PER_LABEL else float(self.values[0])


def apply_thresholds(thresholds: Sequence[float] | Floats, probabilities: Probabilities) -> LabelMatrix:
    """Return 1 where a probability reaches its label's threshold, shape [rows, labels]."""
    return (probabilities >= np.asarray(thresholds)).view(np.uint8)


def choose_thresholds(evaluation: Evaluation | None, truth: LabelMatrix, probabilities: Probabilities) -> Thresholds:
    """Return the thresholds that the task fixes, or that are tuned on these rows.

    A label that none of these rows carries gets the global threshold.
    """
    labels = truth.shape[1]
    evaluation = evaluation or Evaluation()
    if evaluation.threshold is not None:
        return Thresholds(np.full(labels, evaluation.threshold), "fixed")
    if evaluation.threshold_tuning != ThresholdTuning.PER_LABEL:
        return Thresholds(
            np.full(labels, _find_best_threshold(rank_decisions(truth, probabilities))), ThresholdTuning.GLOBAL.value
        )
    carried = truth.any(axis=0)
    # The global threshold costs as much as those of all labels: only where a label needs it.
    values = np.full(
        labels, DEFAULT_THRESHOLD if carried.all() else _find_best_threshold(rank_decisions(truth, probabilities))
    )
    values[carried] = map_rankings(_find_best_threshold, truth, probabilities, np.flatnonzero(carried))
    return Thresholds(values, ThresholdTuning.PER_LABEL.value)


def _find_best_threshold(ranking: Ranking) -> float:
    """Return the threshold with the highest F1: over one label's rows the label's, over all decisions micro-F1.

    Exact: F1 is 2 TP(k) / (k + positives) with the k most probable decisions predicted, and grows at true ones alone. All
    of these are tried in one pass; of equal ones the highest threshold wins. It lies in the middle between the last
    probability predicted and the first that is not, so that rounding on another machine does not move a row across it.
    """
    if ranking.hits.size == 0:
        return DEFAULT_THRESHOLD
    best = int(np.argmax(ranking.hits / (ranking.predicted + ranking.hits[-1])))
    last, lower = float(ranking.cuts[best]), ranking.ordered.size - int(ranking.predicted[best])
    if lower == 0:
        return last
    next_lower = float(ranking.ordered[lower - 1])
    middle = (last + next_lower) / 2
    return middle if middle > next_lower else last
