"""What a watch event changes: whether it needs a reconcile, and how soon. Pure."""

from trainingtask_operator.controller.waiting import explain_waiting
from trainingtask_operator.kube_objects import WORKLOAD_KINDS, Object, get_true_conditions


def has_changed(before: Object, after: Object) -> bool:
    """Return whether two states of a trimmed object differ in more than the resource version."""
    return {**before, "metadata": _without_version(before)} != {**after, "metadata": _without_version(after)}


def is_progress_report(before: Object, after: Object) -> bool:
    """Return whether the trainer's report is all that changed of a task, and does not finish the training."""
    report = (after.get("status") or {}).get("training") or {}
    return not report.get("finishTime") and not has_changed(_without_training(before), _without_training(after))


def is_low_priority(child: Object) -> bool:
    """Return whether a Job, JobSet or pod changed on the way to its start or success, and the Job's end will cover it.

    Those that start to run, or fail, or cannot start, come first in a burst of a thousand.
    """
    if "deletionTimestamp" in child["metadata"]:
        return False
    if child["kind"] in WORKLOAD_KINDS:
        return get_true_conditions(child).keys() <= {"SuccessCriteriaMet"}
    status = child.get("status") or {}
    if status.get("phase") == "Succeeded":
        return True
    return status.get("phase") == "Pending" and explain_waiting(status, None) is None


def _without_training(task: Object) -> Object:
    return {**task, "status": {**(task.get("status") or {}), "training": None}}


def _without_version(item: Object) -> Object:
    return {**item["metadata"], "resourceVersion": None}
