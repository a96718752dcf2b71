"""Models that read no text: each predicts the same labels for every row. Pure functions on counts per label.

The task's objective, `atLeastOne` and `maxLabels` do not bind them: a baseline is the strongest that reads no text. One
threshold for all labels predicts at least one label of each row as it is, and at most a number of labels would weaken it.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from trainingtask_trainer.evaluation.metrics import Counts, Decisions, Floats
from trainingtask_trainer.evaluation.thresholds import DEFAULT_THRESHOLD

LabelSet = NDArray[np.bool_]
"""The labels that a baseline predicts, shape [labels]."""


def choose_label_sets(prior: Floats, support: Counts, rows: int) -> Iterator[LabelSet]:
    """Yield what the label prior predicts with one threshold for all labels, and with one for each.

    Both are tuned on the same rows as a model's are.

    Parameters
    ----------
    prior
        The labels' shares of the training rows, shape [labels].
    support
        Of these rows, how many carry each label, shape [labels].
    rows
        Their number.
    """
    shares, counts = np.unique(prior, return_counts=True)
    carried = np.bincount(np.searchsorted(shares, prior), support)
    predicted, hits = (np.cumsum(part[::-1]) for part in (counts * rows, carried))  # from the largest share down
    best = DEFAULT_THRESHOLD if hits[-1] == 0 else shares[::-1][np.argmax(hits / (predicted + hits[-1]))]
    shared = prior >= best
    yield shared
    yield np.where(support > 0, True, shared)  # of one label all rows are predicted, or none: all if any carries it


def count_decisions(predicted: LabelSet, support: Counts, rows: int) -> Decisions:
    """Count per label what a baseline decides on rows of which `support` carry each label."""
    return Decisions(support * predicted, rows * predicted.astype(np.int64), support)


def compute_prior_loss(prior: Floats, support: Counts, rows: int) -> float:
    """Return the binary cross-entropy of the label prior as the probability of every row, in nats."""
    share = support / rows
    return float(-np.mean(share * np.log(prior) + (1 - share) * np.log1p(-prior)))
