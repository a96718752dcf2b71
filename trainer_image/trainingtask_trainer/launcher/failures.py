"""The failures of worker processes: each records its own, and the launcher chooses the one that caused the others."""

import json
import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

from pydantic import ValidationError

from trainingtask_api.names import ENV_POD_NAME
from trainingtask_api.reasons import Reason
from trainingtask_api.status import ExitCode, Failure, Phase
from trainingtask_trainer.errors import MAX_MESSAGE_LENGTH, Diagnosis, join_names

_ENV_ERROR_FILE: Final = "TORCHELASTIC_ERROR_FILE"
# Torch's agent kills a process that has not ended so many seconds after its SIGTERM: not the cause, but what hung.
_KILL_SECONDS = 29
_LAST_WORDS_BYTES = 4096
_LAST_WORDS_LENGTH = 400
_NCCL_TIMEOUT = "collective operation timeout"  # in the last words of a process that NCCL's watchdog has ended
# Failures that others cause, the more telling first.
_CONSEQUENCES = (Reason.PEER_UNRESPONSIVE, Reason.PEER_LOST, Reason.INTERRUPTED)


class ProcessFailure(Protocol):
    """A failed process, as torch's agent describes it."""

    local_rank: int
    exitcode: int
    timestamp: int
    error_file_data: Any


class _Death(NamedTuple):
    """The end of one worker."""

    rank: int
    time: float
    exit_code: int
    failure: Failure | None
    """None when it recorded none."""
    last_words: str


def record_failure(failure: Failure) -> None:
    """Write the failure of this worker where torch's agent reads it; do nothing without an agent."""
    path = os.environ.get(_ENV_ERROR_FILE)
    if not path:
        return
    now = time.time()
    content = {"message": failure.message, "timestamp": int(now), "time": now, "failure": failure.to_json()}
    partial = Path(f"{path}.tmp")
    partial.write_text(json.dumps(content), encoding="utf-8")
    os.replace(partial, path)  # the agent never reads half of it


def diagnose_workers(
    failures: Mapping[int, ProcessFailure], logs: Path, *, phase: Phase, is_out_of_memory: bool
) -> Diagnosis:
    """Return the exit code and the failure to report for workers that failed.

    Parameters
    ----------
    failures
        The failed processes by rank.
    logs
        The folder of the agent's logs.
    phase
        What the pod's first process was doing.
    is_out_of_memory
        Whether the kernel has killed a process of this pod for its memory.
    """
    deaths = [_read_death(rank, failure, logs) for rank, failure in failures.items()]
    agent_kills = min(death.time for death in deaths) + _KILL_SECONDS
    hung = [death for death in deaths if death.exit_code == -signal.SIGKILL and death.time >= agent_kills]
    causes = [
        (death, _diagnose_death(death, phase, is_out_of_memory=is_out_of_memory))
        for death in deaths
        if death not in hung
    ]
    first, diagnosis = min(causes, key=lambda cause: (_rank_as_cause(cause[1].failure), cause[0].time))
    if diagnosis.exit_code != ExitCode.FAULT:
        return diagnosis  # a mistake in the task is none of a rank
    pod = os.environ.get(ENV_POD_NAME)
    place = f" (rank {first.rank}" + (f" on pod {pod}" if pod else "")
    if is_consequence(diagnosis.failure) and hung:
        place += f"; {name_ranks([death.rank for death in hung])} had to be killed"
    return diagnosis._replace(failure=_append(diagnosis.failure, f"{place})"))


def name_ranks(ranks: Sequence[int]) -> str:
    """Return ranks as part of a sentence."""
    return f"{'rank' if len(ranks) == 1 else 'ranks'} {join_names([str(rank) for rank in ranks])}"


def _read_death(rank: int, failure: ProcessFailure, logs: Path) -> _Death:
    recorded, moment = _parse_record(failure.error_file_data)
    log = next(iter(logs.glob(f"*/attempt_0/{failure.local_rank}/stderr.log")), None)
    words = "" if recorded or log is None else _read_last_words(log)
    return _Death(rank, moment or failure.timestamp, failure.exitcode, recorded, words)


def _parse_record(content: Any) -> tuple[Failure | None, float | None]:
    """Return what a worker recorded; the code of the task may write there too."""
    if not isinstance(content, dict):
        return None, None
    try:
        moment = content.get("time")
        return Failure.model_validate(content.get("failure")), moment if isinstance(moment, float) else None
    except ValidationError:
        return None, None


def _read_last_words(log: Path) -> str:
    """Return the end of a log as one line."""
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _LAST_WORDS_BYTES))
        words = " ".join(file.read(_LAST_WORDS_BYTES).decode("utf-8", "replace").split())
    return words if len(words) <= _LAST_WORDS_LENGTH else f"...{words[-_LAST_WORDS_LENGTH:]}"


def _diagnose_death(death: _Death, phase: Phase, *, is_out_of_memory: bool) -> Diagnosis:
    """Return what a process recorded, or what the end of one says that recorded nothing."""
    if death.failure is not None:
        code = ExitCode(death.exit_code) if death.exit_code in set(ExitCode) else ExitCode.FAULT
        return Diagnosis(code, death.failure)
    reason = Reason.TRAINER_CRASHED
    if death.exit_code == -signal.SIGKILL and is_out_of_memory:
        reason = Reason.OUT_OF_MEMORY
        why = "the memory of the pod was full: raise resources.memory, or lower training.batchSize"
    elif death.exit_code == -signal.SIGABRT and _NCCL_TIMEOUT in death.last_words:
        reason = Reason.PEER_UNRESPONSIVE
        why = "a process that trains with this one did not answer"
    elif death.exit_code < 0:
        why = f"the process was killed by signal {-death.exit_code} ({_get_signal_name(-death.exit_code)})"
    else:
        why = f"the process ended with exit code {death.exit_code}"
    words = f"; its last words: {death.last_words}" if death.last_words else ""
    return Diagnosis(ExitCode.FAULT, Failure(reason=reason, message=f"{phase.value} failed: {why}{words}", phase=phase))


def _get_signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"


def _append(failure: Failure, text: str) -> Failure:
    return failure.model_copy(update={"message": failure.message[: MAX_MESSAGE_LENGTH - len(text)] + text})


def is_consequence(failure: Failure) -> bool:
    """Return whether another process's failure may have caused this one."""
    return _rank_as_cause(failure) > 0


def _rank_as_cause(failure: Failure) -> int:
    """Return 0 for a failure of its own, else the higher the less it tells."""
    reasons = [str(reason) for reason in _CONSEQUENCES]
    return reasons.index(failure.reason) + 1 if failure.reason in reasons else 0
