"""How long a running trainer may send no report before its progress counts as stale, and when to look again. Pure."""

from datetime import datetime, timedelta

from trainingtask_api import TrainingTask
from trainingtask_operator.controller.attempts import Attempt
from trainingtask_operator.controller.sidecars import compute_sidecar_time_left

# Trainers report every few seconds while they train; loading and saving may take longer without a report.
HEARTBEAT_TIMEOUT = timedelta(minutes=3)


def get_last_heartbeat(task: TrainingTask, attempt: Attempt) -> datetime | None:
    """Return when the attempt's trainer last reported, or started."""
    report = task.status.training if task.status else None
    if report is None or report.report_time is None or attempt.start_time is None:
        return attempt.start_time
    return max(attempt.start_time, report.report_time)


def is_stale(heartbeat: datetime | None, now: datetime) -> bool:
    """Return whether the last heartbeat is too long ago."""
    return heartbeat is not None and now - heartbeat >= HEARTBEAT_TIMEOUT


def compute_requeue_after(task: TrainingTask, attempts: list[Attempt], now: datetime) -> timedelta | None:
    """Return when the progress of a running task would become stale, or the time of an ended trainer's sidecars is over.

    None for a task to which neither can happen.
    """
    latest = attempts[-1] if attempts else None
    if latest is None or latest.phase != "Running":
        return None
    if (time_left := compute_sidecar_time_left(latest, now)) is not None:
        return max(time_left, timedelta(0)) or None
    heartbeat = get_last_heartbeat(task, latest)
    if heartbeat is None or is_stale(heartbeat, now):
        return None
    return HEARTBEAT_TIMEOUT - max(now - heartbeat, timedelta(0))
