"""Small parts: errors, thread counts, the registry, task files, saved folders."""

import errno
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from specs import CLASSICAL
from trainingtask_api.status import EvaluationResult, ExitCode, Phase, Results
from trainingtask_trainer import registry
from trainingtask_trainer.cpus import cpu_limit
from trainingtask_trainer.errors import Fault, Interrupted, UserError, diagnose
from trainingtask_trainer.places import contents
from trainingtask_trainer.record import require_finite
from trainingtask_trainer.saved import Card, check_output, save
from trainingtask_trainer.taskfile import read_task


@pytest.mark.parametrize(
    ("error", "code", "reason", "sentence"),
    [
        (UserError("InvalidData", "no rows"), 64, "InvalidData", "Loading failed: no rows"),
        (Fault("NoGPU", "no GPU"), 1, "NoGPU", "Loading failed: no GPU"),
        (Interrupted("SIGTERM"), 143, "Interrupted", "Loading was interrupted by SIGTERM"),
        (MemoryError("big"), 1, "OutOfMemory", "Loading failed: not enough memory (big): raise resources.memory"),
        (OSError(errno.ENOSPC, "full", "/mnt/output/x"), 1, "NoSpaceLeft", "Loading failed: no space left on the"),
        (KeyError("x"), 1, "TrainerCrashed", "Loading failed: KeyError: 'x'"),
        (UserError("InvalidData", "one\n  two"), 64, "InvalidData", "Loading failed: one two"),
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
    assert diagnose(UserError("InvalidData", "x" * 9999), Phase.LOADING).exit_code == ExitCode.USER_ERROR


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
    assert cpu_limit(tmp_path) == cores


def test_registry_loads_everything_it_offers() -> None:
    for kind in registry.KINDS:
        for name in registry.offered(kind):
            assert isinstance(registry.load(kind, name), type)


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match="model 'bart' is not offered by this image, which knows bert, distilbert, log"):
        registry.load("models", "bart")


def test_task_among_other_manifests(tmp_path: Path) -> None:
    example = Path(__file__).parents[3] / "examples" / "quickstart.yaml"
    assert read_task(example).metadata.name == "quickstart"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("kind: PersistentVolumeClaim\n", "holds 0 objects of kind TrainingTask, expected one"),
        ("{kind: TrainingTask}\n---\n{kind: TrainingTask}\n", "holds 2 objects of kind TrainingTask"),
        ("a: [1\n", "is not YAML"),
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


def test_output_must_be_a_folder_in_the_claim(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"output.subPath '.' is the root of the claim"):
        check_output(tmp_path, ".")
    assert check_output(tmp_path, "team/model") == tmp_path / "team" / "model"
    assert list((tmp_path / "team").iterdir()) == []


def test_saved_files_can_be_read_by_others(tmp_path: Path) -> None:
    class Secretive:
        def save(self, folder: Path, preprocessor: object) -> None:
            (folder / "weights").touch(mode=0o600)

    (tmp_path / ".model.partial").mkdir()  # what a killed run left behind
    (tmp_path / ".model.partial" / "half").touch()
    (tmp_path / "model").mkdir()  # an earlier model
    (tmp_path / "model" / "old").touch()
    card = Card("secretive", "none", ("a", "b"), 0.5)
    save(tmp_path / "model", Secretive(), None, card, Results.model_construct())  # type: ignore[arg-type]
    assert (tmp_path / "model" / "weights").stat().st_mode & 0o777 == 0o644
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == [
        "results.json",
        "trainingtask.json",
        "weights",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_contents_are_cut_for_a_sentence(tmp_path: Path) -> None:
    assert contents(tmp_path) == "nothing"
    for number in range(12):
        (tmp_path / f"{number:02}").touch()
    assert contents(tmp_path, limit=2) == "00, 01 and 10 more"


def test_results_that_are_no_numbers_are_refused() -> None:
    # model_construct: the other fields do not matter here, the number in its depth does.
    evaluation = EvaluationResult.model_construct(loss=math.nan)
    with pytest.raises(Fault, match=r"results.evaluation.loss is nan") as caught:
        require_finite(Results.model_construct(evaluation=evaluation))
    assert caught.value.reason == "NonFiniteLoss"
