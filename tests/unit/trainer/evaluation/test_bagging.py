import numpy as np
import pytest
from numpy.typing import NDArray

from trainingtask_api.training import Objective
from trainingtask_trainer.evaluation import bagging
from trainingtask_trainer.evaluation.bagging import average_thresholds
from trainingtask_trainer.evaluation.candidates import Candidates, collect_by_label
from trainingtask_trainer.evaluation.metrics import Decisions
from trainingtask_trainer.evaluation.objectives import Goal

MACRO_F1 = Goal(Objective.MACRO_F1, is_label_mean=True)
TRUTH = np.array([[1, 0], [0, 1], [1, 1], [1, 0], [0, 0]], np.uint8)
PROBABILITIES = np.array([[0.9, 0.2], [0.8, 0.7], [0.6, 0.3], [0.1, 0.4], [0.05, 0.1]])


def collect(truth: NDArray[np.uint8], probabilities: NDArray[np.float64]) -> Candidates:
    return collect_by_label(truth, probabilities, range(truth.shape[1]))


def test_samples_have_the_counts_of_the_rows_in_the_mean() -> None:
    candidates = collect(TRUTH, PROBABILITIES)
    assert candidates.hits.tolist() == [1, 2, 3, 1, 2]
    generator = np.random.default_rng(0)
    samples = [candidates.draw_sample(generator) for _ in range(20_000)]
    for name in ("hits", "predicted"):
        drawn = np.array([getattr(sample, name) for sample in samples])
        wanted = getattr(candidates, name)
        assert drawn.mean(axis=0) == pytest.approx(wanted, rel=0.03)
        assert drawn.var(axis=0) == pytest.approx(wanted, rel=0.05)  # a sum of Poisson numbers is one
    assert all((sample.hits <= sample.predicted).all() for sample in samples)


def test_samples_that_agree_give_their_threshold_to_the_bit() -> None:
    truth = np.array([[1, 1], [0, 0], [1, 1]], np.uint8)
    constant = np.full((3, 2), [0.1, 2 / 3])
    assert average_thresholds(MACRO_F1, collect(truth, constant)).tolist() == [0.1 / 2, 2 / 3 / 2]


@pytest.mark.parametrize("shift", [-20.0, 20.0])
def test_a_mean_is_between_the_thresholds_of_the_samples(shift: float) -> None:
    random = np.random.default_rng(0)
    truth = (random.random((2_000, 20)) < 0.05).astype(np.uint8)
    probabilities = 1 / (1 + np.exp(-shift - 4 * truth - random.standard_normal(truth.shape)))
    candidates = collect(truth, probabilities)
    own, averaged = (
        candidates.thresholds[MACRO_F1.select_candidates(candidates)],
        average_thresholds(MACRO_F1, candidates),
    )
    scores = [
        MACRO_F1.score(Decisions.of(truth, (probabilities >= values).view(np.uint8), axis=0))
        for values in (own, averaged)
    ]
    assert scores[1] > scores[0] - 0.05 > 0.5


def test_a_label_whose_samples_have_no_true_decision_keeps_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bagging, "SAMPLES", 1)
    truth = np.eye(40, dtype=np.uint8)
    candidates = collect(truth, np.where(truth, 0.6, 0.3))
    drawn = candidates.draw_sample(np.random.default_rng(0))
    assert 0 < np.count_nonzero(drawn.support == 0) < 40
    assert average_thresholds(MACRO_F1, candidates).tolist() == candidates.thresholds.tolist()


def test_averages_decide_better_on_rows_that_they_do_not_come_from() -> None:
    random = np.random.default_rng(0)
    truth = (random.random((40_000, 60)) < 0.03).astype(np.uint8)
    probabilities = 1 / (1 + np.exp(4 - 2.0 * truth - random.standard_normal(truth.shape)))
    candidates = collect(truth[:400], probabilities[:400])
    own = candidates.thresholds[MACRO_F1.select_candidates(candidates)]
    scores = [
        MACRO_F1.score(Decisions.of(truth[400:], (probabilities[400:] >= thresholds).view(np.uint8), axis=0))
        for thresholds in (own, average_thresholds(MACRO_F1, candidates))
    ]
    assert scores[1] > scores[0] + 0.008
