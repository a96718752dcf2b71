"""Whether the scores of two saved models differ by more than chance: the paired bootstrap over the same test rows.

Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13: both models are scored on the same resamples, so
that what makes rows easy or hard for both cancels out of the difference.
"""

from dataclasses import dataclass

import numpy as np

from trainingtask_api.reasons import Reason
from trainingtask_api.scores import Interval
from trainingtask_trainer.artifacts.predictions import StoredPredictions
from trainingtask_trainer.datasets.base import LabelMatrix
from trainingtask_trainer.errors import UserError
from trainingtask_trainer.evaluation import metrics
from trainingtask_trainer.evaluation.metrics import Decisions
from trainingtask_trainer.evaluation.uncertainty import (
    Predictions,
    cut_interval,
    explain_missing,
    resample_scores,
)

_SCORES = ("micro-F1", "macro-F1", "mean average precision")


@dataclass(frozen=True)
class ScoreDifference:
    """A score of two models; None where it is undefined."""

    name: str
    first: float | None
    second: float | None
    interval: Interval | None
    """With 95 % of the resamples' differences, second minus first."""

    @property
    def is_more_than_chance(self) -> bool | None:
        """Whether 0 is outside of the interval; None without one."""
        return None if self.interval is None else not self.interval.low <= 0 <= self.interval.high


def compare_predictions(first: StoredPredictions, second: StoredPredictions) -> list[ScoreDifference]:
    """Return the differences of the scores of two models.

    Raises
    ------
    UserError
        When the predictions are not of the same test rows.
    """
    _check_same_rows(first, second)
    truth = first.truth
    models = [Predictions(stored.predicted, stored.probabilities) for stored in (first, second)]
    resampled = resample_scores(truth, models)
    scores = [_compute_scores(truth, model) for model in models]
    return [
        ScoreDifference(
            name,
            scores[0][index],
            scores[1][index],
            None if resampled is None else cut_interval(resampled[1, index] - resampled[0, index]),
        )
        for index, name in enumerate(_SCORES)
    ]


def _check_same_rows(first: StoredPredictions, second: StoredPredictions) -> None:
    if first.metadata.labels != second.metadata.labels:
        other = set(first.metadata.labels) ^ set(second.metadata.labels)
        which = f"'{min(other)}' is a label of one alone" if other else "their order differs"
        raise _create_difference_error(f"their labels differ: {which}")
    if len(first.truth) != len(second.truth):
        raise _create_difference_error(f"one has {len(first.truth)} test rows, the other {len(second.truth)}")
    if first.metadata.test_fingerprint != second.metadata.test_fingerprint or (first.truth != second.truth).any():
        raise _create_difference_error("the texts or the labels of their test rows differ")


def _create_difference_error(why: str) -> UserError:
    return UserError(
        Reason.INVALID_DATA,
        f"the models were not scored on the same test rows, so that a difference says nothing ({why}): train both with the"
        " same dataset section",
    )


def _compute_scores(truth: LabelMatrix, model: Predictions) -> list[float | None]:
    micro = float(Decisions.of(truth, model.predicted, axis=None).f1)
    return [
        None if np.isnan(micro) else micro,
        metrics.average_defined(Decisions.of(truth, model.predicted, axis=0).f1),
        metrics.mean_average_precision(truth, model.probabilities),
    ]


def format_differences(differences: list[ScoreDifference], stored: StoredPredictions) -> list[str]:
    """Return the differences as lines: a table, then a sentence for each score."""
    lines = [f"{'':<24}{'first':>9}{'second':>9}{'difference':>12}   95 % interval"]
    for one in differences:
        known = one.first is not None and one.second is not None
        change = f"{one.second - one.first:+12.4f}" if known else f"{'-':>12}"  # type: ignore[operator]
        interval = f"{one.interval.low:+.4f} to {one.interval.high:+.4f}" if one.interval else "-"
        lines.append(f"{one.name:<24}{_format(one.first):>9}{_format(one.second):>9}{change}   {interval}")
    lines += ["", *(_describe(one, stored) for one in differences)]
    return lines


def _format(score: float | None) -> str:
    return "-" if score is None else f"{score:.4f}"


def _describe(one: ScoreDifference, stored: StoredPredictions) -> str:
    if one.interval is None:
        return f"{one.name}: not known, {explain_missing(stored.truth)}."
    if not one.is_more_than_chance:
        return (
            f"{one.name}: the difference may be chance, on other test rows of the same kind it may be 0 or the reverse."
        )
    better = "second" if one.interval.low > 0 else "first"
    return f"{one.name}: the {better} model is better by more than chance."
