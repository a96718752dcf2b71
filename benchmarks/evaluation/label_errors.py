"""How many of 5 % wrong labels, planted into GoEmotions, are found: confident learning, the plain loss, and chance.

    python benchmarks/evaluation/label_errors.py FOLDER [--models MODEL ...] [--seeds N ...]

FOLDER holds GoEmotions. Of the training rows, 5 % of the given labels are each replaced by a random label that the row
does not carry: as many labels are missing then as are surplus. Validation rows stay as they are. Precision at k is the
share of planted errors among the first k labels of a list, where k is the number planted, and a tenth of it. GoEmotions has
wrong labels of its own, which count as false alarms here.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainingtask_api.spec import TrainingTaskSpec
from trainingtask_trainer import registry
from trainingtask_trainer.artifacts.label_issues import select_suspected
from trainingtask_trainer.datasets.base import LabelMatrix, RawData, Split
from trainingtask_trainer.datasets.go_emotions import GoEmotions
from trainingtask_trainer.datasets.splits import assign_folds
from trainingtask_trainer.evaluation.decisions import DecisionRule
from trainingtask_trainer.evaluation.label_errors import Mistakes, PredictedRows, report_label_errors
from trainingtask_trainer.evaluation.repeated_texts import RepeatedTexts
from trainingtask_trainer.evaluation.thresholds import choose_thresholds
from trainingtask_trainer.models.base import TrainingRows
from trainingtask_trainer.models.out_of_fold import SharedProgress, predict_out_of_fold
from trainingtask_trainer.preprocessors.tfidf import Tfidf
from trainingtask_trainer.volumes import Volumes

FOLDS = 5
SHARE = 0.05

Mask = NDArray[np.bool_]
Ranking = NDArray[np.float64]
"""Of each label decision, shape [rows, labels]: the higher, the more suspicious."""


class Planted(NamedTuple):
    """Labels with errors, of shape [rows, labels]."""

    given: LabelMatrix
    missing: Mask
    surplus: Mask


def main() -> None:
    """Print a line for each model and list, means over the seeds."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="the folder of GoEmotions")
    parser.add_argument("--models", nargs="+", default=["logistic_regression", "linear_svc"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    options = parser.parse_args()
    print("| model | errors | list | precision at k | at k/10 | suspected | of the planted |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for model in options.models:
        spec = TrainingTaskSpec.model_validate(
            {
                "dataset": {"name": "go_emotions", "volumeClaim": "data", "path": options.folder.name},
                "model": {"name": model},
            }
        )
        raw = GoEmotions().load(spec.dataset, options.folder.parent)
        found = [list(measure(spec, raw, seed)) for seed in options.seeds]
        for lines in zip(*found, strict=True):
            numbers = np.mean([line[2:] for line in lines], axis=0)
            shown = [f"{numbers[0]:.3f}", f"{numbers[1]:.3f}"]
            shown += ["", ""] if np.isnan(numbers[2]) else [f"{numbers[2]:,.0f}", f"{numbers[3]:.1%}"]
            print(f"| {model} | {' | '.join([*lines[0][:2], *shown])} |", flush=True)


def measure(spec: TrainingTaskSpec, raw: RawData, seed: int) -> Iterator[tuple[str, str, float, float, float, float]]:
    """Yield kind of error and list, precision at k and at k/10, the number suspected and its share of the errors."""
    planted = plant_errors(raw.train.labels, np.random.RandomState(seed))
    part = predict(spec, raw, planted.given, seed)
    probabilities, given = part.probabilities, planted.given == 1
    report = report_label_errors(raw.label_names, [part], FOLDS, RepeatedTexts(0, 0))
    suspected = select_suspected(report.mistakes)
    # Margins: of the given class over the other one, of which self-confidence is half, plus one half.
    loss = np.where(given, 1 - probabilities, probabilities)
    there, absent = (
        np.array([column[rows].mean() for column, rows in zip(values.T, classes.T, strict=True)])
        for values, classes in ((probabilities, given), (1 - probabilities, ~given))
    )
    is_there, is_absent = probabilities >= there, 1 - probabilities >= absent
    disagrees = np.where(given, is_absent & (~is_there | (loss > 0.5)), is_there & (~is_absent | (loss > 0.5)))
    adjusted = (1 - probabilities - absent) - (probabilities - there)
    rankings: dict[str, Ranking] = {
        "random": np.random.RandomState(seed).random_sample(loss.shape),
        "plain loss": loss,
        "confident learning, by normalized margin": loss + disagrees,
        "confident learning, thresholds subtracted": np.where(given, adjusted, -adjusted) + 10 * disagrees,
    }
    for kind, wrong, candidates in (("missing", planted.missing, ~given), ("surplus", planted.surplus, given)):
        for name, ranking in rankings.items():
            hits = wrong[candidates][np.argsort(-ranking[candidates], kind="stable")]
            yield kind, name, *compute_precision(hits, int(wrong.sum())), np.nan, np.nan
        chosen = suspected.select(suspected.is_missing == (kind == "missing"))
        hits = wrong[chosen.rows, chosen.labels]
        found = select_suspected_of_kind(report.mistakes, kind)
        share = wrong[found.rows, found.labels].sum() / wrong.sum()
        yield kind, "label-issues.csv", *compute_precision(hits, int(wrong.sum())), len(found.rows), share


def select_suspected_of_kind(mistakes: Mistakes, kind: str) -> Mistakes:
    """Return all suspected labels of a kind, also those beyond the length of label-issues.csv."""
    return mistakes.select(mistakes.is_suspected & (mistakes.is_missing == (kind == "missing")))


def plant_errors(truth: LabelMatrix, random: np.random.RandomState) -> Planted:
    """Return the labels after some of them were replaced by another one."""
    given, missing, surplus = truth.copy(), np.zeros(truth.shape, dtype=bool), np.zeros(truth.shape, dtype=bool)
    rows, labels = truth.nonzero()
    for index in random.permutation(len(rows))[: round(SHARE * len(rows))]:
        row = rows[index]
        free = np.flatnonzero((truth[row] == 0) & ~surplus[row])
        missing[row, labels[index]] = surplus[row, random.choice(free)] = True
    given[missing] = 0
    given[surplus] = 1
    return Planted(given, missing, surplus)


def predict(spec: TrainingTaskSpec, raw: RawData, given: LabelMatrix, seed: int) -> PredictedRows:
    """Return the training rows with what the trainer predicts of them out of fold."""
    assert raw.validation is not None  # noqa: S101 - GoEmotions has one
    volumes = Volumes(Path(), Path(), Path())
    preprocessor = Tfidf(spec, volumes)
    preprocessor.fit(raw.train.texts)
    validation = preprocessor.transform(raw.validation.texts)
    rows = TrainingRows(
        preprocessor.transform(raw.train.texts), given, validation, raw.validation.labels, raw.label_names
    )
    progress = SharedProgress(lambda step: None, 1 + FOLDS)
    model, *fold_models = (registry.load("models", spec.model.name)(spec, volumes) for _ in range(1 + FOLDS))
    model.fit(rows, preprocessor, progress, None)
    thresholds = choose_thresholds(None, raw.validation.labels, model.predict(validation)).values
    split = Split(raw.train.texts, given)
    folds = assign_folds(split, FOLDS, seed)
    found = predict_out_of_fold(fold_models, rows, folds, preprocessor, progress)
    return PredictedRows("train", split, found, DecisionRule(thresholds).predict(found))


def compute_precision(hits: Mask, planted: int) -> tuple[float, float]:
    """Return the share of hits among the first k of a list, and among the first tenth of k."""
    return float(hits[:planted].mean()), float(hits[: planted // 10].mean())


if __name__ == "__main__":
    main()
