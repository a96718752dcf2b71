"""A training that was stopped goes on from its last checkpoint and ends with the same numbers."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from accelerate.state import AcceleratorState
from safetensors.numpy import load_file, save_file

from support.fine_tuning import LABELS, Run, assert_same_numbers, fit, open_checkpoints, spec, stop_at
from trainingtask_trainer.__main__ import main
from trainingtask_trainer.errors import Interrupted
from trainingtask_trainer.models.transformers import memory_budget, training_state
from trainingtask_trainer.models.transformers.checkpointing import CHECKPOINT_MANIFEST, CheckpointStore
from trainingtask_trainer.models.transformers.memory_budget import MemoryPlan
from trainingtask_trainer.reporting.progress import Step
from trainingtask_trainer.reporting.reporter import Reporter
from trainingtask_trainer.runtime import signals
from trainingtask_trainer.runtime.signals import InterruptHandler, defer_interrupts
from trainingtask_trainer.storage.claim_folder import ClaimFolder

LOOPS = ("accelerate", "trainer")
STEPS = 21  # three epochs of seven
STOPS = [0, *random.Random(4).sample(range(1, STEPS), 4), 7]
# Steps between checkpoints, the step of the kill, and the one that the training goes on from.
KILLS = [(5, 12, 10), (None, 12, 7), (None, 6, None), (5, 4, None)]


class Killed(BaseException):
    """What SIGKILL leaves behind: nothing more than there was."""


def long(loop: str, **training: Any) -> dict[str, Any]:
    return spec(epochs=3, loop=loop, scheduler="cosine", warmupFraction=0.1, layerDecay=0.8, **training)


@cache
def uninterrupted(loop: str, models: Path) -> Run:
    return fit(long(loop), models)


@pytest.fixture
def falling_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the first epoch the best: its weights have to get across the interruption."""
    monkeypatch.setattr(training_state, "mean_average_precision", lambda *_: None)
    losses = {7: 0.1, 14: 0.2, 21: 0.3}

    def score(self: training_state.TrainingSession) -> None:
        monkeypatch.setattr(training_state, "binary_cross_entropy", lambda *_: losses[self.state.step])
        end_epoch(self)

    end_epoch = training_state.TrainingSession._validate_epoch
    monkeypatch.setattr(training_state.TrainingSession, "_validate_epoch", score)


@pytest.mark.parametrize(
    ("loop", "step"),
    [
        *(("accelerate", step) for step in STOPS),
        *(("trainer", step) for step in STOPS[:2]),
        *(pytest.param("trainer", step, marks=pytest.mark.full) for step in STOPS[2:]),
    ],
)
def test_stopped_at_any_step(tiny_models: Path, tmp_path: Path, loop: str, step: int) -> None:
    whole = uninterrupted(loop, tiny_models)
    with pytest.raises(Interrupted):
        fit(long(loop), tiny_models, progress=stop_at(step, Interrupted("SIGTERM")), checkpoints=tmp_path)
    reported: list[Step] = []
    resumed = fit(long(loop), tiny_models, progress=reported.append, checkpoints=tmp_path)
    assert_same_numbers(resumed, whole)
    expected = step or None  # before the first step there is nothing to keep
    assert resumed.fitted.resumed_from_step == expected
    assert {step.resumed_from for step in reported} == {expected}
    assert (reported[0].step, reported[0].rows) == (step, whole.fitted.rows_seen - resumed.fitted.rows_seen)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.usefixtures("falling_scores")
def test_the_best_weights_come_from_before_the_stop(tiny_models: Path, tmp_path: Path, loop: str) -> None:
    whole = fit(long(loop), tiny_models)
    assert whole.fitted.best_epoch == 1
    with pytest.raises(Interrupted):
        fit(long(loop), tiny_models, progress=stop_at(16, Interrupted("SIGTERM")), checkpoints=tmp_path)
    assert_same_numbers(fit(long(loop), tiny_models, checkpoints=tmp_path), whole)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("step", [7, 21])
