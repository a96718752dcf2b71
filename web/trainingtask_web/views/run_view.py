"""From rows of the history to what a page shows of a list and of a run. Pure.

Scores and arguments are read by name, not through the contract's models: a row may be of another release, or of a
trainer image of somebody's own, and whatever can be shown of it is shown.
"""

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import yaml
from pydantic import ValidationError

from trainingtask_api import Reason, TrainingTaskSpec, names
from trainingtask_history.queries import Event, Point, RunDetail, RunSummary
from trainingtask_history.tables import RunStatus
from trainingtask_web.views import formatting
from trainingtask_web.views.remediation import get_next_step

SPARK_WIDTH, SPARK_HEIGHT = 96, 24
_STATES = {state.value for state in RunStatus}
_ACTIVE = (RunStatus.PENDING, RunStatus.RUNNING, RunStatus.INTERRUPTED)

# Types and reasons of events of conditions that became false; the reason says it all.
_FALSE = {("Running", Reason.STARTING), ("Running", Reason.ENDED), ("Suspended", Reason.RESUMED)}

# Name of a curve -> what people call it.
CURVE_NAMES = {
    "training_loss": "training loss",
    "validation_loss": "validation loss",
    "mean_average_precision": "mean average precision",
    "learning_rate": "learning rate",
}


@dataclass(frozen=True)
class Sparkline:
    """A curve as small as a word: coordinates of an SVG of `SPARK_WIDTH` by `SPARK_HEIGHT`."""

    points: str
    end: tuple[float, float]
    label: str


@dataclass(frozen=True)
class Progress:
    """How far a run is. No percentage: nobody knows."""

    percent: int | None
    text: str


@dataclass(frozen=True)
class RunView:
    """A run as the list shows it; the head of its own page is the same."""

    run: RunSummary
    state: str
    """A style of states.css; the word beside it is the row's own."""
    is_active: bool
    duration: str
    score: str
    progress: Progress | None
    spark: Sparkline | None
    started: str
    ago: str


@dataclass(frozen=True)
class TimelineEntry:
    """An entry of the timeline."""

    time: datetime
    after: str
    title: str
    reason: str | None
    message: str
    tone: str


def build_run_view(run: RunSummary, now: datetime, curve: Sequence[Point] = ()) -> RunView:
    """Return what a line about a run shows; the curve is the course of its validation score."""
    active = is_active(run)
    seconds = run.total_time
    if seconds is None and run.start_time is not None and active:
        seconds = (now - run.start_time).total_seconds()
    return RunView(
        run=run,
        state=run.status.lower() if run.status in _STATES else "unknown",
        is_active=active,
        duration=formatting.format_duration(seconds),
        score=formatting.format_score(to_finite(run.score)),
        progress=_progress(run) if active else None,
        spark=build_sparkline(curve, CURVE_NAMES["mean_average_precision"]),
        started=formatting.format_short_time(run.start_time, now) if run.start_time else "",
        ago=_ago(run, now),
    )


def _ago(run: RunSummary, now: datetime) -> str:
    if run.start_time is not None:
        return formatting.format_age(run.start_time, now)
    return f"created {formatting.format_age(run.create_time, now)}" if run.create_time else ""


def is_active(run: RunSummary) -> bool:
    """Tell whether something may happen to the run by itself."""
    return run.finish_time is None and run.status in _ACTIVE


def _progress(run: RunSummary) -> Progress | None:
    if run.status == RunStatus.PENDING or run.phase is None:
        return None
    percent = None
    if run.step is not None and run.total_steps:
        percent = max(0, min(100, int(100 * run.step / run.total_steps)))
    parts = [run.phase if percent is None else f"{run.phase} {percent}%"]
    if run.eta:
        parts.append(f"{run.eta} left")
    return Progress(percent, ", ".join(parts))


def build_sparkline(curve: Sequence[Point], what: str) -> Sparkline | None:
    """Return a curve as a sparkline between its own lowest and highest value."""
    points = [point for point in curve if math.isfinite(point.value)]
    if not points:
        return None
    first, last = points[0], points[-1]
    low, high = min(point.value for point in points), max(point.value for point in points)
    margin = 2.5  # so that the line and its last point are not cut

    def place(point: Point) -> tuple[float, float]:
        across = (point.step - first.step) / (last.step - first.step) if last.step > first.step else 1.0
        up = (point.value - low) / (high - low) if high > low else 0.5
        return (
            round(margin + across * (SPARK_WIDTH - 2 * margin), 1),
            round(SPARK_HEIGHT - margin - up * (SPARK_HEIGHT - 2 * margin), 1),
        )

    places = [place(point) for point in points]
    course = f"from {formatting.format_score(first.value)} to {formatting.format_score(last.value)}, highest {formatting.format_score(high)}"
    return Sparkline(" ".join(f"{x:g},{y:g}" for x, y in places), places[-1], f"{what} {course}")


