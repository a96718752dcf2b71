"""The deadline of a task with a JobSet, over all its attempts (a Job has its own), and of a task that is to be deleted. Pure."""

from datetime import datetime, timedelta

from trainingtask_api import TrainingTask, names
from trainingtask_operator.kube_objects import Object, is_finished, parse_time


def compute_time_left(task: TrainingTask, job: Object, now: datetime) -> timedelta | None:
    """Return for how long an active JobSet may go on; None for a Job, and for a JobSet that is suspended or finished.

    As for a Job, the time begins when the JobSet is created or resumed.
    """
    seconds = task.spec.run_policy.active_deadline_seconds
    started = (job.get("status") or {}).get("startTime")
    if job["kind"] != names.JOBSET_KIND or seconds is None or started is None or is_finished(job):
        return None
    return timedelta(seconds=seconds) - (now - parse_time(started))


def compute_ttl_left(task: TrainingTask, now: datetime) -> timedelta | None:
    """Return for how long a finished task stays, None for one that is not to be deleted."""
    policy, finished_at = task.spec.run_policy, task.status.finished_at if task.status else None
    if not policy.delete_task or policy.ttl_seconds_after_finished is None or finished_at is None:
        return None
    return finished_at + timedelta(seconds=policy.ttl_seconds_after_finished) - now
