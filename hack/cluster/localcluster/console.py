"""Progress lines, errors that name their log file, running commands, waiting for conditions."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

POLL_SECONDS = 0.1
PROGRESS_SECONDS = 10.0
LOG_LINES_SHOWN = 8


class ClusterError(Exception):
    """An error of one sentence for the user."""


class Stage:
    """A progress line; its notes are printed in brackets, and what `progress` returns while it lasts."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.progress: Callable[[], str] = str

    def note(self, text: str) -> None:
        """Add a note."""
        self.notes.append(text)


@contextmanager
def stage(name: str) -> Iterator[Stage]:
    """Print a line with name, duration and notes on stderr when the block is done, and its progress at intervals."""
    started = time.monotonic()
    line, done = Stage(), threading.Event()

    def print_progress() -> None:
        while not done.wait(PROGRESS_SECONDS):
            print(f"  {name:<26} {time.monotonic() - started:7.1f} s  … {line.progress()}".rstrip(), file=sys.stderr)

    progress = threading.Thread(target=print_progress, daemon=True)
    progress.start()
    try:
        yield line
    except BaseException:
        print(f"  {name:<26} {time.monotonic() - started:7.1f} s  FAILED", file=sys.stderr)
        raise
    finally:
        done.set()
        progress.join()
    notes = f"  ({', '.join(line.notes)})" if line.notes else ""
    print(f"  {name:<26} {time.monotonic() - started:7.1f} s{notes}", file=sys.stderr)


def with_log(sentence: str, log: Path) -> str:
    """Return the sentence with the path of the log and its last lines."""
    text = log.read_text(errors="replace") if log.exists() else ""
    tail = "".join(f"\n    {line[:300]}" for line in text.splitlines()[-LOG_LINES_SHOWN:])
    return f"{sentence}; see {log}{tail}"


def run(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: str | None = None,
    log: Path | None = None,
    timeout: float | None = None,
) -> str:
    """Run a command to its end and return its stdout; with `log`, all its output goes there instead."""
    arguments = [str(part) for part in command]
    environment = {**os.environ, **(env or {})}
    label = " ".join(arguments[:3])
    try:
        with log.open("w") if log else nullcontext(subprocess.PIPE) as output:
            done = subprocess.run(
                arguments,
                env=environment,
                cwd=cwd,
                input=stdin,
                stdout=output,
                stderr=subprocess.STDOUT if log else subprocess.PIPE,
                text=True,
                timeout=timeout,
                check=False,
            )
    except FileNotFoundError as error:
        raise ClusterError(f"{arguments[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise ClusterError(f"'{label} …' took longer than {timeout:.0f} s") from error
    if done.returncode == 0:
        return done.stdout or ""
    sentence = f"'{label} …' failed with exit code {done.returncode}"
    if log is not None:
        raise ClusterError(with_log(sentence, log))
    raise ClusterError(f"{sentence}: {done.stderr.strip()[-1000:]}")


def wait_until(condition: Callable[[], bool], *, timeout: float) -> bool:
    """Poll until the condition holds; return False after the timeout."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True