def test_stopped_while_validating(tiny_models: Path, tmp_path: Path, loop: str, step: int) -> None:
    whole = uninterrupted(loop, tiny_models)
    with pytest.raises(Interrupted):
        fit(long(loop), tiny_models, progress=stop_at(step, Interrupted("SIGTERM"), 2), checkpoints=tmp_path)
    resumed = fit(long(loop), tiny_models, checkpoints=tmp_path)
    assert_same_numbers(resumed, whole)
    assert resumed.fitted.resumed_from_step == step


@pytest.mark.parametrize(
    ("loop", "checkpoint_steps", "killed", "resumed_from"),
    [
        *(("accelerate", *kill) for kill in KILLS),
        ("trainer", *KILLS[0]),
        *(pytest.param("trainer", *kill, marks=pytest.mark.full) for kill in KILLS[1:]),
    ],
)
def test_killed_without_a_word(
    tiny_models: Path, tmp_path: Path, loop: str, checkpoint_steps: int | None, killed: int, resumed_from: int | None
) -> None:
    task = long(loop, checkpointSteps=checkpoint_steps, gradientAccumulationSteps=1, precision="bf16")
    whole = fit(task, tiny_models)
    with pytest.raises(Killed):
        fit(task, tiny_models, progress=stop_at(killed, Killed()), checkpoints=tmp_path)
    resumed = fit(task, tiny_models, checkpoints=tmp_path)
    assert resumed.fitted.resumed_from_step == resumed_from
    assert_same_numbers(resumed, whole)


