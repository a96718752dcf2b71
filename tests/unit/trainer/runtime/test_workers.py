import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from scipy.sparse import csr_matrix

from support import worker_calls
from trainingtask_trainer.runtime import workers
from trainingtask_trainer.runtime.workers import WorkerKilledError, count_workers, run_calls

GIB = 1 << 30


def list_workers() -> set[psutil.Process]:
    """Return the processes of Python that this one has started, without its tracker of shared memory, which ends with it.

    Others come and go: the Postgres of other tests has children of its own.
    """
    found = set()
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it has ended since
            if child.name().startswith("python") and "resource_tracker" not in " ".join(child.cmdline()):
                found.add(child)
    return found


def test_workers_map_an_array_from_the_scratch_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    function = partial(worker_calls.describe, np.ones((1 << 9, 1 << 9)).T)
    found = list(run_calls(function, range(4), workers=2))
    assert os.getpid() not in {each.process for each in found}
    [file] = {each.file for each in found}
    assert Path(file.removesuffix(" (deleted)")).is_relative_to(tmp_path)  # not /dev/shm, which is small in a pod
    assert [each.total for each in found] == [factor * float(1 << 18) for factor in range(4)]
    assert list(tmp_path.iterdir()) == []


def test_workers_are_forked_by_a_process_of_one_thread() -> None:
    found = list(run_calls(partial(worker_calls.describe, np.ones(2)), range(2), workers=2))
    assert {each.threads_of_parent for each in found} == {1}


def test_moved_features_are_in_memory_once_and_outlive_their_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    features = csr_matrix(np.arange(6.0).reshape(2, 3))
    with closing(run_calls(partial(worker_calls.describe, features.data), [1] * 2, 2, moved=features)) as calls:
        [file] = {worker_calls.find_mapped_file(features.data) for _ in calls}
    assert Path(file).is_relative_to(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert features.toarray().tolist() == [[0, 1, 2], [3, 4, 5]]


def test_one_worker_is_this_process() -> None:
    [found] = run_calls(partial(worker_calls.describe, np.ones(2)), [3], workers=1)
    assert found[:3] == (os.getpid(), "", 6.0)


def test_this_process_joins_in_until_the_workers_have_started() -> None:
    function = partial(worker_calls.describe, np.ones(2))
    found = list(run_calls(function, range(2000), workers=2, joins_in=True))
    assert [each.total for each in found] == [2.0 * factor for factor in range(2000)]
    assert found[2].process == os.getpid()
    assert os.getpid() not in {found[0].process, found[1].process}


def test_this_process_begins_no_call_later_than_workers_take_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_JOIN_SECONDS", 0.0)
    found = list(run_calls(partial(worker_calls.describe, np.ones(2)), range(8), workers=2, joins_in=True))
    assert os.getpid() not in {each.process for each in found}


def test_results_keep_their_order_and_few_wait_for_a_slow_one(tmp_path: Path) -> None:
    given: list[int] = []

    def give() -> Iterator[int]:
        for number in range(12):
            given.append(number)
            yield number

    results = run_calls(partial(worker_calls.wait_for_last, tmp_path, 7), give(), workers=2)
    assert next(results) == 0
    assert len(given) <= 8
    assert list(results) == list(range(1, 12))


def test_a_worker_that_is_killed_is_told() -> None:
    before = list_workers()
    with pytest.raises(WorkerKilledError, match="was killed"):
        list(run_calls(worker_calls.kill_process, range(8), workers=2))
    assert list_workers() <= before


def test_an_error_of_a_worker_is_raised_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = list_workers()
    with pytest.raises(ZeroDivisionError, match="as asked") as caught:
        list(run_calls(worker_calls.fail, [0], workers=2))
    assert "worker_calls.py" in caught.value.__notes__[0]
    with pytest.raises(RuntimeError, match="StubbornError: number 1"):
        list(run_calls(worker_calls.fail, [1], workers=2))
    assert list_workers() <= before
    assert list(tmp_path.iterdir()) == []


def test_workers_end_with_a_killed_trainer() -> None:
    program = "import sys; sys.path.append(sys.argv[1])\nfrom support.worker_calls import print_process\n"
    program += "from trainingtask_trainer.runtime.workers import run_calls\n"
    program += "list(run_calls(print_process, range(2), workers=2))"
    folder = str(Path(worker_calls.__file__).parents[1])
    with subprocess.Popen([sys.executable, "-c", program, folder], stdout=subprocess.PIPE, text=True) as trainer:
        assert trainer.stdout is not None
        lines: list[Any] = [trainer.stdout.readline().split() for _ in range(2)]
        processes = [psutil.Process(int(pid)) for pid in {pid for line in lines for pid in line}]
        assert len(processes) == 3
        trainer.kill()
        _, alive = psutil.wait_procs(processes, timeout=120)
        assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []


def test_workers_are_started_for_long_work_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "get_limit_bytes", lambda: None)
    assert count_workers(5, 0, most=4) == 1
    assert count_workers(100, 0, most=4) == 4
    assert count_workers(100, 0, most=0) == 1


def test_no_more_workers_are_started_than_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "get_resident_bytes", lambda: GIB)
    for limit, expected in ((GIB, 1), (GIB + GIB // 16, 1), (3 * GIB, 2), (9 * GIB, 4)):
        monkeypatch.setattr(workers, "get_limit_bytes", lambda limit=limit: limit)
        assert count_workers(100, GIB // 2, most=4) == expected
