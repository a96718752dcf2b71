"""A task -> what a person wants to know of it, in sections. Pure."""

from datetime import datetime
from typing import Any

from trainingtask_api import EvaluationResult, TrainingReport, TrainingTaskStatus
from trainingtask_cli.formatting import Cell, age, between, duration, moment, size
from trainingtask_cli.output import Table
from trainingtask_cli.parsing import Object, at, deciding, spec_of, status_of
from trainingtask_cli.tables import created

Part = Table | str


def describe(task: Object, now: datetime) -> list[Part]:
    """Return the sections of `describe`."""
    status = status_of(task)
    report = status.training
    results = report.results if report else None
    return [
        Table(("", ""), _facts(task, status, now), wrapped=frozenset({""})),
        *_timeline(task, status),
        *_attempts(status, now),
        *(score_parts(results.evaluation, results.warnings) if results else []),
    ]


def _facts(task: Object, status: TrainingTaskStatus, now: datetime) -> list[tuple[Cell, ...]]:
    spec = spec_of(task)
    said = deciding(status)
    unseen = "the operator has not looked at it yet: is it running, and does it watch this namespace?"
    facts: dict[str, Cell] = {
        "Name": at(task, "metadata", "name"),
        "Namespace": at(task, "metadata", "namespace"),
        "State": status.state or "none",
        "Reason": f"{said.reason}: {said.message}" if said else status.reason or (None if status.state else unseen),
        "Data set": " ".join(filter(None, (at(spec, "dataset", "name"), _origin(at(spec, "dataset"), "path")))),
        "Model": " ".join(filter(None, (at(spec, "model", "name"), _origin(at(spec, "model"), "checkpoint")))),
        "Device": at(spec, "device"),
        "Output": at(spec, "output", "volumeClaim"),
        "Created": _ago(created(task), now),
        "Started": _ago(status.start_time, now),
        "Ended": _ago(status.finished_at, now),
        "Took": between(status.start_time, status.finished_at),
        "Progress": progress_in_words(status),
        "Job": status.job_name,
        "Node": status.node,
    }
    if status.training is not None:
        facts |= _of_the_report(status.training)
    # A field that says nothing about this task would only be in the way.
    return [(f"{name}:", value) for name, value in facts.items() if value not in (None, "")]


def _of_the_report(report: TrainingReport) -> dict[str, Cell]:
    results = report.results
    return {
        "Peak memory": size(report.peak_memory_bytes),
        "Resumed from": None if report.resumed_from_step is None else f"step {report.resumed_from_step}",
        "Model path": results.model_path if results else None,
        "Trained on": f"{results.train_rows} rows in {duration(results.runtime_seconds)}" if results else None,
    }


def _origin(part: Any, field: str) -> str | None:
    """Return where data or weights come from: a file or folder in a claim, or a name on a hub."""
    claim, path, hub = at(part, "volumeClaim"), at(part, field), at(part, "hub", "id")
    return f"({claim}:{path})" if claim else f"({hub or path})" if hub or path else None


def _ago(when: datetime | None, now: datetime) -> str | None:
    return None if when is None else f"{moment(when)} ({age(when, now)} ago)"


def progress_in_words(status: TrainingTaskStatus) -> str | None:
    """Return how far the trainer is, as one phrase."""
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


def _timeline(task: Object, status: TrainingTaskStatus) -> list[Part]:
    start = created(task)
    conditions = sorted(status.conditions or (), key=lambda condition: condition.last_transition_time)
    rows: list[tuple[Cell, ...]] = [
        (
            moment(condition.last_transition_time),
            f"+{between(start, condition.last_transition_time) or '?'}",
            f"{condition.type}={condition.status}",
            condition.reason,
            condition.message,
        )
        for condition in conditions
    ]
    columns = ("SINCE", "AFTER", "CONDITION", "REASON", "MESSAGE")
    return [Table(columns, rows, "Conditions", frozenset({"MESSAGE"}))] if rows else []


def _attempts(status: TrainingTaskStatus, now: datetime) -> list[Part]:
    rows: list[tuple[Cell, ...]] = [
        (
            record.number,
            moment(record.start_time),
            between(record.start_time, record.finish_time) or age(record.start_time, now),
            record.exit_code,
            record.reason,
            record.node,
            record.pod,
        )
        for record in status.attempts or ()
    ]
    return [Table(("#", "STARTED", "TOOK", "EXIT", "REASON", "NODE", "POD"), rows, "Attempts")] if rows else []


def score_parts(scores: EvaluationResult, warnings: list[str]) -> list[Part]:
    """Return the scores beside the baselines, what to know of them, and the table of the labels."""
    threshold = "a threshold per label" if scores.threshold is None else f"threshold {scores.threshold:.3f}"
    title = f"Scores on {scores.rows} {scores.split} rows, {threshold} ({scores.threshold_source})"
    beside: list[tuple[Cell, ...]] = list(scores.compare_baselines())
    parts: list[Part] = [Table(("", "MODEL", "LABEL PRIOR", "NO LABEL"), beside, title)]
    if warnings:
        said: list[tuple[Cell, ...]] = [(f"! {warning}",) for warning in warnings]
        parts.append(Table(("",), said, "Warnings", frozenset({""})))
    labels: list[tuple[Cell, ...]] = [
        (label.label, label.support, label.precision, label.recall, label.f1, label.average_precision, label.threshold)
        for label in scores.per_label
    ]
    if labels:
        columns = ("LABEL", "ROWS", "PRECISION", "RECALL", "F1", "AVG PRECISION", "THRESHOLD")
        parts.append(Table(columns, labels, "Labels", frozenset({"LABEL"})))
    return parts