@pytest.mark.parametrize("loop", LOOPS)
def test_more_memory_in_the_next_attempt_changes_no_number(
    tiny_models: Path, tmp_path: Path, loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bound_micro_batches(tokens: int) -> None:
        monkeypatch.setattr(memory_budget, "plan_memory", lambda *_: MemoryPlan(tokens, is_best_on_disk=False))

    bound_micro_batches(30)
    whole = fit(long(loop), tiny_models)
    with pytest.raises(Interrupted):
        fit(long(loop), tiny_models, progress=stop_at(9, Interrupted("SIGTERM")), checkpoints=tmp_path)
    bound_micro_batches(40)
    resumed = fit(long(loop), tiny_models, checkpoints=tmp_path)
    assert resumed.fitted.resumed_from_step == 9
    assert_same_numbers(resumed, whole)


@pytest.mark.parametrize("loop", LOOPS)
def test_weights_that_the_pretrained_file_calls_otherwise(tiny_models: Path, tmp_path: Path, loop: str) -> None:
    # As in google-bert/bert-base-uncased.
    old_names = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    shutil.copytree(tiny_models / "bert", tmp_path / "bert")
    weights = load_file(tmp_path / "bert" / "model.safetensors")
    for new, old in old_names.items():
        weights = {name.replace(new, old): weight for name, weight in weights.items()}
    save_file(weights, tmp_path / "bert" / "model.safetensors", {"format": "pt"})
    whole = fit(long(loop), tmp_path)
    with pytest.raises(Interrupted):
        fit(long(loop), tmp_path, progress=stop_at(9, Interrupted("SIGTERM")), checkpoints=tmp_path / "kept")
    resumed = fit(long(loop), tmp_path, checkpoints=tmp_path / "kept")
    assert resumed.fitted.resumed_from_step == 9
    assert_same_numbers(resumed, whole)


@pytest.mark.parametrize("loop", LOOPS)
def test_stopped_again_and_again(tiny_models: Path, tmp_path: Path, loop: str) -> None:
    whole = fit(long(loop, earlyStoppingPatience=1), tiny_models)
    for step in range(1, whole.fitted.global_step + 1, 3):
        with pytest.raises(Interrupted):
            fit(
                long(loop, earlyStoppingPatience=1),
                tiny_models,
                progress=stop_at(step, Interrupted("SIGTERM")),
                checkpoints=tmp_path,
            )
        assert sorted(path.name for path in tmp_path.glob("step-*")) == [f"step-{step}"]
    assert_same_numbers(fit(long(loop, earlyStoppingPatience=1), tiny_models, checkpoints=tmp_path), whole)


def test_a_finished_training_is_not_trained_again(tiny_models: Path, tmp_path: Path) -> None:
    whole = fit(long("trainer"), tiny_models, checkpoints=tmp_path)
    again = fit(long("trainer"), tiny_models, checkpoints=tmp_path)
    assert_same_numbers(again, whole)
    assert (again.fitted.resumed_from_step, again.fitted.rows_seen) == (STEPS, 0)
    for _ in range(2):
        open_checkpoints(tmp_path).delete(CHECKPOINT_MANIFEST)
        assert not tmp_path.exists()


@pytest.mark.parametrize(
    "other",
    [{"learningRate": 0.02}, {"seed": 1}, {"loop": "trainer"}, {"posWeight": "balanced"}, {"batching": "length_grouped"}],
)  # fmt: skip
def test_a_checkpoint_of_another_spec_is_left_alone(tiny_models: Path, tmp_path: Path, other: dict[str, Any]) -> None:
    fit(spec(epochs=1), tiny_models, checkpoints=tmp_path)
    run = fit(spec(epochs=1, **other), tiny_models, checkpoints=tmp_path)
    assert run.fitted.resumed_from_step is None
    # The folder now is the other one's.
    assert fit(spec(epochs=1, **other), tiny_models, checkpoints=tmp_path).fitted.resumed_from_step == 7


def test_a_checkpoint_of_other_labels_is_left_alone(tiny_models: Path, tmp_path: Path) -> None:
    fit(spec(epochs=1), tiny_models, checkpoints=tmp_path)
    labels = LABELS.copy()
    labels[3, 2] = 1
    assert fit(spec(epochs=1), tiny_models, labels=labels, checkpoints=tmp_path).fitted.resumed_from_step is None


@pytest.fixture
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch")


def store_file(checkpoints: CheckpointStore, step: int, content: str) -> None:
    with checkpoints.write(step, {"step": step}) as partial:
        assert list(partial.iterdir()) == []
        (partial / "weights").write_text(content)


def test_a_half_written_checkpoint_is_never_taken(tmp_path: Path, scratch: Path) -> None:
    store = open_checkpoints(tmp_path / "uid")
    checkpoints = CheckpointStore(store, "key", scratch)
    assert checkpoints.find_last() is None
    store_file(checkpoints, 3, "3")

    def write_and_die() -> None:
        with checkpoints.write(5, {"step": 5}) as partial:
            (partial / "weights").write_text("5, or a part of it")
            raise Killed

    with pytest.raises(Killed):
        write_and_die()
    (tmp_path / "uid" / "step-9").mkdir()  # killed while it was stored
    (tmp_path / "uid" / "step-9" / "weights").touch()
    last = checkpoints.find_last()
    assert last is not None
    assert (last.state, (last.folder / "weights").read_text()) == ({"step": 3}, "3")
    assert CheckpointStore(store, "other key", scratch).find_last() is None
    store_file(checkpoints, 9, "9")
    assert [path.name for path in (tmp_path / "uid").iterdir()] == ["step-9"]


@pytest.mark.parametrize("left", [None, "1"])
def test_a_checkpoint_that_lost_a_file_is_not_taken(tmp_path: Path, scratch: Path, left: str | None) -> None:
    checkpoints = CheckpointStore(open_checkpoints(tmp_path), "key", scratch)
    store_file(checkpoints, 3, "3")
    earlier = tmp_path / "step-3"
    kept = shutil.copytree(earlier, scratch / "kept")
    store_file(checkpoints, 9, "nine")
    shutil.copytree(kept, earlier)
    weights = tmp_path / "step-9" / "weights"  # which an attempt on a node that was lost deletes
    weights.unlink() if left is None else weights.write_text(left)
    last = checkpoints.find_last()
    assert last is not None
    assert last.state == {"step": 3}


def test_a_step_that_is_written_again_is_never_missing(
    tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = CheckpointStore(open_checkpoints(tmp_path), "key", scratch)
    store_file(checkpoints, 3, "first")
    upload = ClaimFolder.upload

    def die_at_the_manifest(self: ClaimFolder, file: Path, name: str) -> None:
        if name.endswith(CHECKPOINT_MANIFEST):
            raise Killed
        upload(self, file, name)

    with monkeypatch.context() as patch:
        patch.setattr(ClaimFolder, "upload", die_at_the_manifest)
        with pytest.raises(Killed):
            store_file(checkpoints, 3, "half of the second")
    for expected in ("first", "second"):
        last = checkpoints.find_last()
        assert last is not None
        assert (last.folder / "weights").read_text() == expected
        store_file(checkpoints, 3, "second")
    assert len(list(tmp_path.iterdir())) == 1


def test_a_signal_waits_for_the_next_check() -> None:
    with InterruptHandler() as signals, defer_interrupts():
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted, match="SIGTERM"):
            signals.raise_if_received()


def test_a_signal_does_not_wait_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "_DEFER_SECONDS", 0.05)

    def step_without_end() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        while True:
            signal.pause()

    with InterruptHandler(), defer_interrupts(), pytest.raises(Interrupted, match="SIGTERM"):
        step_without_end()


