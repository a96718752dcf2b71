"""Each objective against all thresholds that there are, on small rows with many ties."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from trainingtask_api.training import Evaluation, Objective, ThresholdTuning
from trainingtask_trainer.evaluation.candidates import collect_by_label, collect_over_all
from trainingtask_trainer.evaluation.objectives import NONE_FITS, Goal
from trainingtask_trainer.evaluation.thresholds import choose_thresholds

Truth = NDArray[np.uint8]
Probabilities = NDArray[np.float32]
Rows = tuple[Truth, Probabilities]


@st.composite
def draw_rows(draw: st.DrawFn) -> Rows:
    """Return truth and probabilities of at most 8 rows and 3 labels, each of which some row carries."""
    labels = draw(st.integers(1, 3))
    cells = draw(st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=labels, max_size=8 * labels))
    kept = cells[: len(cells) // labels * labels]
    truth = np.array([cell[0] for cell in kept], dtype=np.uint8).reshape(-1, labels)
    truth[0] = 1
    return truth, np.array([cell[1] / 7 for cell in kept], dtype=np.float32).reshape(-1, labels)


def list_cuts(probabilities: Probabilities) -> list[float]:
    return [2.0, *np.unique(probabilities).tolist()]


def score(average: str, truth: Truth, predicted: NDArray[np.bool_], beta: float = 1.0) -> float:
    axis = 0 if average == "macro" else None
    above, below = (1 + beta**2) * (truth * predicted).sum(axis=axis), predicted.sum(axis=axis)
    return float(np.mean(above / (below + beta**2 * truth.sum(axis=axis))))


@settings(max_examples=50)
@given(draw_rows())
@pytest.mark.parametrize(("objective", "average"), [("micro_f1", "micro"), ("macro_f1", "macro")])
def test_one_threshold_is_the_best_of_all(objective: str, average: str, rows: Rows) -> None:
    truth, probabilities = rows
    chosen = choose_thresholds(Evaluation(objective=Objective(objective)), truth, probabilities)
    best = max(score(average, truth, probabilities >= cut) for cut in list_cuts(probabilities))
    assert score(average, truth, probabilities >= chosen.values) == pytest.approx(best)


@settings(max_examples=50)
@given(draw_rows(), st.sampled_from([0.3, 2.0]))
def test_one_threshold_for_f_beta_is_the_best_of_all(rows: Rows, beta: float) -> None:
    truth, probabilities = rows
    chosen = choose_thresholds(Evaluation(objective=Objective.F_BETA, beta=beta), truth, probabilities)
    best = max(score("micro", truth, probabilities >= cut, beta) for cut in list_cuts(probabilities))
    assert score("micro", truth, probabilities >= chosen.values, beta) == pytest.approx(best)


def choose_own(goal: Goal, truth: Truth, probabilities: Probabilities) -> list[float]:
    """Return the thresholds of the labels, before shrinkage; 2 where predicting nothing is best."""
    candidates = collect_by_label(truth, probabilities, range(truth.shape[1]))
    best = goal.select_candidates(candidates)
    return np.where(best == NONE_FITS, 2.0, candidates.thresholds[best]).tolist()


@settings(max_examples=50)
@given(draw_rows(), st.sampled_from([0.5, 1.0, 2.0]))
def test_a_threshold_per_label_is_each_labels_best(rows: Rows, beta: float) -> None:
    truth, probabilities = rows
    values = choose_own(Goal(Objective.F_BETA, is_label_mean=True, beta=beta), truth, probabilities)
    for label, value in enumerate(values):
        own, given_probabilities = truth[:, [label]], probabilities[:, [label]]
        best = max(score("micro", own, given_probabilities >= cut, beta) for cut in list_cuts(given_probabilities))
        assert score("micro", own, given_probabilities >= value, beta) == pytest.approx(best)


@settings(max_examples=50)
@given(draw_rows())
def test_thresholds_per_label_for_micro_f1_are_the_best_of_all_combinations(rows: Rows) -> None:
    truth, probabilities = rows
    values = choose_own(Goal(Objective.MICRO_F1), truth, probabilities)
    combinations = product(*(list_cuts(probabilities[:, label]) for label in range(truth.shape[1])))
    best = max(score("micro", truth, probabilities >= np.array(cuts)) for cuts in combinations)
    assert score("micro", truth, probabilities >= np.array(values)) == pytest.approx(best)


@settings(max_examples=50)
@given(draw_rows(), st.sampled_from([0.4, 0.75, 1.0]))
def test_min_precision_has_the_most_recall_of_those_that_keep_it(rows: Rows, least: float) -> None:
    truth, probabilities = rows
    values = choose_own(Goal(Objective.MIN_PRECISION, min_precision=least), truth, probabilities)
    for label, value in enumerate(values):
        hits = _count_precise_hits(truth[:, label], probabilities[:, label], least)
        assert truth[probabilities[:, label] >= value, label].sum() == max(hits)


def _count_precise_hits(truth: Truth, probabilities: Probabilities, least: float) -> list[int]:
    counts = [0]
    for cut in np.unique(probabilities):
        predicted = truth[probabilities >= cut]
        if predicted.sum() >= least * len(predicted):
            counts.append(int(predicted.sum()))
    return counts


@settings(max_examples=50)
@given(draw_rows())
def test_candidates_of_some_rows_are_those_of_a_copy_of_them(rows: Rows) -> None:
    truth, probabilities = rows
    used = np.arange(len(truth)) % 2 == 0
    for some, copied in (
        (collect_over_all(truth, probabilities, used), collect_over_all(truth[used], probabilities[used])),
        (collect_by_label(truth, probabilities, [0], used), collect_by_label(truth[used], probabilities[used], [0])),
    ):
        assert [part.tolist() for part in some] == [part.tolist() for part in copied]


@pytest.mark.parametrize(
    ("tuning", "objective"), [(ThresholdTuning.GLOBAL, "micro_f1"), (ThresholdTuning.PER_LABEL, "macro_f1")]
)
def test_default_objective_follows_the_kind_of_thresholds(tuning: ThresholdTuning, objective: str) -> None:
    assert Goal.of(Evaluation(threshold_tuning=tuning)).objective == objective
