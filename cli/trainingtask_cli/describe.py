"""A task -> the sections of `describe`: facts, conditions, attempts, scores. Pure."""

from datetime import datetime
from typing import Any

from trainingtask_api import EvaluationResult, TrainingReport, TrainingTaskStatus
from trainingtask_api.formatting import format_age, format_size
from trainingtask_api.nested import get_path
from trainingtask_api.status import SUMMARY_CONDITIONS, TextLengths
from trainingtask_cli.formatting import Cell, format_elapsed, format_time, format_time_and_age
from trainingtask_cli.output import Table
from trainingtask_cli.parsing import Object, get_spec, parse_status, primary_condition
from trainingtask_cli.tables import get_creation_time

Section = Table | str


def build_sections(task: Object, now: datetime) -> list[Section]:
    """Return the sections of `describe`."""
    status = parse_status(task)
    report = status.training
    results = report.results if report else None
    return [
        Table(("", ""), _list_facts(task, status, now), wrapped=frozenset({""})),
        *_build_conditions(task, status),
        *_build_attempts(status, now),
        *(build_score_sections(results.evaluation, results.warnings) if results else []),
    ]


def describe_condition(task: Object) -> str:
    """Return reason and message of the task's state in words."""
    condition = primary_condition(parse_status(task))
    return (
        f"{condition.reason}: {condition.message}"
        if condition
        else "The operator has not looked at it yet: is it running?"
    )


def _list_facts(task: Object, status: TrainingTaskStatus, now: datetime) -> list[tuple[Cell, ...]]:
    spec = get_spec(task)
    condition = primary_condition(status)
    unseen = "the operator has not looked at it yet: is it running, and does it watch this namespace?"
    facts: dict[str, Cell] = {
        "Name": get_path(task, "metadata", "name"),
        "Namespace": get_path(task, "metadata", "namespace"),
        "State": status.state or "none",
        "Reason": f"{condition.reason}: {condition.message}"
        if condition
        else status.reason or (None if status.state else unseen),
        "Data set": " ".join(
            filter(None, (get_path(spec, "dataset", "name"), _format_source(get_path(spec, "dataset"), "path")))
        ),
        "Model": " ".join(
            filter(None, (get_path(spec, "model", "name"), _format_source(get_path(spec, "model"), "checkpoint")))
        ),
        "Device": get_path(spec, "device"),
        "Output": next(filter(None, (get_path(spec, "output", kind) for kind in ("volumeClaim", "uri", "hub"))), None),
        "Created": format_time_and_age(get_creation_time(task), now),
        "Started": format_time_and_age(status.start_time, now),
        "Ended": format_time_and_age(status.finished_at, now),
        "Took": format_elapsed(status.start_time, status.finished_at),
        "Progress": format_progress(status),
        "Job": status.job_name,
        "Node": status.node,
    }
    if status.training is not None:
        facts |= _list_report_facts(status.training)
    # Absent facts are left out.
    return [(f"{name}:", value) for name, value in facts.items() if value not in (None, "")]


def _list_report_facts(report: TrainingReport) -> dict[str, Cell]:
    results = report.results
    return {
        "Peak memory": None if report.peak_memory_bytes is None else format_size(report.peak_memory_bytes),
        "Resumed from": None if report.resumed_from_step is None else f"step {report.resumed_from_step}",
        "Tracked at": report.tracking_url,
        "Model path": results.model_path if results else None,
        "Model address": results.model_uri if results else None,
        "Trained on": f"{results.train_rows} rows in {format_age(results.runtime_seconds)}" if results else None,
        **({export.format.value: export.describe() for export in results.exports} if results else {}),
        "Text lengths": _format_lengths(results.text_lengths) if results and results.text_lengths else None,
    }


def _format_lengths(lengths: TextLengths) -> str:
    """Return the training texts' lengths in one phrase."""
    return (
        f"p50 {lengths.p50}, p95 {lengths.p95}, p99 {lengths.p99} tokens; {lengths.cut_fraction:.1%} cut to"
        f" {lengths.max_length}"
    )


