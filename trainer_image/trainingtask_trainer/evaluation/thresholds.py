"""Decision thresholds: one for all labels, or one for each, chosen by the task's objective on rows that the model was not trained on."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainingtask_api.training import Evaluation, Objective, ThresholdTuning
from trainingtask_trainer.datasets.base import LabelMatrix
from trainingtask_trainer.evaluation import shrinkage
from trainingtask_trainer.evaluation.bagging import average_thresholds
from trainingtask_trainer.evaluation.candidates import RowMask, collect_by_label, collect_over_all
from trainingtask_trainer.evaluation.decisions import NEVER
from trainingtask_trainer.evaluation.metrics import Floats, Probabilities
from trainingtask_trainer.evaluation.objectives import NONE_FITS, Goal

DEFAULT_THRESHOLD = 0.5
_FOLD_CANDIDATES = 1_000


@dataclass(frozen=True)
class Thresholds:
    """Probabilities from which labels are predicted, and how they were chosen."""

    values: Floats
    """One per label, shape [labels]."""
    source: str
    """``fixed``, ``global`` or ``per_label``."""
    objective: Objective | None = None
    """What they are best for; None for a fixed one."""
    shrinkage: float | None = None
    """Positive rows at which a label's own threshold and the global one weigh the same; None without own ones."""
    unreached: NDArray[np.bool_] | None = None
    """Labels that no threshold gives the wanted precision, shape [labels]; None for other objectives."""

    @property
    def shared_value(self) -> float | None:
        """The threshold that all labels share, None when each has its own."""
        return None if self.source == ThresholdTuning.PER_LABEL else float(self.values[0])


def choose_thresholds(evaluation: Evaluation | None, truth: LabelMatrix, probabilities: Probabilities) -> Thresholds:
    """Return the thresholds that the task fixes, or the best ones on these rows.

    With one threshold per label, each is a mean over samples of the rows where the objective is a mean over the labels. That
    of a label which few of the rows carry is drawn towards the global one, and that of a label which none carries is the
    global one. A precision that no threshold reaches is kept by predicting nothing.
    """
    labels = truth.shape[1]
    evaluation = evaluation or Evaluation()
    if evaluation.threshold is not None:
        return Thresholds(np.full(labels, evaluation.threshold), "fixed")
    goal = Goal.of(evaluation)
    if evaluation.threshold_tuning == ThresholdTuning.PER_LABEL:
        return _tune_per_label(goal, truth, probabilities)
    shared = _tune_shared(goal, truth, probabilities)
    return Thresholds(
        np.full(labels, shared), ThresholdTuning.GLOBAL.value, goal.objective, unreached=_mark_unreached(goal, shared)
    )


def _tune_shared(goal: Goal, truth: LabelMatrix, probabilities: Probabilities, rows: RowMask | None = None) -> float:
    candidates = collect_over_all(truth, probabilities, rows)
    if not len(candidates.thresholds):
        return DEFAULT_THRESHOLD
    if goal.is_label_mean:
        if rows is not None:  # a part of cross-validation, for which the thousandth part of a threshold is exact enough
            candidates = candidates.thin(_FOLD_CANDIDATES)
        best = goal.select_by_label_mean(candidates, truth, probabilities, rows)
    else:
        best = int(goal.select_candidates(candidates)[0])
    return NEVER if best == NONE_FITS else float(candidates.thresholds[best])


def _tune_per_label(goal: Goal, truth: LabelMatrix, probabilities: Probabilities) -> Thresholds:
    def tune(rows: RowMask | None = None) -> shrinkage.TunedThresholds:
        support = truth.sum(axis=0, dtype=np.int64, where=True if rows is None else rows[:, np.newaxis])
        carried = np.flatnonzero(support)
        own = np.full(len(support), np.nan)
        if carried.size:
            candidates = collect_by_label(truth, probabilities, carried, rows)
            if goal.is_label_mean:
                own[carried] = average_thresholds(goal, candidates)
            else:  # of all labels together
                best = goal.select_candidates(candidates)
                own[carried] = np.where(best == NONE_FITS, NEVER, candidates.thresholds[best])
        return shrinkage.TunedThresholds(own, _tune_shared(goal, truth, probabilities, rows), support)

    tuned = tune()
    is_shrunk = goal.objective != Objective.MIN_PRECISION  # which a threshold drawn elsewhere would not keep
    strength = shrinkage.choose_strength(goal, truth, probabilities, tune) if is_shrunk else 0.0
    return Thresholds(
        tuned.shrink(strength),
        ThresholdTuning.PER_LABEL.value,
        goal.objective,
        shrinkage=strength,
        unreached=_mark_unreached(goal, tuned.own),
    )


def _mark_unreached(goal: Goal, values: Floats | float) -> NDArray[np.bool_] | None:
    return np.asarray(values) == NEVER if goal.objective == Objective.MIN_PRECISION else None
