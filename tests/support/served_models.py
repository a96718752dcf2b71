"""A server of a model as a process, and models whose predictions a test can hold up."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

# The probability of the first label is the text's length in hundredths, that of the second its complement.
_CODE = """
import os
import signal
import numpy as np
from pathlib import Path

STATE = Path(__file__).parent

class Lengths:
    preprocessor = "none"
    packages = ()
    arguments = fit = predict = save = None

    @staticmethod
    def load(folder):
        def predict(texts):
            if (STATE / "gate").exists():
                (STATE / "gate").read_text()
            if "fail" in texts:
                raise RuntimeError("as asked")
            if "die" in texts:
                os.kill(os.getpid(), signal.SIGKILL)
            with (STATE / "batches").open("a") as file:
                file.write(f"{len(texts)}\\n")
            first = np.array([min(len(text), 100) / 100 for text in texts])
            return np.stack([first, 1 - first], axis=1)

        return predict
"""


@dataclass(frozen=True)
class HeldModel:
    """A model in a folder, whose batches wait at a gate."""

    folder: Path
    code: Path

    def close_gate(self) -> None:
        """Let the next batch wait for `hold_batch`."""
        os.mkfifo(self.code / "gate")

    @contextmanager
    def hold_batch(self) -> Iterator[None]:
        """Enter when a batch is at the gate, which then passes at the exit; later ones pass as they come."""
        with (self.code / "gate").open("w"):  # which returns once there is a reader
            (self.code / "gate").unlink()
            yield

    @property
    def batches(self) -> list[int]:
        """Texts of each batch that was predicted."""
        return [int(line) for line in (self.code / "batches").read_text().split()]


def write_held_model(root: Path, text_columns: Sequence[str] = ()) -> HeldModel:
    """Write a model of the labels 'long' and 'short', from 0.5 each, and the folder of its code."""
    model = HeldModel(root / "model", root / "code")
    model.folder.mkdir(parents=True)
    model.code.mkdir()
    (model.code / "lengths.py").write_text(_CODE)
    manifest = {"task": "lengths", "model": "lengths:Lengths", "preprocessor": "none", "labels": ["long", "short"]}
    manifest |= {"thresholds": [0.5, 0.5], "text_columns": list(text_columns)}
    (model.folder / "trainingtask.json").write_text(json.dumps(manifest))
    return model


@dataclass(frozen=True)
class ModelServer:
    """A running server."""

    process: subprocess.Popen[str]
    client: httpx.Client
    url: str


COMMAND = """\
import sys
from trainingtask_trainer.__main__ import main
from trainingtask_trainer.serving import server

server._DRAIN_SECONDS = {}
sys.exit(main())
"""


@contextmanager
def run_model_server(*arguments: str, drain_seconds: float = 1.0) -> Iterator[ModelServer]:
    """Serve a model in a process while entered; after SIGTERM it accepts connections for so many seconds."""
    command = [sys.executable, "-c", COMMAND.format(drain_seconds), "serve", "--port=0", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            line = process.stderr.readline()
            found = re.search(r"http://\S+", line)
            assert found, line + process.stderr.read()
            with httpx.Client(base_url=found[0], timeout=60) as client:
                yield ModelServer(process, client, found[0])
        finally:
            process.kill()
