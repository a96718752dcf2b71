"""The model card: a README.md beside the model with its purpose, scores, arguments and versions."""

import re
from collections.abc import Sequence
from pathlib import Path

import jinja2

from trainingtask_api.scores import MAX_REPORTED_LABELS
from trainingtask_api.status import Results, Scalar
from trainingtask_api.training import Objective
from trainingtask_trainer.artifacts.card_metadata import render_metadata
from trainingtask_trainer.reporting.progress import CurvePoint

CARD_FILE = "README.md"
CURVE_FILE = "curve.png"
LABELS_FILE = "per-label-f1.png"
RELIABILITY_FILE = "reliability.png"

Cell = Scalar | None

_OBJECTIVES: dict[str | None, str] = {
    Objective.MICRO_F1: "micro-F1",
    Objective.MACRO_F1: "macro-F1",
    Objective.F_BETA: "F-beta",
    Objective.MIN_PRECISION: "recall at the wanted precision",
}


def write_card(folder: Path, name: str, results: Results, curve: Sequence[CurvePoint]) -> None:
    """Write the card of a model and its plots into the model's folder.

    Parameters
    ----------
    folder
        The folder of the model's files.
    name
        Name of the task.
    results
        The results of the run.
    curve
        Losses and scores by optimizer step; empty for a model without steps, which gets no plot of them.
    """
    from trainingtask_trainer.artifacts import plots  # noqa: PLC0415 - matplotlib

    scores = results.evaluation
    if curve:
        plots.draw_curve(curve, folder / CURVE_FILE)
    plots.draw_label_scores(scores.per_label, scores.macro.f1, folder / LABELS_FILE)
    if scores.calibration is not None:
        plots.draw_reliability(scores.calibration, folder / RELIABILITY_FILE)
    card = render_metadata(name, results) + render_card(name, results, has_curve=bool(curve))
    (folder / CARD_FILE).write_text(card, encoding="utf-8")


def render_card(name: str, results: Results, *, has_curve: bool) -> str:
    """Return the card as Markdown; no value in it can add markup."""
    environment = jinja2.Environment(  # noqa: S701 - Markdown, which `finalize` escapes
        loader=jinja2.PackageLoader("trainingtask_trainer.artifacts"),
        finalize=format_cell,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("model_card.md.j2").render(
        name=name,
        results=results,
        training_facts=_list_training_facts(results),
        length_facts=_list_length_facts(results),
        shown=results.evaluation.keep_labels(MAX_REPORTED_LABELS),
        objective=_OBJECTIVES.get(results.evaluation.objective),
        folds=results.label_errors and results.label_errors.folds,
        has_curve=has_curve,
        curve_file=CURVE_FILE,
        labels_file=LABELS_FILE,
        reliability_file=RELIABILITY_FILE,
    )


def format_cell(value: Cell) -> str:
    """Return four digits of a float, a dash for None, and any other value as text that Markdown shows as it is."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4f}"
    # An underscore between letters is plain text; at a word's edge it would be emphasis.
    return re.sub(r"([\\`*\[\]<>|~#&$]|\b_|_\b)", r"\\\1", " ".join(str(value).split()))


def _list_training_facts(results: Results) -> list[tuple[str, Cell]]:
    """Return names and values of what is known of the training."""
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
    return [fact for fact in facts if fact[1] is not None]


def _list_length_facts(results: Results) -> list[tuple[str, Cell]]:
    """Return names and values of the training texts' lengths."""
    lengths = results.text_lengths
    if lengths is None:
        return []
    return [
        ("tokens of a training text: half have at most", lengths.p50),
        ("tokens of a training text: 95 % have at most", lengths.p95),
        ("tokens of a training text: 99 % have at most", lengths.p99),
        ("tokens that the model reads; longer texts are cut", lengths.max_length),
        ("training texts that are cut", f"{lengths.cut_fraction:.1%}"),
    ]
