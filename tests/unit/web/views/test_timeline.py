"""Events as a timeline."""

from datetime import timedelta

import pytest

from support.sample_runs import NOW, detail
from trainingtask_history.read_models import Event
from trainingtask_web.views.timeline import build_timeline


def test_the_timeline_is_sorted_and_marks_failures() -> None:
    start = NOW - timedelta(hours=1)
    run = detail(create_time=start, start_time=start + timedelta(seconds=30), finish_time=None)

    def event(seconds: int, kind: str, reason: str, message: str = "") -> Event:
        return Event(time=start + timedelta(seconds=seconds), type=kind, reason=reason, message=message)

    events = [
        event(40, "Phase", "Loading"),
        event(90, "Failed", "OOMKilled", "Too much."),
        event(3, "Running", "Unschedulable", "No node."),
        event(70, "Interrupted", "Evicted"),
        event(30, "Running", "TrainerRunning"),
    ]
    entries = [(entry.after, entry.title, entry.reason, entry.tone) for entry in build_timeline(run, events)]
    assert entries == [
        ("", "Created", None, "plain"),
        ("+3s", "Waiting", "Unschedulable", "warn"),
        ("+30s", "Running", "TrainerRunning", "plain"),
        ("+40s", "Loading", None, "plain"),
        ("+1m 10s", "Interrupted", "Evicted", "warn"),
        ("+1m 30s", "Failed", "OOMKilled", "bad"),
    ]


@pytest.mark.parametrize(
    ("kind", "reason", "title", "rest"),
    [
        ("Accepted", "Accepted", "Accepted", None),
        ("Accepted", "DeviceNotOffered", "Not accepted", "DeviceNotOffered"),
        ("Running", "Starting", "Starting", None),
        ("Running", "Ended", "Ended", None),
        ("Running", "ProgressStale", "Running", "ProgressStale"),
        ("Running", "WordOfALaterRelease", "Not running", "WordOfALaterRelease"),
        ("Suspended", "SuspendedByUser", "Suspended", "SuspendedByUser"),
        ("Suspended", "Resumed", "Resumed", None),
        ("Complete", "Succeeded", "Complete", "Succeeded"),
    ],
)
def test_an_entrys_title_names_the_transition(kind: str, reason: str, title: str, rest: str | None) -> None:
    entry = build_timeline(detail(), [Event(time=NOW, type=kind, reason=reason, message="")])[-1]
    assert (entry.title, entry.reason) == (title, rest)


def test_without_events_the_timeline_has_the_rows_times() -> None:
    run = detail()
    assert [(entry.title, entry.tone) for entry in build_timeline(run, [])] == [
        ("Created", "plain"),
        ("Started", "plain"),
        ("Succeeded", "good"),
    ]
