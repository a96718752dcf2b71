"""Small parts: errors, thread counts, task files, folders."""

import errno
import math
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest

from support.specs import CLASSICAL
from trainingtask_api.reasons import Reason
from trainingtask_api.scores import EvaluationResult
from trainingtask_api.status import ExitCode, Phase, Results
from trainingtask_trainer.artifacts.provenance import check_finite
from trainingtask_trainer.errors import CustomReason, Fault, Interrupted, UserError, diagnose
from trainingtask_trainer.manifest import read_task
from trainingtask_trainer.runtime.cgroup import get_cpu_limit
from trainingtask_trainer.runtime.import_guard import block_import
from trainingtask_trainer.volumes import describe_contents


@pytest.mark.parametrize(
    ("error", "code", "reason", "sentence"),
    [
        (UserError(Reason.INVALID_DATA, "no rows"), 64, "InvalidData", "Loading failed: no rows"),
        (UserError(CustomReason("TooFewRows"), "no rows"), 64, "TooFewRows", "Loading failed: no rows"),
        (Fault(Reason.NO_GPU, "no GPU"), 1, "NoGPU", "Loading failed: no GPU"),
        (Interrupted("SIGTERM"), 143, "Interrupted", "Loading was interrupted by SIGTERM"),
        (MemoryError("big"), 1, "OutOfMemory", "Loading failed: not enough memory (big): raise resources.memory"),
        (OSError(errno.ENOSPC, "full", "/mnt/output/x"), 1, "NoSpaceLeft", "Loading failed: no space left on the"),
        (KeyError("x"), 1, "TrainerCrashed", "Loading failed: KeyError: 'x'"),
        (UserError(Reason.INVALID_DATA, "one\n  two"), 64, "InvalidData", "Loading failed: one two"),
        (ValueError(), 1, "TrainerCrashed", "Loading failed: ValueError: no message"),
    ],
)
def test_every_error_becomes_a_code_a_reason_and_a_sentence(
    error: BaseException, code: int, reason: str, sentence: str
) -> None:
    exit_code, failure = diagnose(error, Phase.LOADING)
    assert (exit_code, failure.reason, failure.phase) == (code, reason, Phase.LOADING)
    assert failure.message.startswith(sentence)


def test_torchs_memory_errors_are_recognised() -> None:
    import torch

    for error in (torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("x: can't allocate memory: y")):
        assert diagnose(error, Phase.TRAINING).failure.reason == "OutOfMemory"
    assert diagnose(RuntimeError("shapes differ"), Phase.TRAINING).failure.reason == "TrainerCrashed"


def test_a_long_sentence_fits_the_contract() -> None:
    assert diagnose(UserError(Reason.INVALID_DATA, "x" * 9999), Phase.LOADING).exit_code == ExitCode.USER_ERROR


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "100000 100000\n"}, 1),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "max 100000\n"}, 8),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
        ({}, 8),
    ],
)
def test_cpu_limit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, files: dict[str, str], cores: int) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    (tmp_path / "cpu").mkdir()
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    assert get_cpu_limit(tmp_path) == cores


def test_task_among_other_manifests(tmp_path: Path) -> None:
    example = Path(__file__).parents[3] / "examples" / "quickstart.yaml"
    assert read_task(example).metadata.name == "quickstart"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("kind: PersistentVolumeClaim\n", "holds 0 objects of kind TrainingTask, expected one"),
        ("{kind: TrainingTask}\n---\n{kind: TrainingTask}\n", "holds 2 objects of kind TrainingTask"),
        ("a: [1\n", "is not YAML"),
        ("day: 2026-02-30\n", r"has a date or a number that is none \(day is out of range for month\): quote it, or"),
    ],
)
def test_bad_task_files_are_refused(tmp_path: Path, content: str, sentence: str) -> None:
    (tmp_path / "task.yaml").write_text(content)
    with pytest.raises(UserError, match=sentence):
        read_task(tmp_path / "task.yaml")


def test_status_of_another_version_is_ignored(tmp_path: Path, write_task: Callable[..., Path]) -> None:
    path = write_task(CLASSICAL)
    path.write_text(path.read_text() + "status:\n  fromTheFuture: true\n")
    assert read_task(path).status is None


def test_an_import_can_be_left_out() -> None:
    sys.modules.pop("this", None)
    with block_import("this"), pytest.raises(ImportError):
        import_module("this")
    assert "this" not in sys.modules
    with block_import("math"):
        assert import_module("math") is math


def test_contents_are_cut_for_a_sentence(tmp_path: Path) -> None:
    assert describe_contents(tmp_path) == "nothing"
    for number in range(12):
        (tmp_path / f"{number:02}").touch()
    assert describe_contents(tmp_path, limit=2) == "00, 01 and 10 more"


def test_results_that_are_no_numbers_are_refused() -> None:
    # model_construct: the other fields do not matter here, the number in its depth does.
    evaluation = EvaluationResult.model_construct(loss=math.nan)
    with pytest.raises(UserError, match=r"results.evaluation.loss is nan") as caught:
        check_finite(Results.model_construct(evaluation=evaluation))
    assert caught.value.reason == "NonFiniteLoss"
