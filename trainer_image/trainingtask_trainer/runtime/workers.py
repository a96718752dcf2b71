"""Worker processes that share the libraries and the features, where they save time and memory allows them.

The solvers and scipy's sparse products hold the interpreter lock, so that threads would take turns. A server process
imports what the function needs, which takes seconds, and forks the workers, which then have it for nothing. The trainer
itself has threads, and is not safe to fork.

The arrays of the function are in a file that all processes map. It is in the scratch folder: `/dev/shm` is 64 MiB of a
pod, and where it is larger it is memory that cannot be reclaimed.
"""

import gc
import mmap
import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from trainingtask_trainer.runtime.cgroup import THREAD_VARIABLES
from trainingtask_trainer.runtime.memory import get_limit_bytes, get_resident_bytes

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

_Argument = TypeVar("_Argument")
_Result = TypeVar("_Result")

# The server starts in 2 to 3 seconds of one core: with two workers as long as half of a work of 6.
_MIN_SECONDS = 10.0
# The server has scikit-learn, measured 85 MiB; a worker has pages of it that it writes to, measured 9 MiB, and results.
_SERVER_BYTES, _WORKER_BYTES = 120 << 20, 40 << 20
# In which the trainer begins calls of its own: in a long one it would leave workers idle that have ended theirs.
_JOIN_SECONDS = 2.0
# Results that wait for an earlier one, and calls that run, for each worker.
_MAX_CALLS = 4
_ALIGNMENT = 64


class WorkerKilledError(Exception):
    """A worker ended within a call, as the kernel ends one where memory is short."""


