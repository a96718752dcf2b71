"""What processes of one task know of each other, and share."""

import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from torch.distributed import DistBackendError, DistNetworkError, DistStoreError, TCPStore

from support.specs import CLASSICAL, TRANSFORMER, changed
from trainingtask_api import names
from trainingtask_api.reasons import Reason
from trainingtask_api.status import Phase, Source
from trainingtask_api.task import TrainingTask
from trainingtask_trainer.errors import Fault, UserError, diagnose
from trainingtask_trainer.pipeline import train
from trainingtask_trainer.preprocessors.array_cache import load_or_compute
from trainingtask_trainer.reporting.reporter import Reporter
from trainingtask_trainer.reporting.shared_commits import CommitSink, FollowingReporter
from trainingtask_trainer.runtime import rank_store, shared_folder
from trainingtask_trainer.runtime.cgroup import get_cpu_limit, limit_threads
from trainingtask_trainer.runtime.memory import count_oom_kills
from trainingtask_trainer.runtime.processes import Group, Processes, plan_group
from trainingtask_trainer.runtime.rank_store import ENDED_KEY, RankStore
from trainingtask_trainer.runtime.shared_folder import ENV_SHARED_FOLDER, enter_first_in_pod
from trainingtask_trainer.volumes import Volumes

RANKS = [Processes(rank, 2, rank, 2) for rank in (0, 1)]
COMMIT = "c" * 40


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[TCPStore]:
    served = TCPStore("127.0.0.1", 0, is_master=True, timeout=timedelta(seconds=30), wait_for_workers=False)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(served.port))
    return served


