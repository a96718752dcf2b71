"""The thresholds at which a score can be best: those that predict down to a true decision.

F scores, and recall at a precision, grow where a true decision is predicted and fall at false ones, so that no other
threshold has to be tried. A threshold lies in the middle between the last probability that it predicts and the first that
it does not, so that rounding on another machine does not move a row across it.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainingtask_trainer.datasets.base import LabelMatrix
from trainingtask_trainer.evaluation.metrics import (
    Counts,
    Floats,
    Probabilities,
    Ranking,
    map_rankings,
    split_rows,
)

RowMask = NDArray[np.bool_]
"""The rows that are read, shape [rows]."""


class Candidates(NamedTuple):
    """Thresholds of several groups of decisions, falling within a group; each group has at least one.

    All but `starts` are of shape [candidates].
    """

    thresholds: Floats
    predicted: Counts
    """Decisions of the group that reach the threshold."""
    hits: Counts
    """Those of them that are true."""
    starts: Counts
    """Where each group begins, shape [groups]."""

    @property
    def support(self) -> Counts:
        """True decisions of each candidate's group, shape [candidates]."""
        lengths = np.diff(np.append(self.starts, len(self.hits)))
        return np.repeat(self.hits[self.starts + lengths - 1], lengths)

    def select_best(self, scores: Floats) -> Counts:
        """Return the candidate with the highest score of each group, the highest threshold of equal ones."""
        lengths = np.diff(np.append(self.starts, len(scores)))
        is_best = scores == np.repeat(np.maximum.reduceat(scores, self.starts), lengths)
        places = np.where(is_best, np.arange(len(scores)), len(scores))
        return np.asarray(np.minimum.reduceat(places, self.starts))

    def draw_sample(self, generator: np.random.Generator) -> "Candidates":
        """Return the candidates with the counts of a bootstrap sample of the rows, drawn for each group by itself."""
        hits, misses = (
            self._accumulate(generator.poisson(self._list_gains(counts)))
            for counts in (self.hits, self.predicted - self.hits)
        )
        return self._replace(hits=hits, predicted=hits + misses)

    def _list_gains(self, counts: Counts) -> Counts:
        """Return what each candidate has more than the one before it in its group."""
        gains = np.diff(counts, prepend=0)
        gains[self.starts] = counts[self.starts]
        return gains

    def _accumulate(self, gains: Counts) -> Counts:
        sums = np.cumsum(gains)
        before = sums[self.starts] - gains[self.starts]
        return np.asarray(sums - np.repeat(before, np.diff(np.append(self.starts, len(gains)))))

    def thin(self, count: int) -> "Candidates":
        """Return about `count` of the candidates of a single group, evenly chosen."""
        step = -(-len(self.thresholds) // count)
        return Candidates(self.thresholds[::step], self.predicted[::step], self.hits[::step], self.starts)


def collect_by_label(
    truth: LabelMatrix, probabilities: Probabilities, labels: Sequence[int] | Counts, rows: RowMask | None = None
) -> Candidates:
    """Return the candidates of labels that some of the rows carry, each label a group."""
    parts = map_rankings(_to_columns, truth, probabilities, labels, rows)
    thresholds, predicted, hits = (np.concatenate(column) for column in zip(*parts, strict=True))
    lengths = [len(part[0]) for part in parts]
    return Candidates(thresholds, predicted, hits, np.cumsum([0, *lengths[:-1]]))


def _to_columns(ranking: Ranking) -> tuple[Floats, Counts, Counts]:
    lower = ranking.ordered.size - ranking.predicted
    below = np.where(lower > 0, ranking.ordered[lower - 1], 0)
    return _compute_middles(ranking.cuts, below), ranking.predicted, ranking.hits


def collect_over_all(truth: LabelMatrix, probabilities: Probabilities, rows: RowMask | None = None) -> Candidates:
    """Return the candidates of all decisions as one group; none where no row carries a label.

    Blocks of rows are sorted one by one: no second matrix of all probabilities is made.
    """
    positives = [theirs[ours == 1] for ours, theirs in _iter_blocks(truth, probabilities, rows)]
    rising, gains = np.unique(np.concatenate(positives), return_counts=True)
    cuts = rising[::-1]
    predicted, below = np.zeros(len(cuts), dtype=np.int64), np.full(len(cuts), -np.inf)
    for _, theirs in _iter_blocks(truth, probabilities, rows):
        ordered = np.sort(theirs, axis=None)
        lower = np.searchsorted(ordered, cuts, "left")
        predicted += ordered.size - lower
        if ordered.size:
            np.maximum(below, np.where(lower > 0, ordered[lower - 1], -np.inf), out=below)
    below = np.where(np.isinf(below), 0, below)
    return Candidates(_compute_middles(cuts, below), predicted, np.cumsum(gains[::-1]), np.array([0]))


def _iter_blocks(
    truth: LabelMatrix, probabilities: Probabilities, rows: RowMask | None
) -> Iterator[tuple[LabelMatrix, Probabilities]]:
    for block in split_rows(probabilities):
        ours, theirs = truth[block], probabilities[block]
        yield (ours, theirs) if rows is None else (ours[rows[block]], theirs[rows[block]])


def _compute_middles(cuts: Probabilities, below: Probabilities) -> Floats:
    """Return the middles, below the lowest probability that with 0, and the cuts themselves where no number lies between."""
    cuts, below = cuts.astype(np.float64), below.astype(np.float64)
    middles = (cuts + below) / 2
    return np.where(middles > below, middles, cuts)
