"""What thresholds are best for: the best candidate of each group of decisions, exact on the rows that they come from."""

from dataclasses import dataclass

import numpy as np

from trainingtask_api.training import Evaluation, Objective, ThresholdTuning
from trainingtask_trainer.datasets.base import LabelMatrix
from trainingtask_trainer.evaluation.candidates import Candidates, RowMask
from trainingtask_trainer.evaluation.metrics import Counts, Decisions, Floats, Probabilities, average_defined

NONE_FITS = -1


@dataclass(frozen=True)
class Goal:
    """An objective with its parameter."""

    objective: Objective
    is_label_mean: bool = False
    """Whether it is the mean of the labels' own scores; else a score of all decisions together."""
    beta: float = 1.0
    min_precision: float = 0.0

    @classmethod
    def of(cls, evaluation: Evaluation) -> "Goal":
        """Return the goal of a task; the default objective is micro-F1 of one threshold, macro-F1 of one per label."""
        is_per_label = evaluation.threshold_tuning == ThresholdTuning.PER_LABEL
        objective = evaluation.objective or (Objective.MACRO_F1 if is_per_label else Objective.MICRO_F1)
        is_label_mean = objective == Objective.MACRO_F1 or (objective == Objective.F_BETA and is_per_label)
        return cls(objective, is_label_mean, evaluation.beta or 1.0, evaluation.min_precision or 0.0)

    def select_candidates(self, candidates: Candidates) -> Counts:
        """Return the best candidate of each group, shape [groups]; `NONE_FITS` where it is best to predict nothing.

        Of several groups, micro-F1 is that of all together, and each other objective that of each group by itself.
        """
        if self.objective == Objective.MIN_PRECISION:
            return self._select_precise(candidates)
        if self.objective == Objective.MICRO_F1 and len(candidates.starts) > 1:
            return _maximize_micro_f1(candidates)
        return candidates.select_best(_f_beta(candidates.hits, candidates.predicted, candidates.support, self.beta))

    def _select_precise(self, candidates: Candidates) -> Counts:
        """Return the candidates with the most recall among those that are precise enough."""
        fits = candidates.hits >= self.min_precision * candidates.predicted
        best = candidates.select_best(np.where(fits, candidates.hits, -1.0))
        return np.where(fits[best], best, NONE_FITS)

    def score(self, decisions: Decisions) -> float:
        """Return the F score of decisions that are counted by label; a mean is over the labels that some row carries."""
        if not self.is_label_mean:
            decisions = Decisions(*(counts.sum(keepdims=True) for counts in decisions))
        carried = decisions.support > 0
        hits, predicted, support = (counts[carried] for counts in decisions)
        return average_defined(_f_beta(hits, predicted, support, self.beta)) or 0.0

    def select_by_label_mean(
        self, candidates: Candidates, truth: LabelMatrix, probabilities: Probabilities, rows: RowMask | None = None
    ) -> int:
        """Return the candidate for all labels with the highest mean of the F scores of the labels that rows carry.

        Parameters
        ----------
        candidates
            Of all decisions in one group.
        truth, probabilities, rows
            The rows that they come from.
        """
        rising = candidates.thresholds[::-1]
        gains = np.zeros(len(rising))  # of the sum of the scores, from one candidate to the next
        read = slice(None) if rows is None else rows
        for label in np.flatnonzero(truth.any(axis=0)):
            # The first candidate that predicts each row; of the number of candidates, none does.
            first = len(rising) - np.searchsorted(rising, probabilities[:, label][read], "right")
            order = np.argsort(first, kind="stable")
            first, hits = first[order], np.cumsum(truth[:, label][read][order], dtype=np.int64)
            if hits[-1] > 0:
                last = np.flatnonzero(np.diff(first, append=len(rising)))  # rows of a candidate are predicted together
                scores = _f_beta(hits[last], last + 1, hits[-1], self.beta)
                gains[first[last]] += np.diff(scores, prepend=0.0)
        return int(np.argmax(np.cumsum(gains)))


def _f_beta(hits: Counts, predicted: Counts, support: Counts | np.int64, beta: float) -> Floats:
    """Return (1 + b²) TP / (predicted + b² support), the F score that weighs recall b times as much as precision.

    van Rijsbergen, Information Retrieval, 1979, chapter 7.
    """
    return np.asarray((1 + beta**2) * hits / (predicted + beta**2 * support))


def _maximize_micro_f1(candidates: Candidates) -> Counts:
    """Return a candidate of each group, which together have the highest micro-F1.

    Dinkelbach, On Nonlinear Fractional Programming, Management Science 13(7), 1967: the highest ratio N / D is the one
    at which the maximum of N - ratio D is 0. Here that is 2 TP - ratio (predicted + support), a sum over the groups, of
    which each takes its own maximum. The ratio rises in each step and takes finitely many values.
    """
    total = int(candidates.support[candidates.starts].sum())
    ratio = 0.0
    best = np.full(len(candidates.starts), NONE_FITS)
    while True:
        gains = 2 * candidates.hits - ratio * candidates.predicted
        chosen = candidates.select_best(gains)
        chosen = np.where(gains[chosen] > 0, chosen, NONE_FITS)
        kept = chosen[chosen != NONE_FITS]
        reached = 2 * float(candidates.hits[kept].sum()) / float(candidates.predicted[kept].sum() + total)
        if reached <= ratio:
            return best
        best, ratio = chosen, reached
