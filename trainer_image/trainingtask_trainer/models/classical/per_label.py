"""One estimator per label, side by side or in a chain.

Over 0/1 labels scikit-learn's `OneVsRestClassifier` and `MultiOutputClassifier` fit the same estimators, one per
column, and its `ClassifierChain` appends the columns before. So does this, in a loop that
reports its progress, and without the chain's conversion to a slow matrix format.
"""

import warnings
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from trainingtask_trainer.runtime.import_guard import block_import
from trainingtask_trainer.runtime.workers import run_calls

with block_import("pandas"):  # scikit-learn imports it for data frames: 2 seconds and 35 MiB
    from sklearn.base import clone

Matrix = NDArray[np.float64]
Labels = NDArray[np.uint8]


def fit_per_label(estimator: Any, features: Any, labels: Labels, *, chain: bool, workers: int = 1) -> Generator[Any]:
    """Yield a fitted clone of `estimator` per label, in their order; the same ones with any number of workers.

    Parameters
    ----------
    estimator
        An estimator for one label.
    features, labels
        The training rows; `labels` has shape [rows, labels].
    chain
        The labels before a label are features of its estimator, in the order of the columns.
    workers
        Number of processes; 1: this one.
    """
    links = _prepare_links(features, labels) if chain else None
    fit = partial(_fit, estimator, features, labels, links)
    moved = features if sparse.issparse(features) else None
    yield from run_calls(fit, range(labels.shape[1]), workers, moved=moved, joins_in=True)


def _fit(estimator: Any, features: Any, labels: Labels, links: Any, label: int) -> Any:
    """Return a clone of `estimator` that is fitted on the column `label`, in a chain with the columns before it."""
    read = features if links is None else _append_labels(features, links[:, :label])
    # The solvers' vectors are short: threads of the linear algebra would mostly synchronise.
    with restore_warning_filters(), threadpool_limits(1, user_api="blas"):
        return clone(estimator).fit(read, labels[:, label])


def predict_per_label(estimators: list[Any], features: Any, *, chain: bool) -> Matrix:
    """Return the probability of each label, shape [rows, labels].

    In a chain, the labels before a label are the predicted ones.
    """
    result = np.empty((features.shape[0], len(estimators)))
    decided = np.zeros(result.shape, dtype=np.uint8)
    for label, estimator in enumerate(estimators):
        read = _append_labels(features, _prepare_links(features, decided[:, :label])) if chain else features
        with restore_warning_filters():
            result[:, label] = estimator.predict_proba(read)[:, 1]
        decided[:, label] = result[:, label] > 0.5
    return result


@contextmanager
def restore_warning_filters() -> Iterator[None]:
    """Restore the process's warning filters on exit: a forest's threads change and restore them in any order."""
    with warnings.catch_warnings():
        yield


def _prepare_links(features: Any, labels: Labels) -> Any:
    """Return labels as features of a chain: sparse as the features are, by column, as a label reads those before it."""
    return sparse.csc_matrix(labels, dtype=features.dtype) if sparse.issparse(features) else labels


def _append_labels(features: Any, links: Any) -> Any:
    if sparse.issparse(features):
        return sparse.hstack([features, links.asformat(features.format)], format=features.format)
    return np.hstack([features, links.astype(features.dtype)])
