"""Starts, finds and stops daemons.

A daemon is identified by a variable in its environment. After a crash or a reboot the number in a pid file may belong
to another process; pid files are written for users only.
"""

import os
import signal
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

from .config import Config
from .console import wait_until

DAEMON_VARIABLE = "TRAININGTASK_CLUSTER_DAEMON"


def start(
    config: Config, name: str, fingerprint: str, command: Sequence[str | Path], env: Mapping[str, str]
) -> "subprocess.Popen[bytes]":
    """Start a daemon in its own session, so that it outlives the terminal."""
    environment = {**env, DAEMON_VARIABLE: f"{config.state}:{name}:{fingerprint}"}
    with (config.logs / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=config.state,
            start_new_session=True,
        )
    (config.run / f"{name}.pid").write_text(f"{process.pid}\n")
    return process


def find_processes(config: Config, name: str = "", fingerprint: str = "") -> set[int]:
    """Return the pids of all daemons, of one (with its children), or of one with this fingerprint."""
    wanted = f"{DAEMON_VARIABLE}={config.state}:" + (f"{name}:" if name else "") + fingerprint
    pids = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            environment = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue  # ended meanwhile, or a kernel thread
        # A zombie's environment is empty, so it does not count as alive.
        if any(variable.startswith(wanted.encode()) for variable in environment):
            pids.add(int(entry.name))
    return pids


def find_daemon(config: Config, name: str, fingerprint: str = "") -> int | None:
    """Return the pid of a daemon, which leads its session, and not of its children."""
    for pid in find_processes(config, name, fingerprint):
        try:
            if os.getsid(pid) == pid and not _is_shim(pid):
                return pid
        except ProcessLookupError:
            continue
    return None


def _is_shim(pid: int) -> bool:
    """Return whether it is a shim, which inherits containerd's environment and leads a session."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].endswith(b"containerd-shim-runc-v2")
    except OSError:
        return False


def find_running(pids: Iterable[int]) -> set[int]:
    """Return the pids that still run; zombies do not."""
    running = set()
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state not in "ZX":
            running.add(pid)
    return running


def stop(pids: set[int], *, patience: float) -> None:
    """Send SIGTERM, wait, send SIGKILL, wait."""
    for sent, seconds in ((signal.SIGTERM, patience), (signal.SIGKILL, 10.0)):
        pids = find_running(pids)
        for pid in pids:
            try:
                os.kill(pid, sent)
            except ProcessLookupError:
                continue
        if wait_until(partial(_have_ended, pids), timeout=seconds):
            return


def _have_ended(pids: set[int]) -> bool:
    return not find_running(pids)
