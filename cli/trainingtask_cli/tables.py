"""Tasks -> the rows of `list`, and of `compare`. Pure."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from trainingtask_api import EvaluationResult, Results
from trainingtask_cli.formatting import Cell, format_age
from trainingtask_cli.output import Table
from trainingtask_cli.parsing import Object, at, get_spec, get_state, parse_status

Row = dict[str, Cell]


def get_creation_time(task: Object) -> datetime | None:
    """Return when the task was created."""
    text = at(task, "metadata", "creationTimestamp")
    return None if text is None else datetime.fromisoformat(text)


def build_task_table(tasks: Sequence[Object], now: datetime, *, namespaces: bool) -> Table:
    """Return the tasks as `kubectl get trainingtasks` shows them."""
    rows: list[tuple[Cell, ...]] = []
    for task in tasks:
        row = build_task_row(task)
        shown = (row["state"], row["dataset"], row["model"], row["device"], row["progress"], row["score"])
        first = (row["namespace"],) if namespaces else ()
        rows.append((*first, row["name"], *shown, format_age(get_creation_time(task), now)))
    columns = ("NAME", "STATE", "DATASET", "MODEL", "DEVICE", "PROGRESS", "SCORE", "AGE")
    return Table((("NAMESPACE",) if namespaces else ()) + columns, rows)


def build_task_row(task: Object) -> Row:
    """Return what a line about a task holds; the columns of `-o csv`."""
    status, spec = parse_status(task), get_spec(task)
    report = status.training
    return {
        "namespace": at(task, "metadata", "namespace"),
        "name": at(task, "metadata", "name"),
        "state": status.state,
        "reason": status.reason,
        "dataset": at(spec, "dataset", "name"),
        "model": at(spec, "model", "name"),
        "device": at(spec, "device"),
        "attempt": status.attempt,
        "phase": report.phase.value if report else None,
        "progress": report.progress if report else None,
        "epoch": report.epoch if report else None,
        "step": report.step if report else None,
        "loss": report.loss if report else None,
        "eta": report.eta if report else None,
        "score": report.score if report else None,
        "job": status.job_name,
        "node": status.node,
        "created": at(task, "metadata", "creationTimestamp"),
        "started": status.start_time.isoformat() if status.start_time else None,
        "finished": status.finished_at.isoformat() if status.finished_at else None,
    }


def flat(value: Any, path: str = "") -> dict[str, Cell]:
    """Return the leaves of an object by their path; a list is one leaf."""
    if isinstance(value, Mapping) and value:
        leaves: dict[str, Cell] = {}
        for key, part in value.items():
            leaves |= flat(part, f"{path}.{key}" if path else str(key))
        return leaves
    return {path: value if isinstance(value, str | int | float) else json.dumps(value, ensure_ascii=False)}


def differences(specs: Sequence[Mapping[str, Any]]) -> list[tuple[Cell, ...]]:
    """Return a row for each path at which the specs differ: the path, then the value of each."""
    leaves = [flat(spec) for spec in specs]
    paths = list(dict.fromkeys(path for one in leaves for path in one if path))
    rows = ((path, *(one.get(path) for one in leaves)) for path in paths)
    return [row for row in rows if any(cell != row[1] for cell in row[2:])]


def collect_scores(results: Results | None) -> Row:
    """Return the scores of a finished training by name."""
    if results is None:
        return {}
    scores: EvaluationResult = results.evaluation
    return {
        "micro-F1": scores.micro.f1,
        "macro-F1": scores.macro.f1,
        "weighted-F1": scores.weighted.f1,
        "precision (micro)": scores.micro.precision,
        "recall (micro)": scores.micro.recall,
        "mean average precision": scores.mean_average_precision,
        "ROC AUC": scores.roc_auc,
        "subset accuracy": scores.subset_accuracy,
        "Hamming loss": scores.hamming_loss,
        "loss": scores.loss,
        "micro-F1 of the label prior": scores.label_prior.micro_f1,
        "threshold": scores.threshold if scores.threshold is not None else "per label",
        "test rows": scores.rows,
        "training rows": results.train_rows,
        "training seconds": results.runtime_seconds,
        "rows per second": results.samples_per_second,
        "data": results.data_fingerprint[:12],
    }


def compared(names: Sequence[str], specs: Sequence[Mapping[str, Any]], scores: Sequence[Row]) -> tuple[Table, Table]:
    """Return what differs in the specs, and the scores side by side, a column for each."""
    fields = list(dict.fromkeys(name for one in scores for name in one))
    columns = ("", *names)
    return (
        Table(columns, differences(specs), "What differs in the spec"),
        Table(columns, [(name, *(one.get(name) for one in scores)) for name in fields], "Scores"),
    )


def compare_tasks(tasks: Sequence[Object]) -> tuple[Table, Table]:
    """Return the two tables of `compare`."""
    scores: list[Row] = []
    for task in tasks:
        report = parse_status(task).training
        scores.append({"state": get_state(task), **collect_scores(report.results if report else None)})
    return compared([str(at(task, "metadata", "name")) for task in tasks], [get_spec(task) for task in tasks], scores)


def has_same_data(table: Table) -> bool:
    """Tell whether all scores of a comparison are on the same data; those without scores have none."""
    data = next((row[1:] for row in table.rows if row[0] == "data"), ())
    return len({cell for cell in data if cell}) <= 1