def run_beside(function: Callable[[], Any]) -> Callable[[], Any]:
    """Call a function in a thread, and return the function that waits for its result."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()

    def join() -> Any:
        thread.join(60)
        return results[0]

    return join


def test_ranks_meet_and_take_rank_0s_commit(store: TCPStore) -> None:
    field, address = "model.checkpoint", "owner/name"
    follower = FollowingReporter(RANKS[1], [], 1)
    join = run_beside(lambda: (follower.find_commit(field, address), RankStore(RANKS[1]).meet("here")))
    reporter = Reporter([CommitSink(RANKS[0])])
    reporter.report_source(Source(field=field, address=address, commit=COMMIT))
    RankStore(RANKS[0]).meet("here")
    assert join() == (COMMIT, None)


def test_waiting_ends_with_the_processes_of_another_node(store: TCPStore) -> None:
    store.set(ENDED_KEY, "")
    with pytest.raises(Fault, match="another node"):
        RankStore(RANKS[0]).meet("here")


def test_the_rank_that_noticed_no_timeout_is_silent(store: TCPStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_store, "_SILENCE_SECONDS", 0.5)
    assert RankStore(RANKS[0]).find_silent_ranks() == [1]
    assert RankStore(RANKS[1]).find_silent_ranks() == []


def test_the_pods_first_process_prepares_and_the_others_find_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numpy as np

    monkeypatch.setenv(ENV_SHARED_FOLDER, str(tmp_path))
    monkeypatch.setenv("LOCAL_RANK", "0")
    load_or_compute(tmp_path / "cache", "key", ("x",), lambda: {"x": np.ones(3)})
    with enter_first_in_pod("download") as is_first:
        assert is_first
    monkeypatch.setenv("LOCAL_RANK", "1")
    with enter_first_in_pod("download") as is_first:
        assert not is_first
    assert load_or_compute(tmp_path / "cache", "key", ("x",), dict)["x"].sum() == 3


def test_the_others_wait_for_the_pods_first_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENV_SHARED_FOLDER, str(tmp_path))
    monkeypatch.setenv("LOCAL_RANK", "1")
    entered: list[bool] = []

    def enter() -> None:
        with enter_first_in_pod("download") as is_first:
            entered.append(is_first)

    waits = threading.Event()
    sleep = shared_folder.time.sleep
    monkeypatch.setattr(shared_folder.time, "sleep", lambda seconds: (waits.set(), sleep(seconds)))
    join = run_beside(enter)
    assert waits.wait(60)
    assert entered == []
    monkeypatch.setenv("LOCAL_RANK", "0")
    with enter_first_in_pod("download"):
        assert entered == []
    join()
    assert entered == [False]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("[/p/gloo/transport/tcp/pair.cc:545] Read error [127.0.0.1]:27: Connection reset by peer. This is typically caused by"), Reason.PEER_LOST),
        (RuntimeError("[/p/gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 4000ms for recv operation to complete"), Reason.PEER_UNRESPONSIVE),
        (RuntimeError("[enforce fail at /p/gloo/pair.cc:446] op.preamble.length <= op.nbytes. 4 vs 2"), Reason.TRAINER_CRASHED),
        (DistNetworkError("Failed to recv, got 0 bytes. Connection was likely closed."), Reason.PEER_LOST),
        (DistNetworkError("The server socket has failed to listen on any local network address, code: -98, name: EADDRINUSE"), Reason.TRAINER_CRASHED),
        (DistStoreError("wait timeout after 1000ms, keys: /x"), Reason.PEER_UNRESPONSIVE),
        (DistBackendError("NCCL error in: NCCLUtils.hpp:1, remote process exited or there was a network error, NCCL version 2.27"), Reason.PEER_LOST),
        (DistBackendError("NCCL error in: ProcessGroupNCCL.cpp:9, invalid usage, NCCL version 2.27"), Reason.TRAINER_CRASHED),
        (RuntimeError("wires crossed: connection timed out"), Reason.TRAINER_CRASHED),
    ],
)  # fmt: skip
def test_a_failed_collective_is_the_failure_of_a_peer(error: Exception, reason: Reason) -> None:
    assert diagnose(error, Phase.TRAINING).failure.reason == reason


def test_the_cause_of_a_broken_connection_is_one_sentence() -> None:
    error = RuntimeError("[/p/gloo/pair.cc:545] Read error [10.0.0.7]:27: Connection reset by peer. This is typically")
    assert diagnose(error, Phase.TRAINING).failure.message == (
        "Training failed: the connection to a process that trains with this one broke "
        "(Read error [10.0.0.7]:27: Connection reset by peer)"
    )


@pytest.mark.parametrize(
    ("resources", "processes", "environment", "group"),
    [
        ({}, None, {}, Group(1)),
        ({"gpus": 4}, None, {}, Group(4)),
        ({"gpus": 4}, 2, {}, Group(2)),
        ({"gpus": 8, "nodes": 2}, None, {}, Group(8)),  # on a laptop
        ({"gpus": 8, "nodes": 2}, None, {names.ENV_MAIN_ADDRESS: "a", names.ENV_NODE_RANK: "1"}, Group(8, 2, 1, "a")),
        ({"gpus": 1}, None, {names.ENV_NODE_RANK: "0"}, Group(1)),
    ],
)
def test_a_process_per_gpu_of_each_node(
    make_task: Callable[..., TrainingTask],
    resources: dict[str, int],
    processes: int | None,
    environment: dict[str, str],
    group: Group,
) -> None:
    spec = make_task(changed(TRANSFORMER, device="gpu", resources=resources)).spec
    assert plan_group(spec, processes, environment) == group


def test_the_cores_are_divided_among_the_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    assert limit_threads(1000) == 1
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert limit_threads() == get_cpu_limit()


@pytest.mark.parametrize("file", ["memory.events", "memory/memory.oom_control"])
def test_kills_for_memory_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str) -> None:
    from trainingtask_trainer.runtime import memory

    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "cgroup").write_text("4:memory:/not/there\n0::/own/group\n")
    monkeypatch.setattr(memory, "_PROC", tmp_path / "proc")
    assert count_oom_kills(tmp_path) == 0
    (tmp_path / "memory").mkdir()
    (tmp_path / file).write_text("oom 5\nunder_oom 0\noom_kill 2\n")
    assert count_oom_kills(tmp_path) == 2


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        (
            CLASSICAL,
            "model.name 'logistic_regression' trains in one process, and the task has 2: remove resources.gpus",
        ),
        (changed(TRANSFORMER, training={"loop": "trainer"}), "training.loop 'trainer' trains in one process, not in 2"),
    ],
)
def test_processes_that_a_task_cannot_use_are_refused_first(
    make_task: Callable[..., TrainingTask], volumes: Volumes, spec: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError) as caught:
        train(make_task(spec), volumes, Reporter([]), RANKS[1])
    assert caught.value.message.startswith(sentence)
