"""Choose a classical model for Cross Validated by rows that no candidate was fitted on, and score it on the test rows.

    python benchmarks/evaluation/model_choice.py --data-dir DIR [--work-dir DIR]

Every candidate is trained on three splits with `evaluation.folds: 5`, as `trainingtask-trainer run`; what has been trained
before is not trained again. In each split the choice is the candidate with the best micro-F1 over its training rows, whose
probabilities are out of fold, and its validation rows together, with the one threshold that is best there. It is then scored
on the test rows with that threshold. No test row has a part in the choice.

A second table has what these thresholds gain on the test rows against those of the validation rows alone: means over all
candidates of a split.
"""

import argparse
import itertools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from objectives import read_rows, score_rows

from trainingtask_api.training import Evaluation, ThresholdTuning
from trainingtask_trainer.evaluation.metrics import Floats

SEEDS = (42, 1, 2)
PENALTIES = {"linear_svc": (0.1, 0.2, 0.5), "logistic_regression": (3.0, 10.0)}


class Candidate(NamedTuple):
    """A model, its terms, and how its labels are decided."""

    model: str
    inverse_regularization: float
    character_ngram_max: int | None
    pos_weight: str | None

    def make_spec(self, seed: int) -> dict[str, Any]:
        """Return the spec of its task on the split of that seed."""
        training = {"inverseRegularization": self.inverse_regularization, "posWeight": self.pos_weight}
        preprocessor = {"characterNgramMax": self.character_ngram_max}
        return {
            "dataset": {
                "name": "cross_validated",
                "volumeClaim": "training-data",
                "path": "cross_validated",
                "topLabels": 8,
                "seed": seed,
            },
            "preprocessor": {key: value for key, value in preprocessor.items() if value},
            "model": {"name": self.model},
            "training": {key: value for key, value in training.items() if value},
            "evaluation": {"folds": 5},
            "output": {"volumeClaim": "models"},
        }


class Line(NamedTuple):
    """What a candidate scores on a split."""

    candidate: Candidate
    evaluation: Evaluation
    scores: Floats
    """Micro- and macro-F1 out of fold, of the test rows, and of the test rows with the validation rows' thresholds."""


CANDIDATES = [
    Candidate(model, penalty, ngram, weight)
    for model, penalties in PENALTIES.items()
    for penalty, ngram, weight in itertools.product(penalties, (None, 5), (None, "balanced"))
]
CHOICES = [Evaluation(at_least_one=at_least_one) for at_least_one in (False, True)]
PER_LABEL = [Evaluation(threshold_tuning=ThresholdTuning.PER_LABEL, at_least_one=one.at_least_one) for one in CHOICES]


def main() -> None:
    """Train what is missing, and print each split's candidates by their score, and the choice."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data-dir", type=Path, required=True, help="holds cross_validated")
    parser.add_argument("--work-dir", type=Path, default=Path("out/model-choice"), help="keeps what has been trained")
    options = parser.parse_args()
    print("| split | candidate | at least one | out of fold: micro-F1 | macro-F1 | test: micro-F1 | macro-F1 |")
    print("|---|---|---|---|---|---|---|", flush=True)
    chosen = []
    scored = {seed: list(score_candidates(seed, options)) for seed in SEEDS}
    for seed, lines in scored.items():
        ranked = sorted((line for line in lines if line.evaluation in CHOICES), key=lambda line: -line.scores[0])
        for line in ranked:
            name = ", ".join(str(part) for part in line.candidate if part)
            print(f"| {seed} | {name} | {format_cells(line.evaluation.at_least_one, *line.scores[:4])} |")
        chosen.append(ranked[0].scores[:4])
    print(f"| mean | the first of each split | | {format_cells(*np.mean(chosen, axis=0))} |\n")
    print(
        "| split | thresholds | at least one | validation rows alone: micro-F1 | macro-F1 | with folds: micro-F1 | macro-F1 |"
    )
    print("|---|---|---|---|---|---|---|")
    for seed, evaluation in itertools.product(SEEDS, [*CHOICES, *PER_LABEL]):
        scores = np.mean([line.scores for line in scored[seed] if line.evaluation == evaluation], axis=0)
        tuning = evaluation.threshold_tuning or ThresholdTuning.GLOBAL
        print(f"| {seed} | {tuning} | {format_cells(evaluation.at_least_one, *scores[4:], *scores[2:4])} |")


def format_cells(*values: float | bool) -> str:
    """Return cells of a table."""
    return " | ".join(("no", "yes")[value] if isinstance(value, bool) else f"{value:.3f}" for value in values)


def score_candidates(seed: int, options: argparse.Namespace) -> Iterator[Line]:
    """Yield each candidate of a split with its scores by each evaluation."""
    for candidate in CANDIDATES:
        folder = train(candidate, seed, options)
        known, validation, test = (
            read_rows(folder, *splits) for splits in (("train", "validation"), ("validation",), ("test",))
        )
        for evaluation in (*CHOICES, *PER_LABEL):
            pairs = (known, known), (known, test), (validation, test)
            yield Line(
                candidate, evaluation, np.array([score for pair in pairs for score in score_rows(evaluation, *pair)])
            )


def train(candidate: Candidate, seed: int, options: argparse.Namespace) -> Path:
    """Return the folder of a trained model."""
    name = "-".join(str(part).lower().replace("_", "-").replace(".", "-") for part in (*candidate, seed))
    file = options.work_dir / f"{name}.yaml"
    folder: Path = options.work_dir / "models" / name
    if not (folder / "trainingtask.json").exists():  # written last
        options.work_dir.mkdir(parents=True, exist_ok=True)
        task = {"apiVersion": "trainingtask.dev/v1alpha1", "kind": "TrainingTask", "metadata": {"name": name}}
        file.write_text(yaml.safe_dump(task | {"spec": candidate.make_spec(seed)}))
        command = [Path(sys.executable).with_name("trainingtask-trainer"), "run", file]
        folders = [f"--dataset-dir={options.data_dir}", f"--output-dir={folder.parent}"]
        history = f"--history=sqlite:///{options.work_dir / 'history.db'}"
        subprocess.run([*command, *folders, history], stdout=sys.stderr, check=True)
    return folder


if __name__ == "__main__":
    main()
