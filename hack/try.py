#!/usr/bin/env python3
"""`make try`: train the quickstart on this machine, predict with it, and serve the runs pages, without a cluster.

Environment
-----------
TRY_DIR
    Folder of the Python environment, the models and the history. Default: .try in the repository.
PORT
    Port of the runs pages on localhost. Default: 8000.
"""

import os
import subprocess
import sys
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REQUIREMENTS = ROOT / "requirements"
TASK = ROOT / "examples" / "quickstart.yaml"
TEXT = "I was charged twice this month, please refund the second payment."


class TryError(Exception):
    """The try failed; the message gives the cause and the next step."""


def run(*command: str | Path) -> None:
    """Run a command, whose output goes to the terminal."""
    done = subprocess.run([str(part) for part in command], check=False)
    if done.returncode != 0:
        raise TryError(f"{Path(command[0]).name} {command[1]} ended with {done.returncode}; its output is above")


def install(environment: Path) -> None:
    """Install trainer and web app, pinned, without torch: the quickstart is a classical model."""
    marker = environment / "ready"
    pins = "".join((REQUIREMENTS / f"{name}.txt").read_text(encoding="utf-8") for name in ("build", "trainer", "web"))
    if marker.exists() and marker.read_text(encoding="utf-8") == pins:
        return
    try:
        venv.create(environment, clear=True, with_pip=True)
    except subprocess.CalledProcessError as error:
        raise TryError("Python's venv is not complete: install it (Debian: apt-get install python3-venv)") from error
    python = environment / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--require-hashes", "-r", REQUIREMENTS / "build.txt")
    os.environ.setdefault("UV_SYSTEM_CERTS", "1")
    uv = (environment / "bin" / "uv", "pip", "install", "--quiet", "--python", python, "--no-deps")
    for name in ("trainer", "web"):
        print(f"    requirements/{name}.txt", flush=True)
        run(*uv, "--require-hashes", "-r", REQUIREMENTS / f"{name}.txt")
    run(*uv, "--no-build-isolation", "--editable", ROOT)
    marker.write_text(pins, encoding="utf-8")


def main() -> None:
    """Run the stages; the last one serves the pages until it is interrupted."""
    started = time.monotonic()
    folder = Path(os.environ.get("TRY_DIR", ROOT / ".try")).resolve()
    port = os.environ.get("PORT", "8000")
    history = f"sqlite:///{folder / 'history.db'}"
    binaries = folder / "env" / "bin"
    print("==> Python environment (half a minute the first time)", flush=True)
    install(folder / "env")
    trainer = binaries / "trainingtask-trainer"
    print(f"==> trainingtask-trainer run {TASK.relative_to(ROOT)}", flush=True)
    run(trainer, "run", TASK, "--output-dir", folder / "models", "--history", history)
    print(f'==> trainingtask-trainer predict {folder / "models" / "quickstart"} "{TEXT}"', flush=True)
    run(trainer, "predict", folder / "models" / "quickstart", TEXT)
    print(
        f"\nTrained and used after {time.monotonic() - started:.0f} s. All runs: http://127.0.0.1:{port} (Ctrl-C ends)"
    )
    print("Next: docs/how-to/without-a-cluster.md with data of your own, or `make demo` with a cluster.", flush=True)
    os.environ |= {
        "TRAININGTASK_HISTORY_URL": history,
        "TRAININGTASK_WEB_AUTH": "none",
        "TRAININGTASK_WEB_HOST": "127.0.0.1",
        "TRAININGTASK_WEB_PORT": port,
    }
    python = str(binaries / "python")
    os.execv(python, [python, "-P", "-m", "trainingtask_web"])


if __name__ == "__main__":
    try:
        main()
    except TryError as error:
        sys.exit(f"make try: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
