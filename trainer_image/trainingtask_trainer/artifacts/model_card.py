"""The model card: a README.md beside the model that says what it is, how well it works and how to use it."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from trainingtask_api.scores import LabelScore
from trainingtask_api.status import Results, Scalar
from trainingtask_trainer.reporting.progress import CurvePoint

CARD_FILE = "README.md"
CURVE_FILE = "curve.png"
LABELS_FILE = "per-label-f1.png"

Cell = Scalar | None


def write_card(folder: Path, name: str, results: Results, curve: Sequence[CurvePoint]) -> None:
    """Write the card of a model and its pictures into the model's folder.

    Parameters
    ----------
    folder
        Where the model's files are.
    name
        Name of the task.
    results
        What came out.
    curve
        Losses and scores by optimiser step; empty for a model that knows none, which then has no picture of it.
    """
    from trainingtask_trainer.artifacts import plots  # noqa: PLC0415 - matplotlib

    scores = results.evaluation
    if curve:
        plots.draw_curve(curve, folder / CURVE_FILE)
    plots.draw_label_scores(scores.per_label, scores.macro.f1, folder / LABELS_FILE)
    sections = (
        _head(name, results),
        _scores(results),
        _labels(results),
        _training(results, bool(curve)),
        _data(results),
        _table("Arguments", ("argument", "value"), ((path, str(value)) for path, value in results.arguments.items())),
        _table("Versions", ("package", "version"), results.versions.items()),
    )
    (folder / CARD_FILE).write_text("\n\n".join(sections) + "\n", encoding="utf-8")


def _head(name: str, results: Results) -> str:
    arguments = results.arguments
    parts = [
        f"# {_text(name)}",
        f"A {_text(arguments['model.name'])} model that gives texts any of {results.labels} labels, trained on "
        f"{_text(arguments['dataset.name'])} by a TrainingTask.",
        "```sh\ntrainingtask-trainer predict THIS_FOLDER 'a text'\n```",
    ]
    if results.warnings:
        parts.append("## Warnings\n\n" + "\n".join(f"- {_text(warning)}" for warning in results.warnings))
    return "\n\n".join(parts)


def _scores(results: Results) -> str:
    scores = results.evaluation
    threshold = (
        "each label has a threshold of its own" if scores.threshold is None else f"threshold {scores.threshold:.4f}"
    )
    chosen = {
        "fixed": "fixed by the task",
        "global": "the best micro-F1 on the validation rows",
        "per_label": "the label's best F1 on the validation rows",
    }[scores.threshold_source]
    averages = (
        ("micro", scores.micro),
        ("macro", scores.macro),
        ("weighted by support", scores.weighted),
        ("samples", scores.samples),
    )
    others = (
        ("ROC-AUC, mean over labels", scores.roc_auc),
        ("label ranking average precision", scores.label_ranking_average_precision),
        ("subset accuracy", scores.subset_accuracy),
        ("Hamming loss", scores.hamming_loss),
    )
    parts = [
        _table(
            f"Scores on {scores.rows} {_text(scores.split)} rows",
            ("", "this model", "baseline: label prior", "baseline: no label"),
            scores.beside_baselines(),
        ),
        f"Labels are predicted by their probability: {threshold} ({chosen}). The label prior gives every row the labels' "
        "shares of the training rows as probabilities.",
        _rows(
            ("", "precision", "recall", "F1"),
            ((name, mean.precision, mean.recall, mean.f1) for name, mean in averages),
        ),
        _rows(("", "this model"), others),
    ]
    if scores.undefined:
        parts.append("What is not defined, or not for all:")
        parts.append("\n".join(f"- `{path}`: {_text(why)}" for path, why in sorted(scores.undefined.items())))
    return "\n\n".join(parts)


def _labels(results: Results) -> str:
    def row(score: LabelScore) -> tuple[Cell, ...]:
        ours = (score.precision, score.recall, score.f1, score.average_precision)
        return (score.label, *ours, score.support, score.threshold)

    columns = ("label", "precision", "recall", "F1", "average precision", "test rows", "threshold")
    picture = f"![F1 and average precision of each label]({LABELS_FILE})"
    return f"## Labels\n\n{picture}\n\n{_rows(columns, map(row, results.evaluation.per_label))}"


def _training(results: Results, has_curve: bool) -> str:
    validation = results.validation
    facts: list[tuple[str, Cell]] = [
        ("optimiser steps", results.global_step),
        ("epoch of the kept weights", results.best_epoch),
        ("resumed from step", results.resumed_from_step),
        ("training loss", results.training_loss),
        ("validation loss", validation.loss),
        ("validation micro-F1 at the chosen thresholds", validation.micro_f1),
        ("validation macro-F1 at the chosen thresholds", validation.macro_f1),
        ("validation mean average precision", validation.mean_average_precision),
        ("seconds", f"{results.runtime_seconds:.1f}"),
        ("rows per second", f"{results.samples_per_second:.1f}"),
        ("tokens per second", None if results.tokens_per_second is None else f"{results.tokens_per_second:.0f}"),
        ("peak memory, MiB", None if results.peak_memory_bytes is None else results.peak_memory_bytes >> 20),
    ]
    table = _table("Training", ("", ""), (fact for fact in facts if fact[1] is not None))
    return f"{table}\n\n![Losses and scores by optimiser step]({CURVE_FILE})" if has_curve else table


def _data(results: Results) -> str:
    facts: tuple[tuple[str, Cell], ...] = (
        ("training rows", results.train_rows),
        ("validation rows", results.validation_rows),
        ("test rows", results.evaluation.rows),
        ("validation rows whose text stands in the training rows", results.validation_texts_in_train),
        ("test rows whose text stands in the training rows", results.test_texts_in_train),
        ("SHA-256 of texts and labels", results.data_fingerprint),
    )
    return _table("Data", ("", ""), facts)


def _table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    return f"## {title}\n\n{_rows(columns, rows)}"


def _rows(columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    """Return a Markdown table: the first column is words, the others are flush right."""
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)]]
    return "\n".join(f"| {' | '.join(line)} |" for line in [*lines, *([_cell(cell) for cell in row] for row in rows)])


def _cell(value: Cell) -> str:
    """Return a table's cell: four digits of a score, a dash for what is undefined."""
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else _text(value)


def _text(value: Scalar) -> str:
    """Return text that Markdown shows as it is."""
    # An underscore between letters is one; at a word's edge it would be emphasis.
    return re.sub(r"([\\`*\[\]<>|~#&$]|\b_|_\b)", r"\\\1", " ".join(str(value).split()))
