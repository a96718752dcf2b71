"""Which of several failed processes is reported, and with what."""

import json
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from trainingtask_api import names
from trainingtask_api.reasons import Reason
from trainingtask_api.status import ExitCode, Failure, Phase
from trainingtask_trainer.errors import MAX_MESSAGE_LENGTH, Diagnosis
from trainingtask_trainer.launcher.failures import diagnose_workers, record_failure


@dataclass
class Process:
    """What torch's agent knows of a failed process."""

    exitcode: int
    timestamp: int = 100
    error_file_data: Any = field(default_factory=lambda: {"message": "<NONE>"})
    local_rank: int = 0


def recorded(reason: str, time: float = 100.5, code: int = ExitCode.FAULT, message: str = "it broke") -> Process:
    failure = Failure(reason=reason, message=message, phase=Phase.TRAINING)
    return Process(code, int(time), {"message": message, "time": time, "failure": failure.to_json()})


def killed(number: int = signal.SIGKILL, time: int = 100, local_rank: int = 0) -> Process:
    return Process(-number, time, local_rank=local_rank)


def diagnose(failures: dict[int, Process], logs: Path = Path("none"), *, is_out_of_memory: bool = False) -> Diagnosis:
    return diagnose_workers(failures, logs, phase=Phase.TRAINING, is_out_of_memory=is_out_of_memory)


def write_log(folder: Path, text: str, local_rank: int = 0) -> None:
    log = folder / "a-run" / "attempt_0" / str(local_rank) / "stderr.log"
    log.parent.mkdir(parents=True)
    log.write_text(text)


def test_the_first_failure_that_no_other_caused_is_reported() -> None:
    failures = {
        0: recorded(Reason.PEER_LOST, 100.1),
        1: recorded(Reason.NO_SPACE_LEFT, 100.3),
        2: recorded(Reason.TRAINER_CRASHED, 100.2),
        3: recorded(Reason.INTERRUPTED, 100.0, ExitCode.INTERRUPTED),
    }
    assert diagnose(failures).failure.message == "it broke (rank 2)"


@pytest.mark.parametrize("reason", [Reason.PEER_LOST, Reason.PEER_UNRESPONSIVE])
def test_a_lost_peer_is_reported_where_nothing_else_is_known(reason: Reason) -> None:
    failures = {0: recorded(Reason.INTERRUPTED, 100.0, ExitCode.INTERRUPTED), 1: recorded(reason)}
    assert diagnose(failures).failure.reason == reason


def test_ranks_that_were_all_interrupted_end_as_one_process_does() -> None:
    failures = {rank: recorded(Reason.INTERRUPTED, code=ExitCode.INTERRUPTED) for rank in (0, 1)}
    assert diagnose(failures) == Diagnosis(
        ExitCode.INTERRUPTED, Failure(reason=Reason.INTERRUPTED, message="it broke", phase=Phase.TRAINING)
    )


def test_the_rank_and_its_pod_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(names.ENV_POD_NAME, "a-task-0-abcde")
    assert diagnose({3: recorded(Reason.TRAINER_CRASHED)}).failure.message == "it broke (rank 3 on pod a-task-0-abcde)"


def test_a_killed_process_has_its_signal_and_its_last_words(tmp_path: Path) -> None:
    write_log(tmp_path, f"{'x' * 5000}\nlast\nwords\n", local_rank=1)
    failure = diagnose({0: recorded(Reason.PEER_LOST), 5: killed(signal.SIGSEGV, local_rank=1)}, tmp_path).failure
    assert failure.message.startswith(
        "Training failed: the process was killed by signal 11 (SIGSEGV); its last words: ...x"
    )
    assert failure.message.endswith("x last words (rank 5)")
    assert len(failure.message) < 500


def test_a_kill_for_memory_is_named_as_such() -> None:
    failure = diagnose({1: killed()}, is_out_of_memory=True).failure
    assert failure.reason == Reason.OUT_OF_MEMORY
    assert "raise resources.memory" in failure.message


def test_a_process_that_hangs_is_not_taken_for_a_killed_one() -> None:
    failures = {0: recorded(Reason.PEER_UNRESPONSIVE, 100.5, message="no answer"), 1: killed(time=130)}
    failure = diagnose(failures).failure
    assert (failure.reason, failure.message) == (
        Reason.PEER_UNRESPONSIVE,
        "no answer (rank 0; rank 1 had to be killed)",
    )


def test_a_timeout_of_nccl_is_that_of_a_peer(tmp_path: Path) -> None:
    write_log(tmp_path, "[PG 0] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=7)")
    failure = diagnose({0: killed(signal.SIGABRT), 1: killed(time=131)}, tmp_path).failure
    assert failure.reason == Reason.PEER_UNRESPONSIVE
    assert failure.message.endswith("WorkNCCL(SeqNum=7) (rank 0; rank 1 had to be killed)")


def test_an_exit_code_without_a_record_is_a_fault() -> None:
    code, failure = diagnose({0: Process(3)})
    assert (code, failure.message) == (1, "Training failed: the process ended with exit code 3 (rank 0)")


@pytest.mark.parametrize("content", [[], "text", {"failure": 5}, {"failure": {"reason": 1}}, {"time": "now"}])
def test_a_record_that_is_none_is_ignored(content: Any) -> None:
    assert diagnose({0: Process(1, error_file_data=content)}).failure.reason == Reason.TRAINER_CRASHED


def test_a_long_message_keeps_the_rank() -> None:
    failure = diagnose({7: recorded(Reason.TRAINER_CRASHED, message="x" * MAX_MESSAGE_LENGTH)}).failure
    assert len(failure.message) == MAX_MESSAGE_LENGTH
    assert failure.message.endswith(" (rank 7)")


def test_a_recorded_failure_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    failure = Failure(reason=Reason.INVALID_DATA, message="row 7 has no text", phase=Phase.LOADING)
    record_failure(failure)
    content = json.loads((tmp_path / "error.json").read_text())
    assert diagnose({1: Process(64, error_file_data=content)}) == Diagnosis(ExitCode.USER_ERROR, failure)
