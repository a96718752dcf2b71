"""What can go wrong, and whose turn it is then.

    TrainerError              says a stable CamelCase reason and one sentence
    ├── UserError             the task or its data must change first: exit 64, never tried again
    └── Fault                 the machine, the network, the volume: exit 1, tried again
    Interrupted               SIGTERM or Ctrl-C: exit 143, tried again; not an Exception, so that no library eats it

Anything else that is raised is a fault as well; `diagnose` finds the words for it.
"""

import errno
import sys
import traceback
from pathlib import Path
from typing import NamedTuple

from trainingtask_api.status import ExitCode, Failure, Phase

MESSAGE_LIMIT = 2048


class TrainerError(Exception):
    """An error whose sentence is meant for the person who wrote the task."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class UserError(TrainerError):
    """The task or its data is wrong; trying again cannot help."""


class Fault(TrainerError):  # noqa: N818 - the other side of UserError, as in the exit codes
    """Something outside the task went wrong; trying again may help."""


class Interrupted(BaseException):
    """The process was asked to stop."""

    def __init__(self, signal_name: str) -> None:
        super().__init__(signal_name)
        self.signal_name = signal_name


class Diagnosis(NamedTuple):
    """How a run that failed ends: its exit code and what all sinks say about it."""

    exit_code: ExitCode
    failure: Failure


def diagnose(error: BaseException, phase: Phase) -> Diagnosis:
    """Return the exit code and the failure report of an error.

    Parameters
    ----------
    error
        What ended the run.
    phase
        What the trainer was doing when it was raised.
    """
    code, reason, why = _classify(error)
    why = " ".join(why.split())  # libraries like to say things in paragraphs
    # One sentence, also where only the message is kept: the history row and the operator's conditions.
    sentence = f"{phase.value} failed: {why}" if code != ExitCode.INTERRUPTED else f"{phase.value} was {why}"
    return Diagnosis(code, Failure(reason=reason, message=sentence[:MESSAGE_LIMIT], phase=phase))


def describe_with_location(error: Exception) -> str:
    """Return what an error says in one line, and where it was raised."""
    if isinstance(error, SyntaxError):  # says itself where
        return f"{type(error).__name__}: {error}"
    where = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {_get_first_line(error)} ({Path(where.filename).name}, line {where.lineno})"


def _classify(error: BaseException) -> tuple[ExitCode, str, str]:
    if isinstance(error, Interrupted):
        return ExitCode.INTERRUPTED, "Interrupted", f"interrupted by {error.signal_name}"
    if isinstance(error, UserError):
        return ExitCode.USER_ERROR, error.reason, error.message
    if isinstance(error, Fault):
        return ExitCode.FAULT, error.reason, error.message
    if _is_out_of_memory(error):
        return (
            ExitCode.FAULT,
            "OutOfMemory",
            f"not enough memory ({_get_first_line(error)}): raise resources.memory (for a GPU's own memory take a larger one),"
            " or with a transformer lower training.batchSize",
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f" at {error.filename}" if error.filename else ""
        return ExitCode.FAULT, "NoSpaceLeft", f"no space left on the volume{where}"
    return ExitCode.FAULT, "TrainerCrashed", f"{type(error).__name__}: {_get_first_line(error)}"


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError):
        return True
    torch = sys.modules.get("torch")  # asking torch must not import it
    if torch is None:
        return False
    # torch has an exception of its own for GPUs; its CPU allocator raises a bare RuntimeError.
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def _get_first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), "no message")
