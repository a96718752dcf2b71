"""Starting, finding and stopping daemons.

A process is ours when its environment carries our mark. Pid files would not do: after a crash or a reboot their
number may belong to a stranger. They are still written, for people.
"""

import os
import signal
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

from .config import Config
from .console import wait_until

MARK = "TRAININGTASK_CLUSTER_DAEMON"


def start(
    config: Config, name: str, fingerprint: str, command: Sequence[str | Path], env: Mapping[str, str]
) -> "subprocess.Popen[bytes]":
    """Start a daemon in a session of its own, so that it outlives the terminal and holds none of its files."""
    marked = {**env, MARK: f"{config.state}:{name}:{fingerprint}"}
    with (config.logs / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=marked,
            cwd=config.state,
            start_new_session=True,
        )
    (config.run / f"{name}.pid").write_text(f"{process.pid}\n")
    return process


def marked(config: Config, name: str = "", fingerprint: str = "") -> set[int]:
    """Our living processes: all of them, those of one daemon (with its children), or one with this fingerprint."""
    wanted = f"{MARK}={config.state}:" + (f"{name}:" if name else "") + fingerprint
    pids = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            environment = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue  # gone meanwhile, or a kernel thread
        # A zombie's environment is empty, so it does not count as alive.
        if any(variable.startswith(wanted.encode()) for variable in environment):
            pids.add(int(entry.name))
    return pids


def daemon_pid(config: Config, name: str, fingerprint: str = "") -> int | None:
    """The daemon itself, not the children that inherited its mark: it leads its session."""
    for pid in marked(config, name, fingerprint):
        try:
            if os.getsid(pid) == pid and not _is_shim(pid):
                return pid
        except ProcessLookupError:
            continue
    return None


def _is_shim(pid: int) -> bool:
    """Shims inherit the mark of containerd and start sessions of their own."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].endswith(b"containerd-shim-runc-v2")
    except OSError:
        return False


def alive(pids: Iterable[int]) -> set[int]:
    """Those that still run; a zombie whose parent has not looked yet is dead."""
    living = set()
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state not in "ZX":
            living.add(pid)
    return living


def stop(pids: set[int], *, patience: float) -> None:
    """SIGTERM, wait, SIGKILL, wait. The caller has made sure that they are ours."""
    for sent, seconds in ((signal.SIGTERM, patience), (signal.SIGKILL, 10.0)):
        pids = alive(pids)
        for pid in pids:
            try:
                os.kill(pid, sent)
            except ProcessLookupError:
                continue
        if wait_until(partial(_all_dead, pids), timeout=seconds):
            return


def _all_dead(pids: set[int]) -> bool:
    return not alive(pids)
