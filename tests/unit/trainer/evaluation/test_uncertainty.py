"""Bootstrap intervals: each resample against the scores of the copied rows, and the width against theory."""

import numpy as np
import pytest

from trainingtask_trainer.datasets.base import LabelMatrix
from trainingtask_trainer.evaluation import metrics, uncertainty
from trainingtask_trainer.evaluation.metrics import Decisions, Probabilities


def draw(rows: int, labels: int, seed: int = 0) -> tuple[LabelMatrix, LabelMatrix, Probabilities]:
    random = np.random.RandomState(seed)
    truth = (random.random_sample((rows, labels)) < 0.2).astype(np.uint8)
    probabilities = np.round(np.clip(0.3 * truth + 0.7 * random.random_sample((rows, labels)), 0, 1), 1)  # with ties
    return truth, (probabilities >= 0.6).astype(np.uint8), probabilities


def test_a_resample_scores_as_its_rows_copied_do() -> None:
    truth, predicted, probabilities = draw(40, 5)
    truth[:, 4] = predicted[:, 4] = 0
    drawn = np.random.RandomState(1).randint(0, 40, (7, 40))
    weights = np.stack([np.bincount(rows, minlength=40) for rows in drawn], axis=1).astype(np.float32)
    micro, macro = uncertainty._resample_f1(weights, truth, predicted)
    precision = uncertainty._resample_average_precision(weights, truth, probabilities)
    for resample, rows in enumerate(drawn):
        copied = truth[rows], predicted[rows]
        assert micro[resample] == pytest.approx(float(Decisions.of(*copied, axis=None).f1))
        assert macro[resample] == pytest.approx(metrics.average_defined(Decisions.of(*copied, axis=0).f1))
        assert precision[resample] == pytest.approx(metrics.mean_average_precision(truth[rows], probabilities[rows]))


def test_an_interval_is_as_wide_as_theory_has_it() -> None:
    # One label that every row carries: micro-F1 is a function of the share p of rows predicted.
    rows, share = 4000, 0.7
    predicted = (np.arange(rows) < share * rows).astype(np.uint8)[:, None]
    interval = uncertainty.estimate_intervals(np.ones_like(predicted), predicted, predicted.astype(float)).micro_f1
    assert interval is not None
    low, high = (share + sign * 1.96 * (share * (1 - share) / rows) ** 0.5 for sign in (-1, 1))
    assert (interval.low, interval.high) == pytest.approx((2 * low / (1 + low), 2 * high / (1 + high)), abs=2e-3)


def test_intervals_are_the_same_each_time_in_chunks_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = draw(60, 3)
    first = uncertainty.estimate_intervals(*scores)
    monkeypatch.setattr(uncertainty, "_CHUNK_BYTES", 60 * 4 * 7)
    assert uncertainty.estimate_intervals(*scores) == first


def test_no_interval_where_a_resample_may_leave_the_score_undefined() -> None:
    truth, predicted, probabilities = draw(3, 2)
    truth[:] = predicted[:] = 0
    truth[0, 0] = predicted[0, 0] = 1
    intervals = uncertainty.estimate_intervals(truth, predicted, probabilities)
    assert (intervals.micro_f1, intervals.macro_f1, intervals.mean_average_precision) == (None, None, None)
    assert uncertainty.explain_missing(truth).startswith("too few rows")


def test_a_bootstrap_that_would_take_too_long_is_left_out() -> None:
    assert uncertainty.count_resamples(5_427 * 28) == uncertainty.MAX_RESAMPLES
    assert uncertainty.count_resamples(1_000_000 * 1_000) == 0
