"""A task of two processes, as a person and a pod run it: real processes, which meet over gloo."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.ports import free_port
from support.specs import CLASSICAL, changed
from trainingtask_api import names

CODE = Path(__file__).parents[3] / "support" / "code"
TIMEOUT = 300
# The port is that of a pod, which has an address of its own.
COMMAND = """
import os, sys
from trainingtask_api import names
names.MAIN_PORT = int(os.environ.get("PORT", 0))
from trainingtask_trainer.__main__ import main
sys.exit(main())
"""
MANY_STEPS = "1000000"


@pytest.fixture
def start(tmp_path: Path, write_task: Callable[..., Path]) -> Iterator[Callable[..., "Run"]]:
    runs: list[Run] = []

    def start_run(log: str = "log", nodes: int = 1, processes: int = 2, **environment: str) -> Run:
        spec = changed(
            CLASSICAL,
            model__name="collective_model:Collective",
            output__volumeClaim="models",
            resources__nodes=nodes,
        )
        task = write_task(spec)
        if nodes > 1:  # the nodes of a task know each other by its uid
            content = yaml.safe_load(task.read_text())
            content["metadata"]["uid"] = "6f1b7f5e-0000-4000-8000-000000000000"
            task.write_text(yaml.safe_dump(content))
        runs.append(Run(tmp_path, log, [str(task), "--processes", str(processes)], environment))
        return runs[-1]

    yield start_run
    for run in runs:
        run.close()


class Run:
    """A launcher with two workers."""

    def __init__(self, folder: Path, log: str, arguments: list[str], environment: dict[str, str]) -> None:
        self.folder = folder
        self._log = folder / log
        with self._log.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-c", COMMAND, "run", *arguments, "--code-dir", str(CODE)],
                cwd=folder,
                env=os.environ | {"FOLDER": str(folder)} | environment,
                stdout=subprocess.DEVNULL,
                stderr=file,
            )

    def signal_rank(self, rank: int, number: signal.Signals) -> int:
        """Send a signal to a worker in the middle of its training, and return its process id."""
        pid = int(self.wait_for(self.folder / f"pid-{rank}").read_text())
        os.kill(pid, number)
        return pid

    def wait_for(self, path: Path) -> Path:
        """Wait until a file is there."""
        self._wait_until(path.exists)
        return path

    def _wait_until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + TIMEOUT
        while not condition():
            assert self.process.poll() is None, self.read_log()
            assert time.monotonic() < deadline, self.read_log()
            time.sleep(0.05)

    def wait_for_end_of(self, pid: int) -> None:
        """Wait until a worker is gone."""
        self._wait_until(lambda: not Path(f"/proc/{pid}").exists())

    def end(self) -> tuple[int, dict[str, Any], str]:
        """Wait for the end, and return the exit code, the row of the history and the log."""
        code = self.process.wait(TIMEOUT)
        connection = sqlite3.connect(self.folder / "trainingtask-history.db")
        connection.row_factory = sqlite3.Row
        [row] = connection.execute("SELECT * FROM training_run").fetchall()
        connection.close()
        return code, dict(row), self.read_log()

    def read_log(self) -> str:
        return self._log.read_text()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(TIMEOUT)


Start = Callable[..., Run]


def test_two_processes_train_and_rank_0_alone_reports(start: Start, tmp_path: Path) -> None:
    code, row, log = start().end()
    assert code == 0, log
    assert (row["status"], row["step"]) == ("Succeeded", 5)
    assert log.count("Training") == 1
    assert "[rank 0] Training" in log
    results = json.loads((tmp_path / "out" / "a-task" / "results.json").read_text())
    assert results["globalStep"] == 5


def test_a_users_mistake_in_one_rank_ends_with_64(start: Start) -> None:
    code, row, log = start(FAULT="user-error 1").end()
    assert code == 64, log
    assert (row["status"], row["error_reason"]) == ("Failed", "InvalidData")
    assert row["error_message"].startswith("Loading failed: row 7 has no text")
    assert log.splitlines()[-1] == f"InvalidData: {row['error_message']}"


def test_an_exception_in_one_rank_is_the_failure_of_all(start: Start) -> None:
    code, row, log = start(FAULT="crash 1").end()
    assert code == 1, log
    assert row["error_reason"] == "TrainerCrashed"
    assert row["error_message"] == "Training failed: RuntimeError: wires crossed (rank 1)"
    assert "Traceback" in log
    assert row["step"] is not None  # what rank 0 had reported stays


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.full), 1])
def test_a_killed_rank_is_named(start: Start, rank: int) -> None:
    run = start(STEPS=MANY_STEPS)
    run.signal_rank(rank, signal.SIGKILL)
    code, row, log = run.end()
    assert code == 1, log
    assert row["error_reason"] == "TrainerCrashed"
    assert row["error_message"].startswith("Training failed: the process was killed by signal 9 (SIGKILL)")
    assert row["error_message"].endswith(f" (rank {rank})")


def test_a_stopped_rank_ends_the_attempt_and_is_named(start: Start) -> None:
    run = start(STEPS=MANY_STEPS, STEP_TIMEOUT="20")
    other = int(run.wait_for(run.folder / "pid-0").read_text())
    stopped = run.signal_rank(1, signal.SIGSTOP)
    run.wait_for_end_of(other)
    os.kill(stopped, signal.SIGCONT)  # the agent kills it after 30 s
    code, row, log = run.end()
    assert code == 1, log
    assert row["error_reason"] == "PeerUnresponsive"
    assert "rank 1 did not arrive" in row["error_message"]


def test_sigterm_to_the_launcher_interrupts_all_ranks(start: Start) -> None:
    run = start(STEPS=MANY_STEPS)
    run.wait_for(run.folder / "pid-0")
    run.process.send_signal(signal.SIGTERM)
    code, row, log = run.end()
    assert code == 143, log
    assert (row["status"], row["finish_time"]) == ("Interrupted", None)
    assert row["error_message"] == "Training was interrupted by SIGTERM"


def test_all_nodes_end_with_a_users_mistake_on_one(start: Start) -> None:
    nodes = {names.ENV_MAIN_ADDRESS: "127.0.0.1", "PORT": str(free_port()), "FAULT": "user-error 1"}
    second = start("second", nodes=2, processes=1, **nodes, **{names.ENV_NODE_RANK: "1"})
    code, row, log = start("first", nodes=2, processes=1, **nodes, **{names.ENV_NODE_RANK: "0"}).end()
    assert code == 64, log
    assert (row["error_reason"], row["error_message"].partition(";")[0]) == (
        "InvalidData",
        "Loading failed: row 7 has no text",
    )
    assert second.process.wait(TIMEOUT) == 64, second.read_log()
