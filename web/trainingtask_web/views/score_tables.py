"""The scores of a run, as far as its row holds them: beside its baselines, by label, and what to know of them. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainingtask_history.read_models import RunDetail
from trainingtask_web.views import formatting
from trainingtask_web.views.run_view import at, flat, items_at, number_at


@dataclass(frozen=True)
class Metric:
    """A score that can be compared: where it stands in the row, and which direction is better."""

    title: str
    path: tuple[str, ...]
    less_is_better: bool = False
    baseline: str | None = None
    """Its name in a baseline, which is flat."""


METRICS = (
    Metric("micro-F1", ("micro", "f1"), baseline="micro_f1"),
    Metric("macro-F1", ("macro", "f1"), baseline="macro_f1"),
    Metric("mean average precision", ("mean_average_precision",), baseline="mean_average_precision"),
    Metric("accuracy_thresh", ("accuracy_thresh",), baseline="accuracy_thresh"),
    Metric("loss", ("loss",), less_is_better=True, baseline="loss"),
    Metric("weighted F1", ("weighted", "f1")),
    Metric("samples F1", ("samples", "f1")),
    Metric("micro precision", ("micro", "precision")),
    Metric("micro recall", ("micro", "recall")),
    Metric("macro precision", ("macro", "precision")),
    Metric("macro recall", ("macro", "recall")),
    Metric("subset accuracy", ("subset_accuracy",)),
    Metric("ROC AUC", ("roc_auc",)),
    Metric("label ranking average precision", ("label_ranking_average_precision",)),
    Metric("Hamming loss", ("hamming_loss",), less_is_better=True),
)


@dataclass(frozen=True)
class ScoreRow:
    """A score of the model, with those of the models that read no text."""

    title: str
    model: float | None
    prior: float | None
    zero: float | None
    verdict: str
    """'better', 'worse' or '' where there is nothing to say."""


@dataclass(frozen=True)
class LabelRow:
    """Scores of one label."""

    label: str
    support: int | None
    f1: float | None
    precision: float | None
    recall: float | None
    average_precision: float | None
    threshold: float | None


@dataclass(frozen=True)
class Scores:
    """All scores of a run."""

    headline: list[tuple[str, float]]
    beside: list[ScoreRow]
    others: list[tuple[str, float]]
    labels: list[LabelRow]
    undefined: list[tuple[str, str]]
    about: str
    """Which rows, which threshold."""


def scores_of(run: RunDetail) -> Scores | None:
    """Return the scores of a run, None when it has none."""
    result = run.evaluate_result
    if not result:
        return None
    beside = [_beside(metric, result) for metric in METRICS if metric.baseline]
    others = [(metric.title, number_at(result, *metric.path)) for metric in METRICS if not metric.baseline]
    return Scores(
        headline=[(row.title, row.model) for row in beside[:3] if row.model is not None],
        beside=[row for row in beside if row.model is not None],
        others=[(title, value) for title, value in others if value is not None],
        labels=labels_of(result),
        undefined=list(flat(at(result, "undefined"))),
        about=_about(result),
    )


def _beside(metric: Metric, result: Mapping[str, Any]) -> ScoreRow:
    ours = number_at(result, *metric.path)
    prior, zero = (number_at(result, name, metric.baseline or "") for name in ("label_prior", "all_zero"))
    known = [value for value in (prior, zero) if value is not None]
    verdict = ""
    if ours is not None and known:
        wins = ours < min(known) if metric.less_is_better else ours > max(known)
        verdict = "better" if wins else "worse"
    return ScoreRow(metric.title, ours, prior, zero, verdict)


def _about(result: Mapping[str, Any]) -> str:
    rows = number_at(result, "rows")
    parts = [f"{formatting.number(rows)} {at(result, 'split') or 'test'} rows"] if rows is not None else []
    threshold, source = number_at(result, "threshold"), at(result, "threshold_source")
    if threshold is not None:
        parts.append(f"threshold {formatting.score(threshold)}")
    if source is not None:
        chosen = {
            "fixed": "fixed by the task",
            "global": "tuned on the validation rows",
            "per_label": "a threshold for each label, tuned on the validation rows",
        }
        parts.append(chosen.get(str(source), str(source)))
    return ", ".join(parts)


def labels_of(result: Mapping[str, Any] | None) -> list[LabelRow]:
    """Return the scores by label: highest F1 first, those without one last."""
    rows = []
    for item in items_at(result, "per_label"):
        if not isinstance(item, Mapping):
            continue
        support = number_at(item, "support")
        rows.append(
            LabelRow(
                label=str(at(item, "label")),
                support=None if support is None else int(support),
                f1=number_at(item, "f1"),
                precision=number_at(item, "precision"),
                recall=number_at(item, "recall"),
                average_precision=number_at(item, "average_precision"),
                threshold=number_at(item, "threshold"),
            )
        )
    return sorted(rows, key=lambda row: (row.f1 is None, -(row.f1 or 0.0)))


def warnings_of(run: RunDetail) -> list[str]:
    """Return what a reader of the scores must know."""
    return [str(warning) for warning in items_at(run.training_result, "warnings")]


def facts_of_training(run: RunDetail) -> list[tuple[str, str]]:
    """Return what is known of the training itself."""
    result = run.training_result
    facts = {
        "Training rows": formatting.number(number_at(result, "train_rows")),
        "Validation rows": formatting.number(number_at(result, "validation_rows")),
        "Labels": formatting.number(number_at(result, "labels")),
        "Optimiser steps": formatting.number(number_at(result, "global_step")),
        "Best epoch": formatting.number(number_at(result, "best_epoch")),
        "Training took": formatting.duration(number_at(result, "runtime_seconds")),
        "Rows per second": formatting.number(number_at(result, "samples_per_second")),
        "Tokens per second": formatting.number(number_at(result, "tokens_per_second")),
        "Peak memory": formatting.size(number_at(result, "peak_memory_bytes")),
        "Resumed from step": formatting.number(number_at(result, "resumed_from_step")),
        "Final training loss": formatting.number(number_at(result, "training_loss")),
        "Validation micro-F1": formatting.score(number_at(result, "validation", "micro_f1")),
        "Test texts seen in training": formatting.number(number_at(result, "test_texts_in_train")),
        "Model folder": str(at(result, "model_path") or formatting.ABSENT),
        "Data fingerprint": str(at(result, "data_fingerprint") or formatting.ABSENT),
    }
    return [(name, value) for name, value in facts.items() if value != formatting.ABSENT]
