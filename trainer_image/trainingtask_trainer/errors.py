"""The exceptions of a run, and the exit code, reason and message that it ends with.

    TrainerError              has a stable CamelCase reason and one sentence
    ├── UserError             the task or its data must change first: exit 64, not retried
    └── Fault                 the machine, the network or the volume failed: exit 1, retried
    Interrupted               SIGTERM or Ctrl-C: exit 143, retried; no Exception, so that no library swallows it

Any other exception is a fault as well; see `diagnose`.
"""

import errno
import re
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, NewType

from trainingtask_api.reasons import Reason
from trainingtask_api.status import ExitCode, Failure, Phase

MAX_MESSAGE_LENGTH = 2048
_TIMEOUT = re.compile(r"timed?[ -]?out", re.IGNORECASE)
_BROKEN_CONNECTION = re.compile(r"connect|broken pipe|remote process exited|network error", re.IGNORECASE)

CustomReason = NewType("CustomReason", str)
"""A stable CamelCase reason of an extension, beside those of the project."""


class TrainerError(Exception):
    """An error whose message is shown to the task's author: cause, value and next step in one sentence."""

    def __init__(self, reason: Reason | CustomReason, message: str) -> None:
        super().__init__(message)
        self.reason = str(reason)
        self.message = message

    def __reduce__(self) -> tuple[type["TrainerError"], tuple[str, str]]:
        """Return what a worker process hands over."""
        return type(self), (self.reason, self.message)


class UserError(TrainerError):
    """The task or its data is wrong; a retry cannot help."""


class Fault(TrainerError):  # noqa: N818 - the other side of UserError, as in the exit codes
    """Something outside the task failed; a retry may help."""


class Interrupted(BaseException):
    """The process was asked to stop."""

    def __init__(self, signal_name: str) -> None:
        super().__init__(signal_name)
        self.signal_name = signal_name


class Diagnosis(NamedTuple):
    """The end of a failed run: its exit code, and the failure that all sinks report."""

    exit_code: ExitCode
    failure: Failure


class WorkerFailedError(Exception):
    """One of the processes of a task failed; the launcher ends with its diagnosis.

    Attributes
    ----------
    diagnosis
        What is reported.
    is_of_other_node
        Whether a process on another node is the cause.
    """

    def __init__(self, diagnosis: Diagnosis, *, is_of_other_node: bool = False) -> None:
        super().__init__(diagnosis.failure.message)
        self.diagnosis = diagnosis
        self.is_of_other_node = is_of_other_node


def diagnose(error: BaseException, phase: Phase) -> Diagnosis:
    """Return the exit code and the failure report of an error.

    Parameters
    ----------
    error
        The exception that ended the run.
    phase
        The phase in which it was raised.
    """
    if isinstance(error, WorkerFailedError):
        return error.diagnosis
    code, reason, why = _classify(error)
    why = " ".join(why.split())  # libraries write paragraphs
    # With the phase, because history rows and conditions keep the message alone.
    sentence = f"{phase.value} failed: {why}" if code != ExitCode.INTERRUPTED else f"{phase.value} was {why}"
    return Diagnosis(code, Failure(reason=str(reason), message=sentence[:MAX_MESSAGE_LENGTH], phase=phase))


def describe_with_location(error: Exception) -> str:
    """Return the first line of an error's message, and the place where it was raised."""
    if isinstance(error, SyntaxError):  # its message names the place
        return f"{type(error).__name__}: {error}"
    where = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {_get_first_line(error)} ({Path(where.filename).name}, line {where.lineno})"


def _classify(error: BaseException) -> tuple[ExitCode, str, str]:
    """Return the exit code, the reason and the message of an error, without its phase."""
    if isinstance(error, Interrupted):
        return ExitCode.INTERRUPTED, Reason.INTERRUPTED, f"interrupted by {error.signal_name}"
    if isinstance(error, UserError):
        return ExitCode.USER_ERROR, error.reason, error.message
    if isinstance(error, Fault):
        return ExitCode.FAULT, error.reason, error.message
    if _is_out_of_memory(error):
        return (
            ExitCode.FAULT,
            Reason.OUT_OF_MEMORY,
            f"not enough memory ({_get_first_line(error)}): raise resources.memory (for a GPU's own memory take a larger one),"
            " or with a transformer lower training.batchSize",
        )
    if (lost := _classify_as_peer_failure(error)) is not None:
        return ExitCode.FAULT, *lost
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f" at {error.filename}" if error.filename else ""
        return ExitCode.FAULT, Reason.NO_SPACE_LEFT, f"no space left on the volume{where}"
    return ExitCode.FAULT, Reason.TRAINER_CRASHED, f"{type(error).__name__}: {_get_first_line(error)}"


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError):
        return True
    torch = sys.modules.get("torch")  # without importing it
    if torch is None:
        return False
    # torch has an exception of its own for GPUs; its CPU allocator raises a bare RuntimeError.
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def _classify_as_peer_failure(error: BaseException) -> tuple[Reason, str] | None:
    """Return the reason and the message of a collective that failed because of another process, else None."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(error, RuntimeError):
        return None
    text = _get_first_line(error)
    is_gloo = "/gloo/" in text  # a bare RuntimeError that begins with the place in the source
    if not (is_gloo or isinstance(error, torch.distributed.DistError)):
        return None
    cause = text.partition("] ")[2].partition(". ")[0] if is_gloo else text
    if _TIMEOUT.search(text):
        return Reason.PEER_UNRESPONSIVE, f"a process that trains with this one did not answer ({cause})"
    if not _BROKEN_CONNECTION.search(text):  # an error of this process, such as a port in use
        return None
    return Reason.PEER_LOST, f"the connection to a process that trains with this one broke ({cause})"


def _get_first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), "no message")


def join_names(names: Sequence[str], limit: int = 5) -> str:
    """Return names as part of a sentence, at most `limit` of them."""
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
