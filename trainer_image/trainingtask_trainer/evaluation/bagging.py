"""Thresholds of labels as means over bootstrap samples: the best one on the rows themselves is the luck of a few of them.

Breiman, Bagging Predictors, Machine Learning 24(2), 1996. In a sample each row comes as often as a Poisson number of mean 1
says (Hanley and MacGibbon, Creating non-parametric bootstrap samples using Poisson frequencies, Computer Methods and Programs in
Biomedicine 83(1), 2006), so that a sample is drawn from the counts of the candidates alone. Each label has samples of its own.
"""

import numpy as np

from trainingtask_trainer.evaluation.candidates import Candidates
from trainingtask_trainer.evaluation.metrics import Floats
from trainingtask_trainer.evaluation.objectives import Goal
from trainingtask_trainer.evaluation.shrinkage import compute_expit, compute_logit

SAMPLES = 100
_SEED = 0


def average_thresholds(goal: Goal, candidates: Candidates) -> Floats:
    """Return for each group the mean, on the scale of logits, of the thresholds that are best on samples of its rows.

    A sample without a true decision has none. Where all agree, the threshold is theirs to the bit. The mean is between the lowest
    and the highest of them, also where their logits are beyond the range of `compute_logit`.
    """
    generator = np.random.default_rng(_SEED)
    chosen = np.full((SAMPLES, len(candidates.starts)), np.nan)
    for thresholds in chosen:
        sample = candidates.draw_sample(generator)
        has_hits = sample.support[sample.starts] > 0
        with np.errstate(invalid="ignore"):  # 0 / 0 of a group without a true decision
            best = goal.select_candidates(sample)
        thresholds[has_hits] = sample.thresholds[best[has_hits]]
    own = candidates.thresholds[goal.select_candidates(candidates)]
    chosen = np.where(np.isnan(chosen).all(axis=0), own, chosen)
    lowest, highest = np.nanmin(chosen, axis=0), np.nanmax(chosen, axis=0)
    return np.clip(compute_expit(np.nanmean(compute_logit(chosen), axis=0)), lowest, highest)
