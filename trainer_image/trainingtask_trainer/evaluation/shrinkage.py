"""Thresholds of labels that few rows carry, drawn towards the one for all labels; how far is chosen by cross-validation."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from trainingtask_trainer.datasets.base import LabelMatrix
from trainingtask_trainer.evaluation.candidates import RowMask
from trainingtask_trainer.evaluation.decisions import DecisionRule
from trainingtask_trainer.evaluation.metrics import Counts, Decisions, Floats, Probabilities
from trainingtask_trainer.evaluation.objectives import Goal

# Positive rows at which a label's own threshold and the shared one weigh the same.
STRENGTHS = (0.0, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1_000.0, 10_000.0)
_FOLDS = 5
# The logit of 0 or 1 is infinite.
_LEAST = 1e-6


class TunedThresholds(NamedTuple):
    """Thresholds for some rows."""

    own: Floats
    """Of each label, shape [labels]; NaN of a label that none of these rows carries."""
    shared: float
    """Of all labels."""
    support: Counts
    """Rows that carry each label, shape [labels]."""

    def shrink(self, strength: float) -> Floats:
        """Return the weighted means of own and shared thresholds, n / (n + strength) and the rest.

        The means are those of the logits, in which the distance of 0.01 and 0.02 is that of 0.98 and 0.99.
        """
        weights = self.support / (self.support + strength) if strength else np.ones(len(self.own))
        own = np.where(self.support > 0, self.own, self.shared)
        logits = weights * compute_logit(own) + (1 - weights) * compute_logit(np.array(self.shared))
        return np.where((weights < 1) & (self.support > 0), compute_expit(logits), own)


def compute_logit(probabilities: Floats) -> Floats:
    """Return the logits of probabilities, of 0 and 1 those of numbers close to them."""
    kept = np.clip(probabilities, _LEAST, 1 - _LEAST)
    return np.asarray(np.log(kept / (1 - kept)))


def compute_expit(logits: Floats) -> Floats:
    """Return the probabilities of logits."""
    return np.asarray(1 / (1 + np.exp(-logits)))


def choose_strength(
    goal: Goal, truth: LabelMatrix, probabilities: Probabilities, tune: Callable[[RowMask], TunedThresholds]
) -> float:
    """Return the strength that is best by cross-validation, the largest of equal ones.

    Every fifth row is held out, the thresholds are tuned on the others, and the decisions on the five held-out parts are
    counted together, as a rare label's F1 is undefined in most of them.
    """
    counts = np.zeros((len(STRENGTHS), 3, truth.shape[1]), dtype=np.int64)
    for fold in range(_FOLDS):
        held = slice(fold, None, _FOLDS)
        used = np.ones(len(truth), dtype=np.bool_)
        used[held] = False
        tuned = tune(used)
        for place, strength in enumerate(STRENGTHS):
            predicted = DecisionRule(tuned.shrink(strength)).predict(probabilities[held])
            counts[place] += Decisions.of(truth[held], predicted, axis=0)
    scores = [goal.score(Decisions(*part)) for part in counts]
    return max(zip(scores, STRENGTHS, strict=True))[1]
