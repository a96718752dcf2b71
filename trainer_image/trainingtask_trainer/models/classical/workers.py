"""Worker processes that share the features, where they save time and memory allows them.

The solvers and scipy's sparse products hold the interpreter lock, so that threads would take turns. joblib hands arrays
of a MiB and more over as files that all workers map into memory. The files are in the scratch folder: joblib's default,
`/dev/shm`, is 64 MiB of a pod, and where it is larger it is memory that cannot be reclaimed.
"""

import tempfile
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import joblib  # type: ignore[import-untyped]
import numpy as np
from joblib.externals.loky import get_reusable_executor  # type: ignore[import-untyped]

from trainingtask_trainer.runtime.memory import get_limit_bytes, get_resident_bytes

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]
"""What `joblib.delayed` makes of a call."""

# Starting workers that import scikit-learn, and ending them, takes about 8 seconds: with two of them half of a work of 15.
_MIN_SECONDS = 20.0
# Of its own a worker has scikit-learn, measured 85 MiB, and results that wait to be taken.
_WORKER_BYTES = 200 << 20


def count_workers(seconds: float, own_bytes: int, most: int) -> int:
    """Return in how many processes to work: 1 where more would save no time, or need too much memory.

    Parameters
    ----------
    seconds
        An estimate of the whole work, on one core.
    own_bytes
        Memory that a worker needs beside its libraries and the arrays that all share.
    most
        The number of cores, or of calls where that is smaller.
    """
    if seconds < _MIN_SECONDS:
        return 1
    limit, resident = get_limit_bytes(), get_resident_bytes()
    if limit is None or resident is None:
        return max(1, most)
    return max(1, min(most, (limit - resident) // (_WORKER_BYTES + own_bytes)))


def run_calls(calls: Iterable[Call], workers: int) -> Generator[Any]:
    """Yield the results of calls in their order; no worker is left when all are taken, or the generator is closed.

    Parameters
    ----------
    calls
        Calls of `joblib.delayed` functions.
    workers
        Number of processes; 1: this one.
    """
    if workers == 1:
        yield from (function(*positional, **named) for function, positional, named in calls)
        return
    parallel = joblib.Parallel(workers, backend="loky", return_as="generator", temp_folder=tempfile.gettempdir())
    results = parallel(calls)
    try:
        for result in results:  # noqa: UP028 - closed below
            yield result
    finally:
        with warnings.catch_warnings(action="ignore"):  # of calls that an interruption makes futile
            results.close()
        get_reusable_executor().shutdown(kill_workers=True)  # they would wait for more work, and keep their memory


@contextmanager
def move_to_file(features: "csr_matrix") -> Iterator[None]:
    """Put the arrays of a sparse matrix into a file that workers map, too: else they are in memory twice.

    The matrix stays usable afterwards: the file has no name then, and ends with the last array.
    """
    with tempfile.TemporaryDirectory(prefix="trainingtask-") as folder:
        for name in ("data", "indices", "indptr"):
            file = Path(folder, f"{name}.npy")
            np.save(file, getattr(features, name))
            setattr(features, name, np.load(file, mmap_mode="c"))
        yield
