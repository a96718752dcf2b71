"""Time from the start of the trainer's process to the end of its first training step, against bare imports."""

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import yaml
from transformers import BertTokenizer, DistilBertConfig, DistilBertModel

from trainingtask_api.names import API_VERSION, KIND

FLOOR = "import os, torch\nfrom transformers import DistilBertForSequenceClassification\nos._exit(0)"
# The same entry as the pod's; the process ends where the first step is told.
TRAINER = """
import os, sys
from trainingtask_trainer import __main__
from trainingtask_trainer.reporting.reporter import Reporter
Reporter.report_step = lambda self, step: os._exit(0) if step.step == 1 else None
__main__.main(sys.argv[1:])
os._exit(1)
"""


def startup(rounds: int) -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _write_checkpoint(folder / "tiny")
        _write_data(folder / "data")
        commands = {"torch and the model's class are imported": [FLOOR]}
        splits = {"go_emotions": "with its own splits", "support_tickets": "with splits that are stratified here"}
        for loop, data in (
            ("accelerate", "go_emotions"),
            ("trainer", "go_emotions"),
            ("accelerate", "support_tickets"),
        ):
            task = folder / f"{loop}-{data}.yaml"
            task.write_text(yaml.safe_dump(_task(loop, data)))
            options = {"dataset-dir": folder, "model-dir": folder, "output-dir": folder / task.stem}
            options["history"] = f"sqlite:///{folder}/history.db"
            command = [TRAINER, "run", str(task), *(f"--{name}={value}" for name, value in options.items())]
            commands[f"the first training step, loop '{loop}', data {splits[data]}"] = command
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(rounds):
            for name, command in commands.items():
                seconds[name].append(_cpu_seconds(command))
    print("\n## Start of the process, CPU seconds")
    print("| until | seconds | ratio |\n|---|---|---|")
    medians = {name: float(np.median(measured)) for name, measured in seconds.items()}
    floor = next(iter(medians.values()))
    for name, median in medians.items():
        print(f"| {name} | {median:.2f} | {median / floor:.2f} |", flush=True)


def _cpu_seconds(command: list[str]) -> float:
    def used() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    before = used()
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", *command], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        sys.exit(f"{command[-1]}: {done.stdout}{done.stderr}")
    return used() - before


def _write_checkpoint(folder: Path) -> None:
    """Write a checkpoint so small that what is measured is not its size."""
    folder.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]
    (folder / "vocab.txt").write_text("\n".join([*words, *(f"##{word}" for word in words[5:])]))
    config = DistilBertConfig(vocab_size=100, dim=32, n_layers=1, n_heads=2, hidden_dim=32, max_position_embeddings=64)
    DistilBertModel(config).save_pretrained(folder)
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)


def _write_data(folder: Path) -> None:
    """Write files like those of go_emotions."""
    folder.mkdir()
    (folder / "labels.txt").write_text("joy\nanger\n")
    for split in ("train", "dev", "test"):
        (folder / f"{split}.tsv").write_text("".join(f"a text {row}\t{row % 2}\tid{row}\n" for row in range(100)))


def _task(loop: str, data: str) -> dict[str, object]:
    files = {"volumeClaim": "data", "path": "data"} if data == "go_emotions" else {}
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": "startup"},
        "spec": {
            "dataset": {"name": data, **files},
            "model": {"name": "distilbert", "volumeClaim": "models", "checkpoint": "tiny"},
            "training": {"loop": loop},
        },
    }
