"""Progress lines, errors that name their log file, running commands, waiting for conditions."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

POLL_SECONDS = 0.1
LOG_LINES_SHOWN = 8


class ClusterError(Exception):
    """One sentence for the person at the terminal."""


class Stage:
    """The line being printed; `note` adds a word in brackets to its end."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, word: str) -> None:
        """Add a word."""
        self.notes.append(word)


@contextmanager
def stage(name: str) -> Iterator[Stage]:
    """Print one line on stderr when the block is done: what, how long, and the notes."""
    started = time.monotonic()
    line = Stage()
    try:
        yield line
    except BaseException:
        print(f"  {name:<26} {time.monotonic() - started:7.1f} s  FAILED", file=sys.stderr)
        raise
    notes = f"  ({', '.join(line.notes)})" if line.notes else ""
    print(f"  {name:<26} {time.monotonic() - started:7.1f} s{notes}", file=sys.stderr)


def with_log(sentence: str, log: Path) -> str:
    """The sentence, the log to read, and how that log ends."""
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
    """Poll until the condition holds; False when the time is over."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True
