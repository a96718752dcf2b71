"""Events of a run -> the entries of its timeline. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from trainingtask_api import Reason
from trainingtask_api.formatting import format_duration
from trainingtask_history.read_models import Event, RunDetail
from trainingtask_web.views.remediation import get_next_step

# Types and reasons of conditions that became False; the reason is the title then.
_FALSE_CONDITIONS = {("Running", Reason.STARTING), ("Running", Reason.ENDED), ("Suspended", Reason.RESUMED)}


@dataclass(frozen=True)
class TimelineEntry:
    """An entry of the timeline; `after` is the time since the task's creation."""

    time: datetime
    after: str
    title: str
    reason: str | None
    message: str
    tone: str
    """'good', 'bad', 'warn' or 'plain'."""


def build_timeline(run: RunDetail, events: Sequence[Event]) -> list[TimelineEntry]:
    """Return the entries, oldest first; the row's own times stand in for events that are missing."""
    types = {event.type for event in events}
    entries = [(event.time, event.type, event.reason, event.message) for event in events]
    if run.start_time and not types & {"Running", "Phase"}:
        entries.append((run.start_time, "Started", "", f"on {run.node}" if run.node else ""))
    if run.finish_time and not types & {"Complete", "Failed"}:
        entries.append((run.finish_time, run.status, run.error_reason or "", ""))
    entries.sort(key=lambda entry: entry[0])
    created = run.create_time
    if created:
        entries.insert(0, (created, "Created", "", ""))
    return [_build_entry(created, *entry) for entry in entries]


def _build_entry(created: datetime | None, time: datetime, kind: str, reason: str, message: str) -> TimelineEntry:
    title = _get_title(kind, reason)
    return TimelineEntry(
        time=time,
        after="" if not created or time == created else f"+{format_duration((time - created).total_seconds())}",
        title=title,
        reason=reason if reason and reason != title else None,
        message=message,
        tone=_get_tone(kind, reason),
    )


def _get_title(kind: str, reason: str) -> str:
    """Return the title: an event has its condition's type, and its reason decides whether that became True or False."""
    if kind == "Phase" or (kind, reason) in _FALSE_CONDITIONS:
        return reason
    if kind == "Accepted" and reason != Reason.ACCEPTED:
        return "Not accepted"
    if kind == "Running" and reason not in (Reason.TRAINER_RUNNING, Reason.PROGRESS_STALE):
        return "Waiting" if _get_tone(kind, reason) == "warn" else "Not running"
    return kind


def _get_tone(kind: str, reason: str) -> str:
    if kind == "Failed":
        return "bad"
    if kind in ("Complete", "Succeeded"):
        return "good"
    if kind == "Interrupted" or (kind in ("Running", "Accepted") and get_next_step(reason) not in (None, "Wait.")):
        return "warn"
    return "plain"
