"""`watch`: a live table on a terminal, else a line for each change."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime

from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table as RichTable

from trainingtask_api import TrainingTaskStatus
from trainingtask_api.nested import get_path
from trainingtask_cli.describe import describe_condition, format_progress
from trainingtask_cli.formatting import format_cell, format_elapsed
from trainingtask_cli.options import Format
from trainingtask_cli.output import make_console, strip_managed_fields, style_cell, to_csv, to_document
from trainingtask_cli.parsing import Object, parse_status, primary_condition
from trainingtask_cli.tables import build_task_row, get_creation_time

Tasks = dict[str, Object]  # by uid

_BAR_WIDTH = 24
_REDRAWS_PER_SECOND = 2
_DELETED = "Deleted"


def follow_tasks(changes: Iterable[Tasks], names: Sequence[str]) -> Iterator[list[Object]]:
    """Yield the tasks after each change, oldest first, until nothing more is to come from any of them.

    A deleted task stays, with the state Deleted. Without `names`, new tasks are added.
    """
    known: Tasks = {}
    for tasks in changes:
        for uid in known.keys() - tasks.keys():
            known[uid] = {**known[uid], "status": {**known[uid].get("status", {}), "state": _DELETED}}
        known |= {uid: task for uid, task in tasks.items() if not names or task["metadata"]["name"] in names}
        yield sorted(
            known.values(),
            key=lambda task: (str(get_path(task, "metadata", "creationTimestamp")), get_qualified_name(task)),
        )
        if all(is_finished(task) for task in known.values()):
            return


def is_finished(task: Object) -> bool:
    """Return whether the task has ended, is refused, or is deleted."""
    status = parse_status(task)
    return status.finished_at is not None or status.state == _DELETED or status.is_true("Stalled")


def explain_failures(tasks: Iterable[Object]) -> str | None:
    """Return a line with the reason of each task that has not succeeded, None when all have."""
    lines = []
    for task in tasks:
        status, name = parse_status(task), get_path(task, "metadata", "name")
        if status.is_true("Complete"):
            continue
        if status.state == _DELETED:
            lines.append(f"{name} was deleted before it had succeeded")
        else:
            outcome = "has failed" if status.is_true("Failed") else "is refused"
            lines.append(f"{name} {outcome}. {describe_condition(task)}")
    return "\n".join(lines) or None


def get_qualified_name(task: Object) -> str:
    """Return namespace and name."""
    return f"{get_path(task, 'metadata', 'namespace')}/{get_path(task, 'metadata', 'name')}"


def format_line(task: Object, *, namespaces: bool) -> str:
    """Return name, state, and progress, score or reason in one line."""
    status = parse_status(task)
    name = get_qualified_name(task) if namespaces else str(get_path(task, "metadata", "name"))
    condition = primary_condition(status)
    parts = [status.state or "new"]
    if status.finished_at is not None:
        parts.append(f"score {status.training.score}" if status.training and status.training.score else "")
    elif status.is_true("Running"):
        parts.append(format_progress(status) or "")
    if condition is not None and not (status.is_true("Complete") or status.is_true("Running")):
        parts.append(f"{condition.reason}: {condition.message}")
    return f"{name}: " + ", ".join(filter(None, parts))


def build_live_table(tasks: Sequence[Object], now: datetime, *, namespaces: bool) -> RichTable:
    """Return the live table, with a progress bar for each task."""
    table = RichTable(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in ("NAME", "STATE", "PHASE", "", "PROGRESS", "EPOCH", "LOSS", "ETA", "SCORE", "AGE"):
        table.add_column(column, no_wrap=True)
    for task in tasks:
        status, row = parse_status(task), build_task_row(task)
        report = status.training
        epoch = f"{report.epoch}/{report.epochs}" if report and report.epoch and report.epochs else None
        cells = (
            row["progress"],
            epoch,
            row["loss"],
            row["eta"],
            row["score"],
            format_elapsed(get_creation_time(task), now),
        )
        table.add_row(
            style_cell(get_qualified_name(task) if namespaces else row["name"]),
            style_cell(row["state"]),
            style_cell(row["phase"] if status.is_true("Running") else row["reason"]),
            ProgressBar(total=100, completed=get_percent(status), width=_BAR_WIDTH),
            *(style_cell(cell) for cell in cells),
        )
    return table


def get_percent(status: TrainingTaskStatus) -> float:
    """Return the progress of the training from 0 to 100."""
    report = status.training
    if report is None:
        return 0
    if report.step is not None and report.total_steps:
        return 100 * report.step / report.total_steps
    number = (report.progress or "").removesuffix("%")
    return float(number) if number.isdecimal() else 0


def run_live_table(states: Iterable[list[Object]], *, namespaces: bool) -> list[Object]:
    """Keep a table on the terminal up to date, with its ages; return the last state."""
    current: list[Object] = []

    def table() -> RichTable:
        return build_live_table(current, datetime.now(UTC), namespaces=namespaces)

    with Live(console=make_console(), get_renderable=table, refresh_per_second=_REDRAWS_PER_SECOND) as live:
        for state in states:
            current = state
            live.refresh()
    return current


def print_changes(states: Iterable[list[Object]], form: Format, *, namespaces: bool) -> list[Object]:
    """Print a line, a document or a row for each change of it; return the last state."""
    last: dict[str, str] = {}
    state: list[Object] = []
    for state in states:
        for task in state:
            text = _render(task, form, first=not last, namespaces=namespaces)
            if last.get(get_qualified_name(task)) != text:
                sys.stdout.write(f"{datetime.now().astimezone():%H:%M:%S}  {text}" if form is Format.TABLE else text)
                last[get_qualified_name(task)] = text
        sys.stdout.flush()
    return state


def _render(task: Object, form: Format, *, first: bool, namespaces: bool) -> str:
    if form is Format.TABLE:
        return format_cell(format_line(task, namespaces=namespaces)) + "\n"
    if form is Format.CSV:
        row = build_task_row(task)
        return to_csv(row.keys(), [row.values()], header=first)
    return ("---\n" if form is Format.YAML else "") + to_document(form, strip_managed_fields(task))