def _format_source(part: Any, field: str) -> str | None:
    """Return the source of data or weights: a path in a volume claim, an address, or a name on a hub."""
    claim, path, hub, uri = (get_path(part, *keys) for keys in (("volumeClaim",), (field,), ("hub", "id"), ("uri",)))
    source = f"{claim}:{path}" if claim else hub or path or (uri and uri.partition("?")[0])  # a query may be a key
    return f"({source})" if source else None


def format_progress(status: TrainingTaskStatus) -> str | None:
    """Return phase, progress, rate and time left of the training in one phrase."""
    report = status.training
    if report is None:
        return None
    parts = [f"{report.phase.value} {report.progress or ''}".strip()]
    if report.epoch is not None and report.epochs is not None:
        parts.append(f"epoch {report.epoch} of {report.epochs}")
    if report.step is not None and report.total_steps is not None:
        parts.append(f"step {report.step} of {report.total_steps}")
    if report.loss is not None:
        parts.append(f"loss {report.loss:.4f}")
    if report.samples_per_second is not None:
        parts.append(f"{report.samples_per_second:.1f} rows/s")
    if report.eta is not None and status.finished_at is None:
        parts.append(f"{report.eta} left")
    if status.progress_stale:
        parts.append("not heard of for some minutes")
    return ", ".join(parts)


def _build_conditions(task: Object, status: TrainingTaskStatus) -> list[Section]:
    start = get_creation_time(task)
    conditions = sorted(
        (condition for condition in status.conditions or () if condition.type not in SUMMARY_CONDITIONS),
        key=lambda condition: condition.last_transition_time,
    )
    rows: list[tuple[Cell, ...]] = [
        (
            format_time(condition.last_transition_time),
            f"+{format_elapsed(start, condition.last_transition_time) or '?'}",
            f"{condition.type}={condition.status}",
            condition.reason,
            condition.message,
        )
        for condition in conditions
    ]
    columns = ("SINCE", "AFTER", "CONDITION", "REASON", "MESSAGE")
    return [Table(columns, rows, "Conditions", frozenset({"MESSAGE"}))] if rows else []


def _build_attempts(status: TrainingTaskStatus, now: datetime) -> list[Section]:
    rows: list[tuple[Cell, ...]] = [
        (
            record.number,
            format_time(record.start_time),
            format_elapsed(record.start_time, record.finish_time) or format_elapsed(record.start_time, now),
            record.exit_code,
            record.reason,
            record.node,
            record.pod,
        )
        for record in status.attempts or ()
    ]
    return [Table(("#", "STARTED", "TOOK", "EXIT", "REASON", "NODE", "POD"), rows, "Attempts")] if rows else []


def build_score_sections(scores: EvaluationResult, warnings: list[str]) -> list[Section]:
    """Return the scores beside the baselines, the warnings, and the scores by label."""
    threshold = "a threshold per label" if scores.threshold is None else f"threshold {scores.threshold:.3f}"
    title = f"Scores on {scores.rows} {scores.split} rows, {threshold} ({scores.threshold_source})"
    beside: list[tuple[Cell, ...]] = list(scores.compare_baselines())
    parts: list[Section] = [Table(("", "MODEL", "LABEL PRIOR", "NO LABEL", "95 %"), beside, title)]
    if warnings:
        lines: list[tuple[Cell, ...]] = [(f"! {warning}",) for warning in warnings]
        parts.append(Table(("",), lines, "Warnings", frozenset({""})))
    labels: list[tuple[Cell, ...]] = [
        (label.label, label.support, label.precision, label.recall, label.f1, label.average_precision, label.threshold)
        for label in scores.per_label
    ]
    if labels:
        columns = ("LABEL", "ROWS", "PRECISION", "RECALL", "F1", "AVG PRECISION", "THRESHOLD")
        parts.append(Table(columns, labels, "Labels", frozenset({"LABEL"})))
    return parts
