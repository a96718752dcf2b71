"""Mistakes of a model on rows that it was not trained on, and which given labels seem wrong instead.

Confident learning (Northcutt, Jiang, Chuang: "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR 70,
2021), for each label by itself with the two classes *there* and *not there*. The threshold of a class is the mean
probability of the class over the rows that are given it (equation 2); a row is confidently of the most probable class
whose threshold its probability reaches (equation 1). A label is suspected where that is the other class than the given
one, and the model's thresholds decide otherwise than the given labels as well.

Suspected labels are sorted by the probability of what is given, the least first: this is the order of the loss, and within
a label that of the paper's normalized margin. benchmarks/evaluation/label_errors.py compares both.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainingtask_api.label_errors import MAX_REPORTED_PAIRS, LabelErrorCounts, LabelErrors, LabelPair
from trainingtask_trainer.datasets.base import LabelMatrix, Split
from trainingtask_trainer.evaluation.metrics import Counts, Floats, Probabilities, split_rows
from trainingtask_trainer.evaluation.repeated_texts import RepeatedTexts

# Mistakes that are kept, of missing and of surplus labels each: more than a person reads, and little memory.
_MAX_KEPT = 200_000


@dataclass(frozen=True)
class PredictedRows:
    """Rows of a split with what a model that was not trained on them predicts, all of shape [rows, labels]."""

    name: str
    """`train`, `validation` or `test`."""
    split: Split
    probabilities: Probabilities
    predicted: LabelMatrix


class Mistakes(NamedTuple):
    """Decisions that are not as the labels are given, the most confident first; arrays of shape [mistakes]."""

    parts: NDArray[np.intp]
    """Index of the `PredictedRows`."""
    rows: NDArray[np.intp]
    """Index of the row among them."""
    labels: NDArray[np.intp]
    probabilities: Floats
    """Of the label."""
    is_missing: NDArray[np.bool_]
    """Whether the label is predicted and not given; else it is given and not predicted."""
    is_suspected: NDArray[np.bool_]
    """Whether the given label seems wrong, rather than the model."""

    @property
    def scores(self) -> Floats:
        """The probability of what is given: of the label, or that it is not there; the order of the mistakes."""
        return np.where(self.is_missing, 1 - self.probabilities, self.probabilities)

    def select(self, chosen: NDArray[np.bool_] | NDArray[np.intp] | slice) -> "Mistakes":
        """Return some of the mistakes."""
        return Mistakes._make(values[chosen] for values in self)


# In the order of the fields of `LabelErrorCounts`.
_KINDS: tuple[Callable[[Mistakes], NDArray[np.bool_]], ...] = (
    lambda found: found.is_missing,
    lambda found: ~found.is_missing,
    lambda found: found.is_missing & found.is_suspected,
    lambda found: ~found.is_missing & found.is_suspected,
)


@dataclass(frozen=True)
class LabelErrorReport:
    """What is known of a model's mistakes: counts for the results, and the mistakes themselves for files."""

    summary: LabelErrors
    mistakes: Mistakes
    """The most confident ones."""


def report_label_errors(
    label_names: Sequence[str], parts: Sequence[PredictedRows], folds: int | None, repeated: RepeatedTexts
) -> LabelErrorReport:
    """Return the mistakes of a model, and which given labels seem wrong.

    Parameters
    ----------
    label_names
        Names of the labels, shape [labels].
    parts
        Rows that the model was not trained on.
    folds
        Folds of the training rows, None where these are not among `parts`.
    repeated
        How often texts of the data set are repeated.
    """
    there, absent = _compute_class_thresholds(parts)
    labels = len(label_names)
    counts = np.zeros((len(_KINDS), labels), dtype=np.int64)
    pairs: list[Counts] = []
    kept: list[Mistakes] = []
    for block in _iter_blocks(parts):
        found = _find_mistakes(block, there, absent)
        counts += [np.bincount(found.labels[is_of_kind(found)], minlength=labels) for is_of_kind in _KINDS]
        pairs.append(_find_pairs(block))
        kept = [_keep_most_confident([*kept, found])]
    errors = counts[0] + counts[1]
    most = np.argsort(-errors, kind="stable")[:MAX_REPORTED_PAIRS]
    summary = LabelErrors(
        rows=sum(len(part.split) for part in parts),
        folds=folds,
        suspected_missing=int(counts[2].sum()),
        suspected_surplus=int(counts[3].sum()),
        conflicting_rows=repeated.conflicting_rows,
        near_duplicate_rows=repeated.near_duplicate_rows,
        per_label=[
            LabelErrorCounts(
                label=label_names[label],
                false_positives=int(counts[0, label]),
                false_negatives=int(counts[1, label]),
                suspected_missing=int(counts[2, label]),
                suspected_surplus=int(counts[3, label]),
            )
            for label in most
            if errors[label]
        ],
        pairs=_count_pairs(np.concatenate(pairs), label_names),
    )
    return LabelErrorReport(summary, kept[0])


