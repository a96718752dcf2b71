"""Memory of this process: resident, peak and limit; and the allocator's trimming."""

import ctypes
import resource
import sys
from pathlib import Path

from trainingtask_trainer.runtime.cgroup import CGROUP

_KIB = 1024
_UNLIMITED_BYTES = 1 << 62  # cgroup v1 writes a number near 2**63 for no limit
_PROC = Path("/proc/self")
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_NEVER, _GIB = -1, 1 << 30


def disable_malloc_trim() -> None:
    """Make glibc keep freed memory for later allocations; do nothing with other libraries.

    A training allocates the same gigabytes in every step. Each page that was returned in between costs a fault and is
    zeroed again (benchmarks/README.md).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # macOS and musl have none
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, _NEVER)
        mallopt(_M_MMAP_THRESHOLD, _GIB)


def get_peak_bytes() -> int:
    """Return the peak of this process's resident memory."""
    peak = _read_proc_status("VmHWM")
    if peak is not None:
        return peak
    # getrusage also counts the process before exec; macOS, which has no /proc, returns bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else _KIB)


def get_resident_bytes() -> int | None:
    """Return the resident memory of this process without pages of files, None where the system does not report it.

    The kernel drops pages of files before it kills. How many of the libraries' are mapped depends on what other
    processes of the node have read.
    """
    anonymous, shared = _read_proc_status("RssAnon"), _read_proc_status("RssShmem")
    return None if anonymous is None or shared is None else anonymous + shared


def get_limit_bytes(cgroup: Path = CGROUP) -> int | None:
    """Return the memory limit of this process's container or control group, None when there is none.

    Above it the kernel kills the process.
    """
    limits: list[int | None] = []
    for mount, path in _find_memory_cgroups(cgroup):
        # In a container its own group is the root; elsewhere the limits of parent groups count too.
        for folder in (mount / path, *(mount / path).parents):
            limits.extend(_read_limit(folder / name) for name in ("memory.max", "memory.limit_in_bytes"))
            if folder == mount:
                break
    return min((limit for limit in limits if limit is not None), default=None)


def count_oom_kills(cgroup: Path = CGROUP) -> int:
    """Return how many processes of this container or control group the kernel has killed for its memory."""
    counts = [0]
    for mount, path in _find_memory_cgroups(cgroup):
        # In a container its own group is the root.
        for folder in (mount / path, mount):
            counts.extend(_read_count(folder / name, "oom_kill") for name in ("memory.events", "memory.oom_control"))
    return max(counts)


def _read_count(file: Path, field: str) -> int:
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{field} ")), 0)


def _read_proc_status(field: str) -> int | None:
    try:
        lines = (_PROC / "status").read_text().splitlines()
    except FileNotFoundError:
        return None
    return next((int(line.split()[1]) * _KIB for line in lines if line.startswith(f"{field}:")), None)


def _find_memory_cgroups(cgroup: Path) -> list[tuple[Path, str]]:
    """Return the mounts of the memory controller, each with the path of this process's group in it."""
    try:
        lines = (_PROC / "cgroup").read_text().splitlines()
    except FileNotFoundError:
        return []
    groups = []
    for line in lines:
        hierarchy, controllers, path = line.split(":", 2)
        if hierarchy == "0":  # version 2
            groups.append((cgroup, path.lstrip("/")))
        elif "memory" in controllers.split(","):
            groups.append((cgroup / "memory", path.lstrip("/")))
    return groups


def _read_limit(file: Path) -> int | None:
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text != "max" and int(text) < _UNLIMITED_BYTES else None
