import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from trainingtask_trainer.datasets.base import LabelMatrix
from trainingtask_trainer.evaluation import metrics
from trainingtask_trainer.evaluation.metrics import Decisions

TRUTH = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 1], [0, 1, 0]], dtype=np.uint8)
PROBABILITIES = np.array([[0.9, 0.2, 0.1], [0.8, 0.4, 0.3], [0.7, 0.1, 0.2], [0.3, 0.6, 0.1]])
AXES = {"micro": None, "macro": 0, "samples": 1}


@st.composite
def scored(draw: st.DrawFn) -> tuple[LabelMatrix, metrics.Probabilities]:
    """Return small matrices with many equal probabilities, empty rows and empty labels."""
    rows, labels = draw(st.integers(1, 9)), draw(st.integers(2, 4))
    cells = draw(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=rows * labels, max_size=rows * labels))
    truth = np.array([cell[0] for cell in cells], dtype=np.uint8).reshape(rows, labels)
    return truth, np.array([cell[1] / 5 for cell in cells]).reshape(rows, labels)


def test_loss_is_the_mean_of_the_labels_log_losses() -> None:
    expected = np.mean([sklearn.metrics.log_loss(TRUTH[:, label], PROBABILITIES[:, label]) for label in range(3)])
    assert metrics.binary_cross_entropy(TRUTH, PROBABILITIES) == pytest.approx(expected)


def test_loss_of_a_certain_mistake_is_finite() -> None:
    assert np.isfinite(metrics.binary_cross_entropy(TRUTH, 1.0 - TRUTH))


def test_decisions_by_hand() -> None:
    predicted = (PROBABILITIES >= 0.5).astype(np.uint8)  # 3 of 5 labels found, 1 false
    assert metrics.accuracy_thresh(TRUTH, predicted) == pytest.approx(9 / 12)
    assert metrics.subset_accuracy(TRUTH, predicted) == pytest.approx(2 / 4)
    together = Decisions.of(TRUTH, predicted, axis=None)
    assert (together.precision, together.recall, together.f1) == pytest.approx((3 / 4, 3 / 5, 2 / 3))
    per_label = Decisions.of(TRUTH, predicted, axis=0)
    assert_allclose(per_label.precision, [2 / 3, 1, np.nan])  # the third is never predicted
    assert_allclose(per_label.recall, [1, 1 / 2, 0])
    assert_allclose(per_label.f1, [4 / 5, 2 / 3, 0])
    assert metrics.average_defined(per_label.precision) == pytest.approx(5 / 6)
    assert metrics.average_defined(per_label.f1, per_label.support) == pytest.approx((2 * 4 / 5 + 2 * 2 / 3 + 0) / 5)


def test_rankings_by_hand() -> None:
    areas = [metrics.roc_auc(metrics.rank_decisions(TRUTH[:, label], PROBABILITIES[:, label])) for label in range(3)]
    # Label 0 ranks both its rows first, label 1 too; label 2 ranks its row second of four.
    assert areas == pytest.approx([1, 1, 2 / 3])
    assert metrics.mean_average_precision(TRUTH, PROBABILITIES) == pytest.approx((1 + 1 + 1 / 2) / 3)
    by_row = metrics.label_ranking_average_precision(TRUTH, PROBABILITIES)
    assert_allclose(by_row, [1, 1, 1 / 2, 1])


@given(scored())
def test_decisions_are_those_of_scikit_learn(
    data: tuple[LabelMatrix, metrics.Probabilities],
) -> None:
    truth, probabilities = data
    predicted = (probabilities >= 0.5).astype(np.uint8)
    for average, axis in AXES.items():
        decisions = Decisions.of(truth, predicted, axis)
        expected = sklearn.metrics.precision_recall_fscore_support(
            truth, predicted, average=average, zero_division=np.nan
        )
        ours = [
            metrics.average_defined(np.atleast_1d(part))
            for part in (decisions.precision, decisions.recall, decisions.f1)
        ]
        assert_allclose([np.nan if value is None else value for value in ours], expected[:3])
    per_label = Decisions.of(truth, predicted, axis=0)
    expected = sklearn.metrics.precision_recall_fscore_support(truth, predicted, average=None, zero_division=np.nan)
    assert_allclose([*per_label.precision, *per_label.recall, *per_label.f1], np.concatenate(expected[:3]))
    assert_allclose(per_label.support, expected[3])
    if truth.any():
        expected = sklearn.metrics.precision_recall_fscore_support(
            truth, predicted, average="weighted", zero_division=np.nan
        )
        assert metrics.average_defined(per_label.f1, per_label.support) == pytest.approx(expected[2])
        assert metrics.average_defined(per_label.recall, per_label.support) == pytest.approx(expected[1])
    assert metrics.subset_accuracy(truth, predicted) == pytest.approx(sklearn.metrics.accuracy_score(truth, predicted))
    hamming = sklearn.metrics.hamming_loss(truth, predicted)
    assert metrics.accuracy_thresh(truth, predicted) == pytest.approx(1 - hamming)


@given(scored())
def test_rankings_are_those_of_scikit_learn(data: tuple[LabelMatrix, metrics.Probabilities]) -> None:
    truth, probabilities = data
    precisions, areas = metrics.ranking_scores(truth, probabilities)
    for label in range(truth.shape[1]):
        column, scores = truth[:, label], probabilities[:, label]
        if column.any():
            assert precisions[label] == pytest.approx(sklearn.metrics.average_precision_score(column, scores))
        else:
            assert np.isnan(precisions[label])
        if column.any() and not column.all():
            assert areas[label] == pytest.approx(sklearn.metrics.roc_auc_score(column, scores))
        else:
            assert np.isnan(areas[label])
    carried = truth.any(axis=0)
    expected = precisions[carried].mean() if carried.any() else None
    assert metrics.mean_average_precision(truth, probabilities) == pytest.approx(expected)
    by_row = metrics.label_ranking_average_precision(truth, probabilities)
    labelled = truth.any(axis=1)
    assert np.isnan(by_row[~labelled]).all()
    if labelled.any():
        expected = sklearn.metrics.label_ranking_average_precision_score(truth[labelled], probabilities[labelled])
        assert metrics.average_defined(by_row) == pytest.approx(expected)


def test_a_mean_of_nothing_is_none() -> None:
    assert metrics.average_defined(np.array([np.nan, np.nan])) is None
    assert metrics.average_defined(np.array([0.5, np.nan]), np.array([0, 3])) is None
    assert metrics.mean_average_precision(np.zeros((2, 2), dtype=np.uint8), np.ones((2, 2))) is None
