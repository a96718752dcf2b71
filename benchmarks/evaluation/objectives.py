"""Scores of trained models by how their thresholds are chosen, from the probabilities that stand beside them.

    python benchmarks/evaluation/objectives.py FOLDER ...

Thresholds are chosen on the validation rows of each model's `predictions.parquet`; micro-F1 and macro-F1 are those of
its validation and of its test rows. Several models are several seeds of one task: the last lines are their means.
"""

import argparse
import itertools
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from trainingtask_api.training import Evaluation, Objective, ThresholdTuning
from trainingtask_trainer.artifacts.predictions import Metadata
from trainingtask_trainer.evaluation.decisions import DecisionRule
from trainingtask_trainer.evaluation.evaluator import ScoredRows
from trainingtask_trainer.evaluation.metrics import Decisions, Floats
from trainingtask_trainer.evaluation.thresholds import choose_thresholds

CHOICES = [
    Evaluation(threshold_tuning=tuning, objective=objective, at_least_one=at_least_one)
    for tuning, objective, at_least_one in itertools.product(
        ThresholdTuning, (Objective.MICRO_F1, Objective.MACRO_F1), (False, True)
    )
]


def main() -> None:
    """Print a table with a row for each model and choice."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folders", nargs="+", type=Path, help="models with their predictions.parquet")
    folders: list[Path] = parser.parse_args().folders
    print(
        "| model | thresholds | objective | at least one | validation: micro-F1 | macro-F1 | test: micro-F1 | macro-F1 |"
    )
    print("|---|---|---|---|---|---|---|---|")
    scores = {folder.name: score(folder) for folder in folders}
    means = {"mean": np.mean(list(scores.values()), axis=0)} if len(scores) > 1 else {}
    for name, table in {**scores, **means}.items():
        for choice, found in zip(CHOICES, table, strict=True):
            chosen = (choice.threshold_tuning, choice.objective, "yes" if choice.at_least_one else "no")
            print(f"| {' | '.join([name, *map(str, chosen), *(f'{value:.3f}' for value in found)])} |")


def score(folder: Path) -> Floats:
    """Return micro- and macro-F1 of the validation and of the test rows, shape [choices, 4]."""
    validation, test = read_rows(folder, "validation"), read_rows(folder, "test")
    return np.array(
        [[*score_rows(choice, validation, validation), *score_rows(choice, validation, test)] for choice in CHOICES]
    )


def read_rows(folder: Path, *splits: str) -> ScoredRows:
    """Return the true labels and the probabilities of a model's rows of these splits."""
    table = pq.read_table(folder / "predictions.parquet", filters=pc.field("split").isin(splits))
    names = Metadata.model_validate_json(table.schema.metadata[b"trainingtask"]).labels
    truth = [[name in labels for name in names] for labels in table["labels"].to_pylist()]
    probabilities = table["probabilities"].combine_chunks().flatten().to_numpy().reshape(-1, len(names))
    return ScoredRows(np.array(truth, np.uint8), probabilities)


def score_rows(choice: Evaluation, tuned: ScoredRows, scored: ScoredRows) -> tuple[float, float]:
    """Return micro-F1 and macro-F1 of rows at the thresholds that other rows give."""
    thresholds = choose_thresholds(choice, tuned.truth, tuned.probabilities)
    predicted = DecisionRule(thresholds.values, choice.at_least_one).predict(scored.probabilities)
    micro, per_label = (Decisions.of(scored.truth, predicted, axis).f1 for axis in (None, 0))
    return float(micro), float(np.nanmean(per_label))


if __name__ == "__main__":
    main()