class _Block(NamedTuple):
    """Rows of a part; `start` is the first of them."""

    part: int
    start: int
    given: LabelMatrix
    predicted: LabelMatrix
    probabilities: Probabilities


def _iter_blocks(parts: Sequence[PredictedRows]) -> Iterator[_Block]:
    for index, part in enumerate(parts):
        for rows in split_rows(part.probabilities):
            yield _Block(index, rows.start, part.split.labels[rows], part.predicted[rows], part.probabilities[rows])


def _compute_class_thresholds(parts: Sequence[PredictedRows]) -> tuple[Floats, Floats]:
    """Return the mean probability of *there* where a label is given, and of *not there* where it is not; shape [labels].

    NaN, which no probability reaches, where no row is given the class.
    """
    rows = sum(len(part.split) for part in parts)
    given = sum(part.split.labels.sum(axis=0, dtype=np.int64) for part in parts)
    total = sum(part.probabilities.sum(axis=0) for part in parts)
    there = sum(np.einsum("rl,rl->l", part.probabilities, part.split.labels) for part in parts)
    with np.errstate(invalid="ignore"):
        return there / given, 1 - (total - there) / (rows - given)


def _find_mistakes(block: _Block, there: Floats, absent: Floats) -> Mistakes:
    rows, labels = np.nonzero(block.predicted != block.given)
    probabilities = block.probabilities[rows, labels]
    is_missing = block.predicted[rows, labels] == 1
    is_there, is_absent = probabilities >= there[labels], 1 - probabilities >= absent[labels]
    is_likely = probabilities > 0.5
    is_suspected = np.where(is_missing, is_there & (~is_absent | is_likely), is_absent & (~is_there | ~is_likely))
    return Mistakes(np.full(len(rows), block.part), rows + block.start, labels, probabilities, is_missing, is_suspected)


def _keep_most_confident(found: Sequence[Mistakes]) -> Mistakes:
    mistakes = Mistakes._make(map(np.concatenate, zip(*found, strict=True)))
    order = np.argsort(mistakes.scores, kind="stable")
    is_missing = mistakes.is_missing[order]
    rank = np.where(is_missing, np.cumsum(is_missing), np.cumsum(~is_missing))
    return mistakes.select(order[rank <= _MAX_KEPT])


def _find_pairs(block: _Block) -> Counts:
    """Return each given label that is not predicted x labels + the most probable label that is predicted instead."""
    wrong = np.where(block.predicted > block.given, block.probabilities, -1)
    instead = wrong.argmax(axis=1)
    rows, labels = np.nonzero(block.given > block.predicted)
    is_paired = wrong[rows, instead[rows]] >= 0
    codes: Counts = labels[is_paired].astype(np.int64) * wrong.shape[1] + instead[rows[is_paired]]
    return codes


def _count_pairs(codes: Counts, label_names: Sequence[str]) -> list[LabelPair]:
    found, counts = np.unique(codes, return_counts=True)
    most = np.argsort(-counts, kind="stable")[:MAX_REPORTED_PAIRS]
    given, predicted = np.divmod(found[most], len(label_names))
    return [
        LabelPair(given=label_names[left], predicted=label_names[right], rows=int(count))
        for left, right, count in zip(given, predicted, counts[most], strict=True)
    ]
