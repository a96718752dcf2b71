"""The scores of a run, as far as its row holds them: against its baselines, by label, and facts about the training. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from pydantic import ValidationError

from trainingtask_api.exports import Export
from trainingtask_api.formatting import format_duration, format_size
from trainingtask_api.nested import flatten, get_path
from trainingtask_history.read_models import RunDetail
from trainingtask_web.views import formatting
from trainingtask_web.views.formatting import format_leaf
from trainingtask_web.views.numbers import get_list, get_number


@dataclass(frozen=True)
class Metric:
    """A score that can be compared: its path in the row, and which direction is better."""

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
    Metric("expected calibration error", ("calibration", "expected_calibration_error"), less_is_better=True),
    Metric("Brier score", ("calibration", "brier_score"), less_is_better=True),
)
# Labels on a page; of more, the best and the worst.
MAX_SHOWN_LABELS = 100
_MAX_WARNINGS, _MAX_UNDEFINED = 100, 500  # a trainer reports 16, and one for each label


@dataclass(frozen=True)
class ScoreRow:
    """A score of the model and of the baselines, which read no text."""

    title: str
    model: float | None
    prior: float | None
    zero: float | None
    verdict: str
    """'better' or 'worse' than both baselines; '' where a score is missing."""
    interval: str
    """The model's, with 95 % of its resampled scores; '' where it has none."""


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
    against_baselines: list[ScoreRow]
    others: list[tuple[str, float]]
    labels: list[LabelRow]
    """At most `MAX_SHOWN_LABELS`, best F1 first."""
    label_count: int
    undefined: list[tuple[str, str]]
    about: str
    """Number of rows, split, threshold and its source."""


def build_scores(run: RunDetail) -> Scores | None:
    """Return the scores of a run, None when it has none."""
    result = run.evaluate_result
    if not result:
        return None
    rows = [_compare_to_baselines(metric, result) for metric in METRICS if metric.baseline]
    labels = build_label_rows(result)
    others = [(metric.title, get_number(result, *metric.path)) for metric in METRICS if not metric.baseline]
    return Scores(
        headline=[(row.title, row.model) for row in rows[:3] if row.model is not None],
        against_baselines=[row for row in rows if row.model is not None],
        others=[(title, value) for title, value in others if value is not None],
        labels=_keep_ends(labels),
        label_count=len(labels),
        undefined=[
            (path, format_leaf(value)) for path, value in islice(flatten(get_path(result, "undefined")), _MAX_UNDEFINED)
        ],
        about=_describe_evaluation(result),
    )


def _compare_to_baselines(metric: Metric, result: Mapping[str, Any]) -> ScoreRow:
    model = get_number(result, *metric.path)
    prior, zero = (get_number(result, name, metric.baseline or "") for name in ("label_prior", "all_zero"))
    known = [value for value in (prior, zero) if value is not None]
    verdict = ""
    if model is not None and known:
        wins = model < min(known) if metric.less_is_better else model > max(known)
        verdict = "better" if wins else "worse"
    return ScoreRow(metric.title, model, prior, zero, verdict, _format_interval(result, metric.baseline or ""))


def _format_interval(result: Mapping[str, Any], name: str) -> str:
    low, high = (get_number(result, "intervals", name, end) for end in ("low", "high"))
    return "" if low is None or high is None else f"{formatting.format_score(low)} to {formatting.format_score(high)}"


