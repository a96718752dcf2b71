import os
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from scipy.sparse import csr_matrix

from trainingtask_trainer.models.classical import workers
from trainingtask_trainer.models.classical.workers import count_workers, move_to_file, run_calls

GIB = 1 << 30


@pytest.fixture
def describe() -> Any:
    """Return a delayed function; a local one, because workers cannot import this module."""
    return joblib.delayed(
        lambda shared, factor: (os.getpid(), str(getattr(shared, "filename", "")), float(shared.sum() * factor))
    )


def test_workers_map_an_array_from_the_scratch_folder(
    describe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    shared = np.ones(1 << 18)
    found = list(run_calls((describe(shared, factor) for factor in range(4)), workers=2))
    processes, files, sums = zip(*found, strict=True)
    assert os.getpid() not in processes
    assert len(set(files)) == 1
    assert Path(files[0]).is_relative_to(tmp_path)  # not /dev/shm, which is small in a pod
    assert sums == tuple(factor * float(1 << 18) for factor in range(4))
    assert list(tmp_path.iterdir()) == []


def test_features_in_a_file_are_mapped_once_and_outlive_it(
    describe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    features = csr_matrix(np.arange(6.0).reshape(2, 3))
    with move_to_file(features):
        [file] = tmp_path.glob("*/data.npy")
        assert {found for _, found, _ in run_calls([describe(features.data, 1)] * 2, workers=2)} == {str(file)}
    assert list(tmp_path.iterdir()) == []
    assert features.toarray().tolist() == [[0, 1, 2], [3, 4, 5]]


def test_one_worker_is_this_process(describe: Any) -> None:
    assert list(run_calls([describe(np.ones(2), 3)], workers=1)) == [(os.getpid(), "", 6.0)]


def test_workers_are_started_for_long_work_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "get_limit_bytes", lambda: None)
    assert count_workers(5, 0, most=4) == 1
    assert count_workers(100, 0, most=4) == 4
    assert count_workers(100, 0, most=0) == 1


def test_no_more_workers_are_started_than_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "get_resident_bytes", lambda: GIB)
    for limit, expected in ((GIB, 1), (3 * GIB, 2), (9 * GIB, 4)):
        monkeypatch.setattr(workers, "get_limit_bytes", lambda limit=limit: limit)
        assert count_workers(100, GIB // 2, most=4) == expected
