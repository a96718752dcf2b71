"""Real models in two processes: what one process starts, interrupts and finishes, two do as well."""

import glob
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.specs import CLASSICAL, changed

TIMEOUT = 500
TICKETS = changed(
    CLASSICAL,
    dataset__sampleSize=200,
    model={"name": "bert", "checkpoint": "bert", "volumeClaim": "models"},
    preprocessor={"maxLength": 32},
    training={"epochs": 20, "batchSize": 16, "seed": 1},
    output={"volumeClaim": "models"},
)
EMBEDDED = changed(
    CLASSICAL,
    dataset__sampleSize=300,
    preprocessor={"name": "embedding", "checkpoint": "bert", "volumeClaim": "models", "maxLength": 32},
    output={"volumeClaim": "models"},
)


class Runner:
    """Runs a task, and reads its results."""

    def __init__(self, root: Path, models: Path, task: Path) -> None:
        self._root = root
        self._models = models
        self._task = task

    def start(self, processes: int, output: str) -> subprocess.Popen[bytes]:
        folder = self._root / output
        folder.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "trainingtask_trainer", "run", str(self._task), f"--processes={processes}"]
        claims = [f"--model-dir={self._models}", f"--preprocessor-dir={self._models}", f"--output-dir={folder}"]
        with (folder / "log").open("w") as log:
            return subprocess.Popen([*command, *claims], cwd=folder, stdout=subprocess.DEVNULL, stderr=log)

    def read_log(self, output: str) -> str:
        return (self._root / output / "log").read_text()

    def read_results(self, output: str) -> Any:
        return json.loads((self._root / output / "a-task" / "results.json").read_text())

    def run(self, processes: int, output: str) -> Any:
        assert self.start(processes, output).wait(TIMEOUT) == 0, self.read_log(output)
        return self.read_results(output)

    def interrupt_training(self, processes: int, output: str) -> int:
        """Send SIGTERM to the launcher after its first checkpoint, and return its exit code."""
        process = self.start(processes, output)
        deadline = time.monotonic() + TIMEOUT
        # The module's function, for it tolerates a folder that is deleted meanwhile, as a first one is to try the place.
        steps = str(self._root / output / ".trainingtask" / "checkpoints" / "*" / "step-*")
        while not glob.glob(steps) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        return process.wait(TIMEOUT)


@pytest.fixture
def create_runner(tmp_path: Path, tiny_models: Path, write_task: Callable[..., Path]) -> Callable[..., Runner]:
    return lambda spec: Runner(tmp_path, tiny_models, write_task(spec))


def test_two_processes_interrupted_and_resumed_train_what_one_trains(create_runner: Callable[..., Runner]) -> None:
    runner = create_runner(TICKETS)
    assert runner.interrupt_training(2, "two") == 143, runner.read_log("two")
    assert runner.read_log("two").splitlines()[-1] == "Interrupted: Training was interrupted by SIGTERM"

    two = runner.run(2, "two")
    one = runner.run(1, "one")
    assert two["resumedFromStep"] > 0
    assert (two["worldSize"], one["worldSize"]) == (2, 1)
    assert 0 < two["scalingEfficiency"] <= 1
    assert two["globalStep"] == one["globalStep"]
    assert two["evaluation"]["rows"] == one["evaluation"]["rows"]


def test_two_processes_embed_what_one_embeds(create_runner: Callable[..., Runner]) -> None:
    runner = create_runner(EMBEDDED)
    one, two = runner.run(1, "one"), runner.run(2, "two")
    assert two["worldSize"] == 2
    assert two["evaluation"]["micro"] == pytest.approx(one["evaluation"]["micro"], abs=1e-4)
    assert two["trainingLoss"] == pytest.approx(one["trainingLoss"], rel=1e-4)
