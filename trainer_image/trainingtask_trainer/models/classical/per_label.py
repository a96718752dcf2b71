"""One estimator per label, side by side or in a chain.

Over 0/1 labels scikit-learn's `OneVsRestClassifier` and `MultiOutputClassifier` fit the same estimators, one per
column, and its `ClassifierChain` appends the columns before. So does this, in a loop that
reports its progress, and without the chain's conversion to a slow matrix format.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression

from trainingtask_trainer.datasets.base import LabelMatrix

Matrix = NDArray[np.float64]


def fit_per_label(estimator: Any, features: Any, labels: LabelMatrix, *, chain: bool) -> Iterator[Any]:
    """Yield a fitted clone of `estimator` per label, shape of `labels` [rows, labels].

    In a chain, the labels before a label are features of its estimator, in the order of the columns.
    """
    for label in range(labels.shape[1]):
        read = _append_labels(features, labels[:, :label]) if chain else features
        with restore_warning_filters():
            fitted = clone(estimator).fit(read, labels[:, label])
        yield fitted


def predict_per_label(estimators: list[Any], features: Any, *, chain: bool) -> Matrix:
    """Return the probability of each label, else its decision value, shape [rows, labels].

    In a chain, the labels before a label are the predicted ones.
    """
    result = np.empty((features.shape[0], len(estimators)))
    decided = np.zeros(result.shape, dtype=np.uint8)
    for label, estimator in enumerate(estimators):
        read = _append_labels(features, decided[:, :label]) if chain else features
        with restore_warning_filters():
            result[:, label] = _get_score_function(estimator)(read)
        decided[:, label] = result[:, label] > _get_decision_boundary(estimator)
    return result


def fit_sigmoid(values: Matrix, labels: LabelMatrix) -> tuple[float, float]:
    """Return slope and intercept of the sigmoid that turns decision values into probabilities (Platt, 1999).

    One sigmoid for all labels, which keeps the order of decision values, and with it every F1 at a tuned threshold.
    Two parameters from rows x labels decisions do not overfit thresholds that are tuned on the same rows. One
    artificial decision on each side of the margin allows for labels that no row carries, or all.
    """
    inputs = np.append(values.ravel(), [1.0, -1.0])
    truth = np.append(labels.ravel(), [1, 0])
    fitted = LogisticRegression(C=1.0).fit(inputs[:, np.newaxis], truth)
    # Positive, so that the order stays even where the validation rows are ranked worse than chance.
    return max(float(fitted.coef_[0, 0]), 1e-3), float(fitted.intercept_[0])


@contextmanager
def restore_warning_filters() -> Iterator[None]:
    """Restore the process's warning filters on exit: a forest's threads change and restore them in any order."""
    with warnings.catch_warnings():
        yield


def _append_labels(features: Any, labels: LabelMatrix) -> Any:
    if sparse.issparse(features):
        columns = sparse.csc_matrix(labels, dtype=features.dtype).asformat(features.format)
        return sparse.hstack([features, columns], format=features.format)
    return np.hstack([features, labels.astype(features.dtype)])


def _get_score_function(estimator: Any) -> Callable[[Any], NDArray[np.float64]]:
    if hasattr(estimator, "predict_proba"):
        return lambda features: estimator.predict_proba(features)[:, 1]
    decide: Callable[[Any], NDArray[np.float64]] = estimator.decision_function
    return decide


def _get_decision_boundary(estimator: Any) -> float:
    return 0.5 if hasattr(estimator, "predict_proba") else 0.0