# The trainer as a pod starts it, which is killed as it tells of a step.
KILLED = """
import os, signal, sys
from trainingtask_trainer.__main__ import main
from trainingtask_trainer.reporting.reporter import Reporter
Reporter.report_step = lambda self, step: step.step == int(sys.argv[1]) and os.kill(os.getpid(), signal.SIGKILL)
main(sys.argv[2:])
"""


def test_a_process_that_is_killed_and_one_that_is_told_to_stop(
    tmp_path: Path, tiny_models: Path, write_task: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    every = 3
    task = {
        "dataset": {"name": "support_tickets", "sampleSize": 60},
        "model": {"name": "distilbert", "volumeClaim": "models", "checkpoint": "distilbert"},
        "training": {"epochs": 3, "batchSize": 4, "checkpointSteps": every, "learningRate": 1e-3},
        "output": {"volumeClaim": "models"},
    }
    path = write_task(task, "killed")
    checkpoints = tmp_path / "stopped" / ".trainingtask" / "checkpoints" / "killed"
    killed, reported = sorted(random.Random(4).sample(range(every + 1, 34), 2))  # of 36 or so

    def arguments(output: str) -> list[str]:
        history = f"--history=sqlite:///{tmp_path / 'history.db'}"
        return ["run", str(path), f"--model-dir={tiny_models}", f"--output-dir={tmp_path / output}", history]

    def run(output: str) -> int:
        AcceleratorState._reset_state(reset_partial_state=True)  # a process trains once, outside tests
        return main(arguments(output))

    def results(output: str) -> dict[str, Any]:
        assert run(output) == 0
        found: dict[str, Any] = json.loads((tmp_path / output / "killed" / "results.json").read_text())
        return found

    command = [sys.executable, "-c", KILLED, str(killed), *arguments("stopped")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    # It had no time for another checkpoint. SIGTERM gives some.
    kept = (killed - 1) // every * every
    assert [folder.name for folder in checkpoints.glob("step-*")] == [f"step-{kept}"]
    tell = Reporter.report_step

    def step(self: Reporter, now: Step) -> None:
        if now.step == reported:
            os.kill(os.getpid(), signal.SIGTERM)
        tell(self, now)

    with monkeypatch.context() as patch:
        patch.setattr(Reporter, "report_step", step)
        assert run("stopped") == 128 + signal.SIGTERM
    resumed = results("stopped")
    assert resumed["resumedFromStep"] == reported
    assert not checkpoints.exists()

    whole = results("whole")
    for found in (whole, resumed):
        found.pop("resumedFromStep", None)
        for part in (found, found["evaluation"]):
            for name in ("runtimeSeconds", "samplesPerSecond", "tokensPerSecond", "peakMemoryBytes"):
                part.pop(name, None)
    assert resumed == whole