def _describe_evaluation(result: Mapping[str, Any]) -> str:
    rows = get_number(result, "rows")
    parts = [f"{formatting.format_number(rows)} {get_path(result, 'split') or 'test'} rows"] if rows is not None else []
    threshold, source = get_number(result, "threshold"), get_path(result, "threshold_source")
    if threshold is not None:
        parts.append(f"threshold {formatting.format_score(threshold)}")
    if source is not None:
        chosen = {
            "fixed": "fixed by the task",
            "global": "tuned on rows held out from training",
            "per_label": "a threshold for each label, tuned on rows held out from training",
        }
        objective = get_path(result, "objective")
        parts.append(chosen.get(str(source), str(source)) + (f" for {objective}" if objective is not None else ""))
    temperature = get_number(result, "calibration", "temperature")
    if temperature is not None:
        parts.append(f"temperature {formatting.format_score(temperature)}")
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
                label=str(get_path(item, "label")),
                support=None if support is None else int(support),
                f1=get_number(item, "f1"),
                precision=get_number(item, "precision"),
                recall=get_number(item, "recall"),
                average_precision=get_number(item, "average_precision"),
                threshold=get_number(item, "threshold"),
            )
        )
    return sorted(rows, key=lambda row: (row.f1 is None, -(row.f1 or 0.0)))


def _keep_ends(labels: list[LabelRow]) -> list[LabelRow]:
    if len(labels) <= MAX_SHOWN_LABELS:
        return labels
    defined = [row for row in labels if row.f1 is not None]
    half = MAX_SHOWN_LABELS // 2
    return defined[:half] + defined[half:][-half:]


def get_warnings(run: RunDetail) -> list[str]:
    """Return the warnings about the scores."""
    return [str(warning) for warning in get_list(run.training_result, "warnings")[:_MAX_WARNINGS]]


def list_training_facts(run: RunDetail) -> list[tuple[str, str]]:
    """Return names and values of the training's figures, without absent ones."""
    result = run.training_result
    facts = {
        "Training rows": formatting.format_number(get_number(result, "train_rows")),
        "Validation rows": formatting.format_number(get_number(result, "validation_rows")),
        "Labels": formatting.format_number(get_number(result, "labels")),
        "Optimiser steps": formatting.format_number(get_number(result, "global_step")),
        "Best epoch": formatting.format_number(get_number(result, "best_epoch")),
        "Training took": formatting.or_absent(format_duration, get_number(result, "runtime_seconds")),
        "Rows per second": formatting.format_number(get_number(result, "samples_per_second")),
        "Tokens per second": formatting.format_number(get_number(result, "tokens_per_second")),
        "Peak memory": formatting.or_absent(format_size, get_number(result, "peak_memory_bytes")),
        "Resumed from step": formatting.format_number(get_number(result, "resumed_from_step")),
        "Final training loss": formatting.format_number(get_number(result, "training_loss")),
        "Validation micro-F1": formatting.format_score(get_number(result, "validation", "micro_f1")),
        "Text lengths": _describe_lengths(result) or formatting.ABSENT,
        "Test texts seen in training": formatting.format_number(get_number(result, "test_texts_in_train")),
        "Model folder": str(get_path(result, "model_path") or formatting.ABSENT),
        "Model address": str(get_path(result, "model_uri") or formatting.ABSENT),
        **{f"Export {get_path(item, 'format')}": _describe_export(item) for item in get_list(result, "exports")},
        "Data fingerprint": str(get_path(result, "data_fingerprint") or formatting.ABSENT),
    }
    return [(name, value) for name, value in facts.items() if value != formatting.ABSENT]


def _describe_export(item: Any) -> str:
    """Return an export as one phrase."""
    try:
        return Export.model_validate(item, by_name=True).describe()
    except (ValidationError, OverflowError):  # of another release, or of more digits than a float has
        return formatting.ABSENT


def _describe_lengths(result: Any) -> str | None:
    """Return the training texts' lengths as one phrase, None where a figure is missing."""
    keys = ("p50", "p95", "p99", "max_length", "cut_fraction")
    p50, p95, p99, most, cut = (get_number(result, "text_lengths", key) for key in keys)
    if p50 is None or p95 is None or p99 is None or most is None or cut is None:
        return None
    return f"p50 {p50:.0f}, p95 {p95:.0f}, p99 {p99:.0f} tokens; {cut:.1%} cut to {most:.0f}"
