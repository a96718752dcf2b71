"""Functions that worker processes run; those of a test's own module cannot be imported there."""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Described(NamedTuple):
    """What a process has found of an array."""

    process: int
    file: str
    total: float
    threads_of_parent: int


def describe(shared: NDArray[np.float64], factor: float) -> Described:
    """Return in which process this runs, from which file it maps an array, and the sum of its products."""
    threads = len(list(Path(f"/proc/{os.getppid()}/task").iterdir()))
    return Described(os.getpid(), find_mapped_file(shared), float(shared.sum() * factor), threads)


def find_mapped_file(array: NDArray[Any]) -> str:
    """Return the path of the file that an array's memory is mapped from; empty: of none."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        addresses, *fields = line.split(maxsplit=5)
        first, end = (int(address, 16) for address in addresses.split("-"))
        if first <= array.ctypes.data < end:
            return fields[4] if len(fields) > 4 and fields[4].startswith("/") else ""
    raise LookupError(array.ctypes.data)


def wait_for_last(folder: Path, last: int, number: int) -> int:
    """Return `number`, the first one after the last one was called."""
    (folder / f"{number}").touch()
    while number == 0 and not (folder / f"{last}").exists():
        time.sleep(0.01)
    return number


def kill_process(number: int) -> int:
    """Return a number that is not 2; else die as the kernel kills a process."""
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


class StubbornError(Exception):
    """An error whose pickle cannot be read."""

    def __init__(self, number: int, *, name: str) -> None:
        super().__init__(f"{name} {number}")


def fail(number: int) -> int:
    """Raise an error of a library, or one that does not travel."""
    if number == 0:
        raise ZeroDivisionError("as asked")
    raise StubbornError(number, name="number")


def print_process(number: int) -> None:
    """Print the process, and never return."""
    sys.stdout.write(f"{os.getppid()} {os.getpid()}\n")
    sys.stdout.flush()
    while number >= 0:
        time.sleep(1)
