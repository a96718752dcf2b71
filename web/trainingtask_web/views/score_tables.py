"""The scores of a run, as far as its row holds them: beside its baselines, by label, and what to know of them. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainingtask_history.queries import RunDetail
from trainingtask_web.views import formatting
from trainingtask_web.views.run_view import at, flat, get_list, get_number


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


def build_scores(run: RunDetail) -> Scores | None:
    """Return the scores of a run, None when it has none."""
    result = run.evaluate_result
    if not result:
        return None
    beside = [_beside(metric, result) for metric in METRICS if metric.baseline]
    others = [(metric.title, get_number(result, *metric.path)) for metric in METRICS if not metric.baseline]
    return Scores(
        headline=[(row.title, row.model) for row in beside[:3] if row.model is not None],
        beside=[row for row in beside if row.model is not None],
        others=[(title, value) for title, value in others if value is not None],
        labels=build_label_rows(result),
        undefined=list(flat(at(result, "undefined"))),
        about=_about(result),
    )


def _beside(metric: Metric, result: Mapping[str, Any]) -> ScoreRow:
    ours = get_number(result, *metric.path)
    prior, zero = (get_number(result, name, metric.baseline or "") for name in ("label_prior", "all_zero"))
    known = [value for value in (prior, zero) if value is not None]
    verdict = ""
    if ours is not None and known:
        wins = ours < min(known) if metric.less_is_better else ours > max(known)
        verdict = "better" if wins else "worse"
    return ScoreRow(metric.title, ours, prior, zero, verdict)


def _about(result: Mapping[str, Any]) -> str:
    rows = get_number(result, "rows")
    parts = [f"{formatting.format_number(rows)} {at(result, 'split') or 'test'} rows"] if rows is not None else []
    threshold, source = get_number(result, "threshold"), at(result, "threshold_source")
    if threshold is not None:
        parts.append(f"threshold {formatting.format_score(threshold)}")
    if source is not None:
        chosen = {
            "fixed": "fixed by the task",
            "global": "tuned on the validation rows",
            "per_label": "a threshold for each label, tuned on the validation rows",
        }
        parts.append(chosen.get(str(source), str(source)))
    return ", ".join(parts)


def build_label_rows(result: Mapping[str, Any] | None) -> list[LabelRow]:
    """Return the scores by label: highest F1 first, those without one last."""
    rows = []
    for item in get_list(result, "per_label"):
        if not isinstance(item, Mapping):
            continue
        support = get_number(item, "support")
        rows.append(
            LabelRow(
                label=str(at(item, "label")),
                support=None if support is None else int(support),
                f1=get_number(item, "f1"),
                precision=get_number(item, "precision"),
                recall=get_number(item, "recall"),
                average_precision=get_number(item, "average_precision"),
                threshold=get_number(item, "threshold"),
            )
        )
    return sorted(rows, key=lambda row: (row.f1 is None, -(row.f1 or 0.0)))


def get_warnings(run: RunDetail) -> list[str]:
    """Return what a reader of the scores must know."""
    return [str(warning) for warning in get_list(run.training_result, "warnings")]


def list_training_facts(run: RunDetail) -> list[tuple[str, str]]:
    """Return what is known of the training itself."""
    result = run.training_result
    facts = {
        "Training rows": formatting.format_number(get_number(result, "train_rows")),
        "Validation rows": formatting.format_number(get_number(result, "validation_rows")),
        "Labels": formatting.format_number(get_number(result, "labels")),
        "Optimiser steps": formatting.format_number(get_number(result, "global_step")),
        "Best epoch": formatting.format_number(get_number(result, "best_epoch")),
        "Training took": formatting.format_duration(get_number(result, "runtime_seconds")),
        "Rows per second": formatting.format_number(get_number(result, "samples_per_second")),
        "Tokens per second": formatting.format_number(get_number(result, "tokens_per_second")),
        "Peak memory": formatting.format_size(get_number(result, "peak_memory_bytes")),
        "Resumed from step": formatting.format_number(get_number(result, "resumed_from_step")),
        "Final training loss": formatting.format_number(get_number(result, "training_loss")),
        "Validation micro-F1": formatting.format_score(get_number(result, "validation", "micro_f1")),
        "Test texts seen in training": formatting.format_number(get_number(result, "test_texts_in_train")),
        "Model folder": str(at(result, "model_path") or formatting.ABSENT),
        "Data fingerprint": str(at(result, "data_fingerprint") or formatting.ABSENT),
    }
    return [(name, value) for name, value in facts.items() if value != formatting.ABSENT]
