from typing import Any

import numpy as np
import psutil
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

from trainingtask_trainer.models.classical.per_label import fit_per_label

RANDOM = np.random.default_rng(0)
DENSE = RANDOM.random((300, 40)).astype(np.float32)
SPARSE = sparse.csr_matrix(np.where(DENSE > 0.8, DENSE, 0))
LABELS = (RANDOM.random((300, 6)) < 0.3).astype(np.uint8)


def check_equal(one: Any, other: Any) -> None:
    for name in ("coef_", "intercept_", "n_iter_"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_workers_fit_the_same_models_to_the_bit() -> None:
    estimator = LogisticRegression(solver="newton-cg")
    here, there = (list(fit_per_label(estimator, SPARSE, LABELS, chain=False, workers=count)) for count in (1, 2))
    assert len(here) == len(there) == LABELS.shape[1]
    for one, other in zip(here, there, strict=True):
        check_equal(one, other)


def test_no_worker_is_left_when_fits_of_a_chain_end_early() -> None:
    before = set(psutil.Process().children(recursive=True))
    here, fits = (
        fit_per_label(LinearSVC(random_state=3), DENSE, LABELS, chain=True, workers=count) for count in (1, 2)
    )
    for _ in range(2):
        check_equal(next(here), next(fits))
    started = set(psutil.Process().children(recursive=True)) - before
    fits.close()
    gone, alive = psutil.wait_procs(started, timeout=120)
    assert len(gone) >= 3  # the workers, and their server
    assert all("resource_tracker" in " ".join(process.cmdline()) for process in alive)
