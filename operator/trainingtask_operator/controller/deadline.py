"""The deadline of a task with a JobSet, over all its attempts: a Job has its own. Pure."""

from datetime import datetime, timedelta

from trainingtask_api import TrainingTask, names
from trainingtask_operator.kube_objects import Object, is_finished, parse_time


def get_deadline(task: TrainingTask, job: Object) -> datetime | None:
    """Return when the operator ends an active JobSet; None for a Job, and for a JobSet that is suspended or finished.

    As for a Job, the time begins when the JobSet is created or resumed.
    """
    seconds = task.spec.run_policy.active_deadline_seconds
    started = (job.get("status") or {}).get("startTime")
    if job["kind"] != names.JOBSET_KIND or seconds is None or started is None or is_finished(job):
        return None
    return parse_time(started) + timedelta(seconds=seconds)
