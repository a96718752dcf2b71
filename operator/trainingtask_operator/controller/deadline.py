"""The deadline of a task with a JobSet, over all its attempts (a Job has its own), and of a task that is to be deleted. Pure."""

from datetime import datetime, timedelta

from trainingtask_api import Reason, TrainingTask, names
from trainingtask_operator.controller.diagnosis import Cause
from trainingtask_operator.kube_objects import Object, is_finished, parse_time


def compute_time_left(task: TrainingTask, job: Object, now: datetime) -> timedelta | None:
    """Return for how long an active JobSet may go on; None for a Job, and for a JobSet that is suspended or finished.

    As for a Job, the time begins when the JobSet is created or resumed; also None while a queue's has no such time yet.
    """
    return None if is_finished(job) else _compute_time_to_deadline(task, job, now)


def is_overdue(task: TrainingTask, job: Object, time: datetime) -> bool:
    """Return whether a JobSet had passed the deadline at `time`, which may be when it failed."""
    left = _compute_time_to_deadline(task, job, time)
    return left is not None and left <= timedelta(0)


def _compute_time_to_deadline(task: TrainingTask, job: Object, time: datetime) -> timedelta | None:
    seconds = task.spec.run_policy.active_deadline_seconds
    started = (job.get("status") or {}).get("startTime")
    if job["kind"] != names.JOBSET_KIND or seconds is None or started is None:
        return None
    return timedelta(seconds=seconds) - (time - parse_time(started))


def explain_deadline(task: TrainingTask) -> Cause:
    """Return the cause for a task that was active for too long."""
    return Cause(
        Reason.DEADLINE_EXCEEDED,
        "The task was active longer than spec.runPolicy.activeDeadlineSeconds allows"
        f" ({task.spec.run_policy.active_deadline_seconds} s): allow more in a new task, or train less.",
    )


def compute_ttl_left(task: TrainingTask, now: datetime) -> timedelta | None:
    """Return for how long a finished task stays, None for one that is not to be deleted."""
    policy, finished_at = task.spec.run_policy, task.status.finished_at if task.status else None
    if not policy.delete_task or policy.ttl_seconds_after_finished is None or finished_at is None:
        return None
    return finished_at + timedelta(seconds=policy.ttl_seconds_after_finished) - now
