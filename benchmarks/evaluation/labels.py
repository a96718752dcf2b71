"""Time and peak memory of the evaluation over many labels; each number of labels in a process of its own.

    python benchmarks/evaluation/labels.py [--rows 10000] [LABELS ...]

Rows carry three labels on average, whose frequencies fall as 1 / rank; probabilities are float32.
"""

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from trainingtask_api.training import Evaluation, Objective, ThresholdTuning
from trainingtask_trainer.evaluation.evaluator import ScoredRows, evaluate
from trainingtask_trainer.evaluation.metrics import split_rows
from trainingtask_trainer.evaluation.thresholds import choose_thresholds

SPECS = {
    "micro-F1": Evaluation(),
    "macro-F1": Evaluation(objective=Objective.MACRO_F1),
    "per label": Evaluation(threshold_tuning=ThresholdTuning.PER_LABEL),
}
COLUMNS = ("labels", "matrix", *(f"thresholds, {name}" for name in SPECS), "evaluate", "peak memory")


def main() -> None:
    """Print a table with a row for each number of labels."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("labels", nargs="*", type=int, default=[100, 1_000, 10_000])
    parser.add_argument("--rows", type=int, default=10_000, help="of the validation and of the test part, each")
    parser.add_argument("--row", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        print(f"| {' | '.join(_measure(options.labels[0], options.rows))} |")
        return
    print(f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|", flush=True)
    for labels in options.labels:
        subprocess.run([sys.executable, __file__, str(labels), "--row", f"--rows={options.rows}"], check=True)


def _measure(labels: int, rows: int) -> list[str]:
    validation, test = (_draw(np.random.default_rng(seed), rows, labels) for seed in (0, 1))
    names = [f"label {label}" for label in range(labels)]

    def choose(spec: Evaluation) -> Any:
        return choose_thresholds(spec, validation.truth, validation.probabilities)

    times = [_time(lambda spec=spec: choose(spec)) for spec in SPECS.values()]
    whole = _time(
        lambda: evaluate(
            SPECS["per label"], names, train_labels=validation.truth, validation=validation, test=test, seconds=1.0
        )
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    size = validation.probabilities.nbytes >> 20
    return [f"{labels:,}", f"{size} MiB", *times, whole, f"{peak:,} MiB"]


def _draw(random: np.random.Generator, rows: int, labels: int) -> ScoredRows:
    shares = 1 / np.arange(1, labels + 1, dtype=np.float32)
    shares = np.minimum(3 * shares / shares.sum(), 0.5)
    truth = np.empty((rows, labels), dtype=np.uint8)
    probabilities = np.empty((rows, labels), dtype=np.float32)
    for block in split_rows(truth):
        shape = truth[block].shape
        truth[block] = random.random(shape, dtype=np.float32) < shares
        logits = random.standard_normal(shape, dtype=np.float32) + 3 * truth[block] + np.log(shares)
        probabilities[block] = 1 / (1 + np.exp(-logits))
    return ScoredRows(truth, probabilities)


def _time(work: Callable[[], Any]) -> str:
    """Return processor and wall-clock seconds."""
    started, cpu = time.perf_counter(), time.process_time()
    work()
    return f"{time.process_time() - cpu:.1f} s ({time.perf_counter() - started:.1f} s)"


if __name__ == "__main__":
    main()
