"""Linear models of many labels: how many workers fit them, their decision values, and a sigmoid of these."""

from typing import Any

import numpy as np
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.utils import gen_batches

from trainingtask_trainer.models.classical.per_label import Labels, Matrix
from trainingtask_trainer.runtime.workers import count_workers

# A fit takes about 0.3 microseconds per stored value of a sparse matrix, a tenth of it in a dense one.
_SECONDS_PER_VALUE = {True: 3e-7, False: 3e-8}
# A solver's own copy of the features.
_BYTES_PER_VALUE = 24
# Weights of as many labels are multiplied at once, by as many rows.
_BLOCK_BYTES = 16 << 20
# A sigmoid's two parameters need no more decisions than these.
_SIGMOID_DECISIONS = 1_000_000


def count_fit_workers(features: Any, labels: int, cores: int) -> int:
    """Return in how many processes to fit a linear model per label."""
    is_sparse = sparse.issparse(features)
    values: int = features.nnz if is_sparse else features.size
    seconds = values * labels * _SECONDS_PER_VALUE[is_sparse]
    return count_workers(seconds, values * _BYTES_PER_VALUE, min(cores, labels))


def compute_decisions(estimators: list[Any], features: Any, *, chain: bool) -> Matrix:
    """Return the decision value of each label, shape [rows, labels]; a label is decided where it is above 0.

    One product for many labels reads the features once, where the estimators' own functions read them for each label.
    In a chain, the labels before a label are the decided ones.
    """
    rows, terms = features.shape
    result = np.empty((rows, len(estimators)))
    weights = [estimator.coef_[0] for estimator in estimators]
    links = np.zeros((len(estimators), len(estimators)))
    if chain:
        for label, own in enumerate(weights):
            weights[label], links[:label, label] = np.split(own, [len(own) - label])
    for labels in gen_batches(len(weights), max(1, _BLOCK_BYTES // (8 * terms))):
        stacked = np.stack(weights[labels], axis=1)
        for block in gen_batches(rows, max(1, _BLOCK_BYTES // (8 * stacked.shape[1]))):
            result[block, labels] = features[block] @ stacked
    for label, estimator in enumerate(estimators):
        result[:, label] += estimator.intercept_[0]
        if chain:
            result[result[:, label] > 0, label + 1 :] += links[label, label + 1 :]
    return result


def fit_sigmoid(values: Matrix, labels: Labels) -> tuple[float, float]:
    """Return slope and intercept of the sigmoid that turns decision values into probabilities (Platt, 1999).

    One sigmoid for all labels, which keeps the order of decision values, and with it every F1 at a tuned threshold.
    Two parameters from rows x labels decisions do not overfit thresholds that are tuned on the same rows. One
    artificial decision on each side of the margin allows for labels that no row carries, or all.
    """
    step = -(-values.size // _SIGMOID_DECISIONS) or 1
    inputs = np.append(values[::step].ravel(), [1.0, -1.0])
    truth = np.append(labels[::step].ravel(), [1, 0])
    fitted = LogisticRegression(C=1.0).fit(inputs[:, np.newaxis], truth)
    # Positive, so that the order stays even where the validation rows are ranked worse than chance.
    return max(float(fitted.coef_[0, 0]), 1e-3), float(fitted.intercept_[0])
