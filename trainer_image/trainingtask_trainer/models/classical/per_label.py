"""One estimator per label, side by side or in a chain.

Over 0/1 labels scikit-learn's `OneVsRestClassifier` and `MultiOutputClassifier` fit the same estimators, one per
column, and its `ClassifierChain` appends the columns before. So does this, in a loop that
reports its progress, and without the chain's conversion to a slow matrix format.

Fits run in processes where that saves time: the solvers and scipy's sparse products hold the interpreter lock. joblib
hands the features over as a file that all of them map into memory.
"""

import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any

import joblib  # type: ignore[import-untyped]
import numpy as np
from joblib.externals.loky import get_reusable_executor  # type: ignore[import-untyped]
from numpy.typing import NDArray
from scipy import sparse
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from trainingtask_trainer.datasets.base import LabelMatrix
from trainingtask_trainer.runtime.memory import get_limit_bytes, get_resident_bytes

Matrix = NDArray[np.float64]

# A linear model's fit takes about 0.3 microseconds per stored value of a sparse matrix, a tenth of it in a dense one.
_SECONDS_PER_VALUE = {True: 3e-7, False: 3e-8}
# Starting processes that import scikit-learn, and ending them, takes about 8 seconds: with two of them half of a fit of 15.
_MIN_SECONDS = 20.0
# Of its own a process has scikit-learn and a solver's copy of the features: measured 334 MiB for 6 million values.
_PROCESS_BYTES, _BYTES_PER_VALUE = 240 << 20, 24


def count_processes(features: Any, labels: int, cores: int) -> int:
    """Return in how many processes to fit a linear model per label: 1 where more would save no time, or need too much memory."""
    is_sparse = sparse.issparse(features)
    values: int = features.nnz if is_sparse else features.size
    if values * labels * _SECONDS_PER_VALUE[is_sparse] < _MIN_SECONDS:
        return 1
    limit, resident = get_limit_bytes(), get_resident_bytes()
    if limit is None or resident is None:
        return min(cores, labels)
    return max(1, min(cores, labels, (limit - resident) // (_PROCESS_BYTES + values * _BYTES_PER_VALUE)))


def fit_per_label(
    estimator: Any, features: Any, labels: LabelMatrix, *, chain: bool, processes: int = 1
) -> Generator[Any]:
    """Yield a fitted clone of `estimator` per label, in their order; the same ones in any number of processes.

    Parameters
    ----------
    estimator
        An estimator for one label.
    features, labels
        The training rows; `labels` has shape [rows, labels].
    chain
        The labels before a label are features of its estimator, in the order of the columns.
    processes
        Number of processes; 1: this one.
    """
    if processes == 1:
        yield from (_fit(estimator, features, labels, label, chain) for label in range(labels.shape[1]))
        return
    fit = joblib.delayed(_fit)
    # Column by column in memory, so that a process reads those of one label alone.
    columns = np.asfortranarray(labels)
    fits = joblib.Parallel(processes, backend="loky", return_as="generator")(
        fit(estimator, features, columns, label, chain) for label in range(labels.shape[1])
    )
    try:
        for fitted in fits:  # noqa: UP028 - closed below
            yield fitted
    finally:
        with warnings.catch_warnings(action="ignore"):  # of fits that an interruption makes futile
            fits.close()
        get_reusable_executor().shutdown(kill_workers=True)  # they would wait for more work, and keep their memory


def _fit(estimator: Any, features: Any, labels: LabelMatrix, label: int, chain: bool) -> Any:
    """Return a clone of `estimator` that is fitted on the column `label`."""
    read = _append_labels(features, labels[:, :label]) if chain else features
    # The solvers' vectors are short: threads of the linear algebra would mostly synchronise.
    with restore_warning_filters(), threadpool_limits(1, user_api="blas"):
        return clone(estimator).fit(read, labels[:, label])


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
