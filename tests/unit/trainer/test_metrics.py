import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score, log_loss

from trainingtask_trainer import metrics

TRUTH = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 1], [0, 1, 0]], dtype=np.uint8)
PROBABILITIES = np.array([[0.9, 0.2, 0.1], [0.8, 0.4, 0.3], [0.7, 0.1, 0.2], [0.3, 0.6, 0.1]])


def test_loss_is_the_mean_of_the_labels_log_losses() -> None:
    expected = np.mean([log_loss(TRUTH[:, label], PROBABILITIES[:, label]) for label in range(3)])
    assert metrics.binary_cross_entropy(TRUTH, PROBABILITIES) == pytest.approx(expected)


def test_loss_of_a_certain_mistake_is_finite() -> None:
    assert np.isfinite(metrics.binary_cross_entropy(TRUTH, 1.0 - TRUTH))


def test_scores_by_hand() -> None:
    predicted = metrics.apply_threshold(PROBABILITIES, 0.5)  # 3 of 5 labels found, 1 false
    scores = metrics.score(TRUTH, predicted)
    assert scores.accuracy_thresh == pytest.approx(9 / 12)
    assert scores.micro.precision == pytest.approx(3 / 4)
    assert scores.micro.recall == pytest.approx(3 / 5)
    assert scores.micro.f1 == pytest.approx(2 / 3)
    assert scores.macro.f1 == pytest.approx((4 / 5 + 2 / 3 + 0) / 3)
    assert scores.weighted.f1 == pytest.approx((2 * 4 / 5 + 2 * 2 / 3 + 0) / 5)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=4, max_size=40))
def test_tuned_threshold_is_the_best_of_all(cells: list[tuple[bool, int]]) -> None:
    cells = cells[: len(cells) // 2 * 2]
    truth = np.array([cell[0] for cell in cells], dtype=np.uint8).reshape(-1, 2)
    probabilities = np.array([cell[1] / 7 for cell in cells]).reshape(-1, 2)  # few values: many ties

    def f1(threshold: float) -> float:
        return float(
            f1_score(truth, metrics.apply_threshold(probabilities, threshold), average="micro", zero_division=0)
        )

    best = max(f1(threshold) for threshold in np.unique(probabilities))
    assert f1(metrics.tune_threshold(truth, probabilities)) == pytest.approx(best)


def test_threshold_keeps_clear_of_the_probabilities_beside_it() -> None:
    threshold = metrics.tune_threshold(np.array([[1, 0]], dtype=np.uint8), np.array([[0.8, 0.4]]))
    assert threshold == pytest.approx(0.6)


def test_threshold_without_a_positive_row_is_a_half() -> None:
    assert metrics.tune_threshold(np.zeros((3, 2), dtype=np.uint8), np.full((3, 2), 0.3)) == 0.5


def test_baselines() -> None:
    all_zero = metrics.all_zero_baseline(TRUTH)
    assert (all_zero.accuracy_thresh, all_zero.micro_f1) == (pytest.approx(7 / 12), 0)
    train = np.array([[0, 1, 0], [0, 1, 1]], dtype=np.uint8)  # label 1 is the most frequent: right in 2 of 4 rows
    assert metrics.most_frequent_baseline(TRUTH, train).micro_f1 == pytest.approx(2 * 2 / (4 + 5))


def test_a_model_no_better_than_the_baselines_is_warned_about() -> None:
    all_zero, most_frequent = metrics.all_zero_baseline(TRUTH), metrics.most_frequent_baseline(TRUTH, TRUTH)
    idle = metrics.score(TRUTH, np.zeros_like(TRUTH))
    assert len(metrics.baseline_warnings(idle, all_zero, most_frequent)) == 2
    assert metrics.baseline_warnings(metrics.score(TRUTH, TRUTH), all_zero, most_frequent) == []