def count_workers(seconds: float, own_bytes: int, most: int) -> int:
    """Return in how many processes to work: 1 where more would save no time, or need too much memory.

    Parameters
    ----------
    seconds
        An estimate of the whole work, on one core.
    own_bytes
        Memory that a worker, or this process where it joins in, needs beside the libraries and the arrays that all share.
    most
        The number of cores, or of calls where that is smaller.
    """
    if seconds < _MIN_SECONDS:
        return 1
    limit, resident = get_limit_bytes(), get_resident_bytes()
    if limit is None or resident is None:
        return max(1, most)
    return max(1, min(most, (limit - resident - _SERVER_BYTES - own_bytes) // (_WORKER_BYTES + own_bytes)))


def run_calls(
    function: Callable[[_Argument], _Result],
    arguments: Iterable[_Argument],
    workers: int,
    *,
    moved: "csr_matrix | None" = None,
    joins_in: bool = False,
) -> Generator[_Result]:
    """Yield the result for each argument, in their order; no process is left when all are taken, or the generator is closed.

    Parameters
    ----------
    function
        A function of a module, or a `functools.partial` of one with what all calls share.
    arguments
        They are pickled for each call.
    workers
        Number of processes; 1: this one.
    moved
        A sparse matrix in `function` that is to be in memory once: this process maps its file, too. It stays usable
        afterwards: the file has no name then, and ends with the last array.
    joins_in
        Whether this process takes calls, too, while the workers start.

    Raises
    ------
    WorkerKilledError
        When a worker ends within a call.
    """
    if workers == 1:
        yield from map(function, arguments)
        return
    with tempfile.TemporaryDirectory(prefix="trainingtask-") as folder:
        file = _ArrayFile.write((function, moved), Path(folder, "arrays"))
        if moved is not None:
            mapped = file.load()[1]
            moved.data, moved.indices, moved.indptr = mapped.data, mapped.indices, mapped.indptr
        with _start_workers(file, workers) as connections:
            yield from _exchange(connections, arguments, function if joins_in else None)


class _ArrayFile(NamedTuple):
    """A value in a file: its pickle, and its arrays as all processes map them."""

    path: Path
    sizes: list[int]

    @classmethod
    def write(cls, value: Any, path: Path) -> "_ArrayFile":
        buffers: list[pickle.PickleBuffer] = []
        state = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
        contents = [memoryview(state), *(buffer.raw() for buffer in buffers)]
        with path.open("wb") as file:
            for content in contents:
                file.write(content)
                file.write(bytes(-len(content) % _ALIGNMENT))
        return cls(path, [len(content) for content in contents])

    def load(self) -> Any:
        """Return the value; what is written to its arrays stays in this process."""
        with self.path.open("rb") as file:
            content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
        parts, start = [], 0
        for size in self.sizes:
            parts.append(content[start : start + size])
            start += size + -size % _ALIGNMENT
        return pickle.loads(parts[0], buffers=parts[1:])  # noqa: S301 - written above


@contextmanager
def _start_workers(file: _ArrayFile, workers: int) -> Iterator[list[Connection]]:
    """Yield a connection to each worker; the workers and their server end on exit."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = zip(*(context.Pipe() for _ in range(workers)), strict=True)
    server = context.Process(target=_fork_workers, args=(file, theirs))
    server.start()
    try:
        for connection in theirs:
            connection.close()
        yield list(ours)
    finally:
        for connection in ours:
            connection.close()
        server.terminate()
        server.join()


def _exchange(
    connections: list[Connection], arguments: Iterable[Any], function: Callable[[Any], Any] | None
) -> Iterator[Any]:
    """Give each worker that is idle the next argument, and yield the results in their order; first join in."""
    calls = enumerate(arguments)
    idle, running = list(connections), dict[Connection, int]()
    results, taken = dict[int, Any](), 0
    most = _MAX_CALLS * len(connections)
    joined_until = time.monotonic() + _JOIN_SECONDS
    while True:
        while idle and len(running) + len(results) < most:
            if (call := next(calls, None)) is None:
                break
            index, argument = call
            with _report_killed():
                idle[-1].send(argument)
            running[idle.pop()] = index
        if not running:
            return
        while function is not None and time.monotonic() < joined_until and not wait([*running], timeout=0):
            if (call := next(calls, None)) is None:
                break
            results[call[0]] = function(call[1])
            most += 1
        function = None
        ready = wait([*running])
        for connection in [each for each in running if each in ready]:
            with _report_killed():
                result, error = connection.recv()
            if error is not None:
                raise error
            results[running.pop(connection)] = result
            idle.append(connection)
        while taken in results:
            yield results.pop(taken)
            taken += 1


@contextmanager
def _report_killed() -> Iterator[None]:
    try:
        yield
    except (EOFError, ConnectionError) as error:
        raise WorkerKilledError("a worker process was killed, perhaps because memory was short") from error


def _fork_workers(file: _ArrayFile, connections: Iterable[Connection]) -> None:
    """Fork a worker for each connection; end with the first of them, or with the trainer, and end them all."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal, which the trainer has got, too
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    os.environ |= dict.fromkeys(THREAD_VARIABLES, "1")  # each worker has a core, and threads would not outlive a fork
    function, _ = file.load()
    gc.freeze()  # a collection would write to each object, and copy its page
    context = multiprocessing.get_context("fork")
    left, workers = list(connections), []
    while left:
        connection = left.pop()
        workers.append(context.Process(target=_work, args=(function, connection, left), daemon=True))
        workers[-1].start()
        connection.close()
    trainer = multiprocessing.parent_process()
    assert trainer is not None  # noqa: S101
    wait([trainer.sentinel, *(worker.sentinel for worker in workers)])


def _work(function: Callable[[Any], Any], connection: Connection, others: list[Connection]) -> None:
    """Answer each argument with a result or an exception."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for other in others:
        other.close()  # else a worker that is killed would be missed by nobody
    with suppress(EOFError, ConnectionError):  # the trainer and the server are gone
        while True:
            argument = connection.recv()
            try:
                connection.send((function(argument), None))
            except Exception as error:  # noqa: BLE001 - the trainer raises it
                connection.send((None, _make_portable(error)))


def _make_portable(error: Exception) -> Exception:
    """Return an error that the trainer can raise, with the place where it was raised."""
    error.add_note(f"In a worker process: {traceback.format_exc()}")
    try:
        copy: Exception = pickle.loads(pickle.dumps(error))  # noqa: S301 - written here
    except Exception:  # noqa: BLE001 - a class of users may be any
        return RuntimeError("".join(traceback.format_exception_only(error)).strip())
    return copy
