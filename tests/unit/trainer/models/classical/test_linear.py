from typing import Any

import numpy as np
import pytest
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

from trainingtask_trainer.models.classical import linear
from trainingtask_trainer.models.classical.per_label import fit_per_label
from trainingtask_trainer.runtime import workers

RANDOM = np.random.default_rng(0)
DENSE = np.where((VALUES := RANDOM.random((300, 40))) > 0.8, VALUES, 0)
LABELS = (RANDOM.random((300, 6)) < 0.4).astype(np.uint8)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "_BLOCK_BYTES", 8 * 40 * 4)  # blocks of 4 labels, of 40 rows


@pytest.mark.parametrize("features", [DENSE, sparse.csr_matrix(DENSE)], ids=["dense", "sparse"])
@pytest.mark.parametrize("estimator", [LogisticRegression(C=10), LinearSVC(random_state=0)], ids=["logistic", "svc"])
def test_one_product_decides_as_each_estimator_does(estimator: Any, features: Any) -> None:
    fitted = list(fit_per_label(estimator, features, LABELS, chain=False))
    found = linear.compute_decisions(fitted, features, chain=False)
    expected = np.column_stack([one.decision_function(features) for one in fitted])
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14)


def test_a_chain_adds_the_labels_decided_before() -> None:
    fitted = list(fit_per_label(LogisticRegression(C=10), DENSE, LABELS, chain=True))
    found = linear.compute_decisions(fitted, sparse.csr_matrix(DENSE), chain=True)
    read = DENSE
    for label, estimator in enumerate(fitted):
        np.testing.assert_allclose(found[:, label], estimator.decision_function(read), rtol=1e-12, atol=1e-14)
        read = np.column_stack([read, estimator.predict(read)])
    assert 0 < (found > 0).sum() < found.size


def test_features_that_a_model_does_not_know_are_refused() -> None:
    fitted = list(fit_per_label(LinearSVC(random_state=0), DENSE, LABELS, chain=False))
    for features in (DENSE[:, :-1], np.column_stack([DENSE, DENSE])):
        with pytest.raises(ValueError, match="mismatch"):
            linear.compute_decisions(fitted, features, chain=False)


def test_a_sigmoid_needs_but_a_part_of_many_decisions(monkeypatch: pytest.MonkeyPatch) -> None:
    decisions = RANDOM.normal(size=(20_000, 5))
    labels = (RANDOM.random(decisions.shape) < 1 / (1 + np.exp(1 - 2 * decisions))).astype(np.uint8)
    monkeypatch.setattr(linear, "_SIGMOID_DECISIONS", 30_000)
    assert linear.fit_sigmoid(decisions, labels) == pytest.approx((2, -1), abs=0.1)


def test_workers_are_counted_by_stored_values_and_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "get_limit_bytes", lambda: None)
    many = sparse.csr_matrix((np.ones(1_000_000), np.zeros(1_000_000), [0, 1_000_000]), shape=(1, 1))
    assert linear.count_fit_workers(many, labels=20, cores=4) == 1
    assert linear.count_fit_workers(many, labels=200, cores=4) == 4
    assert linear.count_fit_workers(many, labels=200, cores=1) == 1
    dense = np.broadcast_to(np.float32(1), (1_000_000, 384))
    assert linear.count_fit_workers(dense, labels=2, cores=4) == 2
