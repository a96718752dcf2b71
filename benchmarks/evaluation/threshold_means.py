"""Macro-F1 and micro-F1 with a label's own threshold as the best one on the rows, and as the mean over bootstrap samples.

    python benchmarks/evaluation/threshold_means.py FOLDER ...

Thresholds per label are chosen for macro-F1 on all validation rows of each model's `predictions.parquet`, and on a fifth of them,
drawn five times; scores are those of its test rows, mean and standard deviation.
"""

import argparse
from pathlib import Path
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray
from objectives import read_rows, score_rows

from trainingtask_api.training import Evaluation, Objective, ThresholdTuning
from trainingtask_trainer.evaluation import thresholds
from trainingtask_trainer.evaluation.candidates import Candidates
from trainingtask_trainer.evaluation.evaluator import ScoredRows
from trainingtask_trainer.evaluation.metrics import Floats
from trainingtask_trainer.evaluation.objectives import Goal

MACRO_F1 = Evaluation(threshold_tuning=ThresholdTuning.PER_LABEL, objective=Objective.MACRO_F1)
DRAWS = 5


def main() -> None:
    """Print two lines for each model."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folders", nargs="+", type=Path, help="models with their predictions.parquet")
    print("| model | validation rows | macro-F1: best on the rows | mean of samples | micro-F1 | with it |")
    print("|---|---|---|---|---|---|")
    for folder in parser.parse_args().folders:
        validation, test = read_rows(folder, "validation"), read_rows(folder, "test")
        count = len(validation.truth)
        orders = [np.random.default_rng(seed).permutation(count) for seed in range(DRAWS)]
        for name, parts in (("all", orders[:1]), ("a fifth", [order[: count // 5] for order in orders])):
            found = np.array([score(validation, part, test) for part in parts])
            cells = [f"{mean:.4f} ± {spread:.4f}" for mean, spread in zip(found.mean(0), found.std(0), strict=True)]
            print(f"| {folder.name} | {name} | {cells[1]} | {cells[3]} | {cells[0]} | {cells[2]} |", flush=True)


def score(validation: ScoredRows, rows: NDArray[np.intp], test: ScoredRows) -> tuple[float, ...]:
    """Return micro- and macro-F1 without and with the means, at thresholds of these validation rows."""
    tuned = ScoredRows(validation.truth[rows], validation.probabilities[rows])
    with patch.object(thresholds, "average_thresholds", select_thresholds):
        plain = score_rows(MACRO_F1, tuned, test)
    return (*plain, *score_rows(MACRO_F1, tuned, test))


def select_thresholds(goal: Goal, candidates: Candidates) -> Floats:
    """Return each group's best threshold on the rows themselves."""
    return candidates.thresholds[goal.select_candidates(candidates)]


if __name__ == "__main__":
    main()
