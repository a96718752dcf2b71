"""Processes of trainers on the local cluster, whose node is this machine."""

import contextlib

import psutil

from trainingtask_api import names


def kill_trainer(pod: str) -> None:
    """SIGKILL a trainer from outside of its pod, where it is process 1 and ignores the signal."""
    trainers = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # it has ended, or belongs to the kernel
            if process.environ().get(names.ENV_POD_NAME) == pod:
                trainers.append(process)
    assert trainers
    for process in trainers:
        process.kill()
