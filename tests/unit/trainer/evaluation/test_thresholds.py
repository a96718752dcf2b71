import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from trainingtask_api.training import Evaluation, ThresholdTuning
from trainingtask_trainer.evaluation import thresholds

PER_LABEL = Evaluation(threshold_tuning=ThresholdTuning.PER_LABEL)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=4, max_size=40))
def test_tuned_thresholds_are_the_best_of_all(cells: list[tuple[bool, int]]) -> None:
    cells = cells[: len(cells) // 2 * 2]
    truth = np.array([cell[0] for cell in cells], dtype=np.uint8).reshape(-1, 2)
    probabilities = np.array([cell[1] / 7 for cell in cells]).reshape(-1, 2)  # few values: many ties

    def micro_f1(threshold: float) -> float:
        predicted = thresholds.apply_thresholds([threshold], probabilities)
        return float(f1_score(truth, predicted, average="micro", zero_division=0))

    shared = thresholds.choose_thresholds(None, truth, probabilities).shared_value
    assert shared is not None
    assert micro_f1(shared) == pytest.approx(max(map(micro_f1, np.unique(probabilities))))

    own = thresholds.choose_thresholds(PER_LABEL, truth, probabilities)
    assert own.shared_value is None
    for label in range(2):
        column, scores = truth[:, label], probabilities[:, label]
        if not column.any():
            assert own.values[label] == shared
            continue
        best = max(float(f1_score(column, scores >= cut, zero_division=0)) for cut in np.unique(scores))
        assert f1_score(column, scores >= own.values[label], zero_division=0) == pytest.approx(best)


def test_threshold_keeps_clear_of_the_probabilities_beside_it() -> None:
    chosen = thresholds.choose_thresholds(None, np.array([[1, 0]], dtype=np.uint8), np.array([[0.8, 0.4]]))
    assert chosen.shared_value == pytest.approx(0.6)
    assert (chosen.source, len(chosen.values)) == ("global", 2)


def test_threshold_between_neighbours_that_have_no_middle() -> None:
    higher = np.nextafter(0.5, 1)
    chosen = thresholds.choose_thresholds(None, np.array([[1, 0]], dtype=np.uint8), np.array([[higher, 0.5]]))
    assert chosen.shared_value == higher


def test_threshold_without_a_positive_row_is_a_half() -> None:
    for spec in (None, PER_LABEL):
        chosen = thresholds.choose_thresholds(spec, np.zeros((3, 2), dtype=np.uint8), np.full((3, 2), 0.3))
        assert chosen.values.tolist() == [0.5, 0.5]


def test_a_fixed_threshold_looks_at_no_row() -> None:
    chosen = thresholds.choose_thresholds(
        Evaluation(threshold=0.3), np.ones((3, 2), dtype=np.uint8), np.full((3, 2), 0.1)
    )
    assert (chosen.shared_value, chosen.source) == (0.3, "fixed")


def test_a_probability_that_reaches_its_labels_threshold_counts() -> None:
    assert thresholds.apply_thresholds([0.5, 0.2], np.array([[0.5, 0.19], [0.49, 0.2]])).tolist() == [[1, 0], [0, 1]]
