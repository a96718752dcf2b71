"""A folder that can do what a mounted bucket can: new files are written once, read and deleted, and nothing else."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

_REFUSED_EVENTS = ("os.rename", "os.link", "os.symlink", "os.chmod", "os.chown", "os.utime", "os.truncate")
_mounts: set[Path] = set()


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    """Raise what a file system would answer, at the calls of Python that reach one; such a hook cannot be removed."""
    if not _mounts or event not in (*_REFUSED_EVENTS, "open") or not isinstance(arguments[0], str | os.PathLike):
        return
    path = Path(os.path.abspath(arguments[0]))
    if not any(path.is_relative_to(mount) for mount in _mounts):
        return
    if event == "open":
        flags = arguments[2]
        is_written = flags & (os.O_WRONLY | os.O_RDWR)
        if not path.is_dir() and not (is_written and (flags & os.O_RDWR or flags & os.O_APPEND or path.exists())):
            return
    raise OSError(errno.EPERM, os.strerror(errno.EPERM), str(path))


@cache
def _install_hook() -> None:
    sys.addaudithook(_refuse)


@contextmanager
def mount_bucket(folder: Path) -> Iterator[Path]:
    """Make `folder` behave like a mounted bucket while entered."""
    folder.mkdir(exist_ok=True)
    _install_hook()
    _mounts.add(folder)
    try:
        yield folder
    finally:
        _mounts.remove(folder)
