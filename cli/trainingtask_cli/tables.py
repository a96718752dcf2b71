"""Tasks -> the tables of `list` and `compare`. Pure."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from trainingtask_api import EvaluationResult, Results
from trainingtask_api.nested import align, diff, flatten, get_path
from trainingtask_cli.formatting import Cell, format_elapsed
from trainingtask_cli.output import Table
from trainingtask_cli.parsing import Object, get_spec, get_state, parse_status

Row = dict[str, Cell]


def get_creation_time(task: Object) -> datetime | None:
    """Return the creation time."""
    text = get_path(task, "metadata", "creationTimestamp")
    return None if text is None else datetime.fromisoformat(text)


def build_task_table(tasks: Sequence[Object], now: datetime, *, namespaces: bool) -> Table:
    """Return the tasks as `kubectl get trainingtasks` shows them."""
    rows: list[tuple[Cell, ...]] = []
    for task in tasks:
        row = build_task_row(task)
        shown = (row["state"], row["dataset"], row["model"], row["device"], row["progress"], row["score"])
        first = (row["namespace"],) if namespaces else ()
        rows.append((*first, row["name"], *shown, format_elapsed(get_creation_time(task), now)))
    columns = ("NAME", "STATE", "DATASET", "MODEL", "DEVICE", "PROGRESS", "SCORE", "AGE")
    return Table((("NAMESPACE",) if namespaces else ()) + columns, rows)


def build_task_row(task: Object) -> Row:
    """Return the columns of `-o csv`."""
    status, spec = parse_status(task), get_spec(task)
    report = status.training
    return {
        "namespace": get_path(task, "metadata", "namespace"),
        "name": get_path(task, "metadata", "name"),
        "state": status.state,
        "reason": status.reason,
        "dataset": get_path(spec, "dataset", "name"),
        "model": get_path(spec, "model", "name"),
        "device": get_path(spec, "device"),
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
        "created": get_path(task, "metadata", "creationTimestamp"),
        "started": status.start_time.isoformat() if status.start_time else None,
        "finished": status.finished_at.isoformat() if status.finished_at else None,
    }


def flatten_to_cells(value: Any) -> dict[str, Cell]:
    """Return the leaves of a nested mapping by path; lists, empty mappings and None as JSON."""
    return {path: _to_cell(leaf) for path, leaf in flatten(value)}


def _to_cell(leaf: Any) -> Cell:
    return leaf if isinstance(leaf, str | int | float) else json.dumps(leaf, ensure_ascii=False)


def diff_specs(specs: Sequence[Mapping[str, Any]]) -> list[tuple[Cell, ...]]:
    """Return a row for each path at which the specs differ: the path, then the value of each."""
    return [(path, *values) for path, values in diff([flatten_to_cells(spec) for spec in specs])]


def collect_scores(results: Results | None) -> Row:
    """Return the scores of a finished training by name, {} without any."""
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


def compare_tasks(tasks: Sequence[Object]) -> tuple[Table, Table]:
    """Return the differences of the tasks' specs, and their scores, with a column for each task."""
    scores: list[Row] = []
    for task in tasks:
        report = parse_status(task).training
        scores.append({"state": get_state(task), **collect_scores(report.results if report else None)})
    columns = ("", *(str(get_path(task, "metadata", "name")) for task in tasks))
    return (
        Table(columns, diff_specs([get_spec(task) for task in tasks]), "What differs in the spec"),
        Table(columns, [(name, *values) for name, values in align(scores)], "Scores"),
    )


def has_same_data(table: Table) -> bool:
    """Return whether all tasks with scores have the same data."""
    data = next((row[1:] for row in table.rows if row[0] == "data"), ())
    return len({cell for cell in data if cell}) <= 1