def build_timeline(run: RunDetail, events: Sequence[Event]) -> list[TimelineEntry]:
    """Return what happened to a run, oldest first; what no event tells, the row's own times do."""
    told = {event.type for event in events}
    entries = [(event.time, event.type, event.reason, event.message) for event in events]
    if run.start_time and not told & {"Running", "Phase"}:
        entries.append((run.start_time, "Started", "", f"on {run.node}" if run.node else ""))
    if run.finish_time and not told & {"Complete", "Failed"}:
        entries.append((run.finish_time, run.status, run.error_reason or "", ""))
    entries.sort(key=lambda entry: entry[0])
    start = run.create_time
    if start:
        entries.insert(0, (start, "Created", "", ""))
    return [
        TimelineEntry(
            time=time,
            after=""
            if not start or time == start
            else f"+{formatting.format_duration((time - start).total_seconds())}",
            title=(title := _title(kind, reason)),
            reason=reason if reason and reason != title else None,
            message=message,
            tone=_tone(kind, reason),
        )
        for time, kind, reason, message in entries
    ]


def _title(kind: str, reason: str) -> str:
    """Return what became so: an event names its condition, and its reason tells whether that became true or false."""
    if kind == "Phase" or (kind, reason) in _FALSE:
        return reason
    if kind == "Accepted" and reason != Reason.ACCEPTED:
        return "Not accepted"
    if kind == "Running" and reason not in (Reason.TRAINER_RUNNING, Reason.PROGRESS_STALE):
        return "Waiting" if _tone(kind, reason) == "warn" else "Not running"
    return kind


def _tone(kind: str, reason: str) -> str:
    if kind == "Failed":
        return "bad"
    if kind in ("Complete", "Succeeded"):
        return "good"
    if kind == "Interrupted" or (kind in ("Running", "Accepted") and get_next_step(reason) not in (None, "Wait.")):
        return "warn"
    return "plain"


def to_manifest(run: RunDetail) -> str | None:
    """Return the task as YAML that could be applied again."""
    if run.spec is None:
        return None
    task = {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": {"name": run.name, "namespace": run.namespace}
        | ({"labels": dict(sorted(run.labels.items()))} if run.labels else {}),
        "spec": _in_schema_order(run.spec),
    }
    return _dump_yaml(task, sort_keys=False, width=120)


def _in_schema_order(spec: dict[str, Any]) -> dict[str, Any]:
    """Return the spec with its fields in the order of the contract, as people write them: Postgres keeps no order."""
    try:
        like = TrainingTaskSpec.model_validate(spec).to_json()
    except ValidationError:  # of another release
        return spec
    return _ordered(spec, like)


def _ordered(value: Mapping[str, Any], like: Mapping[str, Any]) -> dict[str, Any]:
    keys = [key for key in dict.fromkeys([*like, *value]) if key in value]
    return {
        key: _ordered(value[key], like.get(key, {})) if isinstance(value[key], dict) else value[key] for key in keys
    }


def list_commands(run: RunSummary) -> list[tuple[str, str]]:
    """Return what to type to see more, and what for."""
    where = f"-n {shlex.quote(run.namespace)}"
    pods = f"{where} -l {shlex.quote(f'{names.TASK_UID_LABEL}={run.task_uid}')}"
    return [
        ("The task, with its conditions", f"kubectl describe trainingtask {where} {shlex.quote(run.name)}"),
        ("Its pods", f"kubectl get pods {pods}"),
        ("The whole log", f"kubectl logs {pods} --tail=-1" + (" -f" if is_active(run) else "")),
    ]


def to_finite(value: Any) -> float | None:
    """Return a number that is one."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return value if math.isfinite(value) else None
    except OverflowError:  # an integer of more digits than a float has
        return None


def get_number(value: Any, *path: str) -> float | None:
    """Return the number at a path of nested objects, None when there is none."""
    return to_finite(at(value, *path))


def at(value: Any, *path: str) -> Any:
    """Return what stands at a path of nested objects, None when there is nothing."""
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def get_list(value: Any, *path: str) -> list[Any]:
    """Return the list at a path, empty when there is none."""
    found = at(value, *path)
    return found if isinstance(found, list) else []


def flat(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield the leaves of an object by their path, as text; a list is one leaf."""
    if isinstance(value, Mapping) and value:
        for key, part in value.items():
            yield from flat(part, f"{path}.{key}" if path else str(key))
    elif path:
        yield path, leaf(value)


def leaf(value: Any) -> str:
    """Return a value of a spec as YAML writes it on one line."""
    if isinstance(value, str):
        return value
    return _dump_yaml(value, default_flow_style=True, width=2**31 - 1).removesuffix("\n").removesuffix("\n...")


def _dump_yaml(value: Any, **style: Any) -> str:
    text: str = yaml.dump(value, Dumper=yaml.CSafeDumper, allow_unicode=True, **style)  # ten times as fast as in Python
    return text
