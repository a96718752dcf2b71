"""The CPU limit of this process, and the thread counts of numeric libraries that follow from it."""

import math
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""What numeric libraries read when they are imported."""


def get_cpu_limit(cgroup: Path = CGROUP) -> int:
    """Return the number of cores this process may use: its affinity, cut by the container's quota, at least 1."""
    limits = [float(len(os.sched_getaffinity(0)))]
    limits.extend(quota for quota in (_read_quota_v2(cgroup), _read_quota_v1(cgroup)) if quota is not None)
    return max(1, math.ceil(min(limits)))


def limit_threads(processes: int = 1) -> int:
    """Set the thread counts that numeric libraries read when they are imported; return that number.

    By default every library starts one thread per core of the node, which then compete for the container's share.
    A variable that is already set wins.

    Parameters
    ----------
    processes
        Processes that share the container's cores.
    """
    threads = max(1, get_cpu_limit() // processes)
    for variable in THREAD_VARIABLES:
        os.environ.setdefault(variable, str(threads))
    return threads


def _read_quota_v2(cgroup: Path) -> float | None:
    """Return the cores of ``cpu.max``, which holds ``max 100000`` or ``200000 100000``."""
    fields = _read_fields(cgroup / "cpu.max")
    if len(fields) != 2 or fields[0] == "max":
        return None
    return int(fields[0]) / int(fields[1])


def _read_quota_v1(cgroup: Path) -> float | None:
    """Return the cores of the version 1 files; a quota of -1 means none."""
    quota, period = (_read_fields(cgroup / "cpu" / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    if not quota or not period or int(quota[0]) <= 0:
        return None
    return int(quota[0]) / int(period[0])


def _read_fields(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []
