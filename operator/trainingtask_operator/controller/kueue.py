"""The queue that the Job of a task waits in, in the words of Kueue's Workload, and who has suspended it. Pure."""

import json
from datetime import datetime, timedelta

from trainingtask_api import Reason, TrainingTask, names
from trainingtask_operator.controller.diagnosis import Cause
from trainingtask_operator.controller.workload_builder import build_workload_name, describe_job, get_workload_kind
from trainingtask_operator.kube_objects import Object, get_conditions, parse_time
from trainingtask_operator.settings import Settings

# Kueue creates the Workload of a Job within moments; until then a Job that its webhook has suspended has none.
WORKLOAD_GRACE = timedelta(seconds=5)
_MAX_WORDS = 1200  # of the 2,048 characters of a condition's message


def is_queued(task: TrainingTask, job: Object, workload: Object | None) -> bool:
    """Return whether Kueue starts and stops the Job: by its label, also one that Kueue's webhook has set, or by its Workload."""
    return workload is not None or get_queue_name(task, job, workload) is not None


def get_queue_name(task: TrainingTask, job: Object, workload: Object | None) -> str | None:
    """Return the name of the Job's LocalQueue, None when it has none."""
    label = (job["metadata"].get("labels") or {}).get(names.QUEUE_LABEL)
    return (workload and workload["spec"].get("queueName")) or label or task.spec.run_policy.queue_name


def is_suspended_by_operator(task: TrainingTask, item: Object) -> bool:
    """Return whether the operator has suspended the Job, or deactivated the Workload, because the task is suspended.

    The annotation is a part of that write. What has none, such as a Job of an earlier release, is the operator's if the
    task's condition Suspended has been true since: Kueue may make a Workload anew, and an admin deactivate that.
    """
    if _get_mark(item) is not None:
        return has_suspension_mark(item)
    suspended = task.status.get_condition("Suspended") if task.status else None
    if suspended is None or suspended.status != "True":
        return False
    return parse_time(item["metadata"]["creationTimestamp"]) <= suspended.last_transition_time


def build_suspension_mark(item: Object, suspend: bool) -> Object:
    """Return the metadata by which the operator knows its own suspension of `item`, refused if that has changed since."""
    version = item["metadata"]["resourceVersion"]
    return {"resourceVersion": version, "annotations": {names.SUSPENDED_ANNOTATION: str(suspend).lower()}}


def build_workload_patch(task: TrainingTask, workload: Object) -> Object | None:
    """Return what suspends or resumes a queued task in Kueue's Workload, None when nothing does.

    A Workload that somebody else has deactivated is left so, also when the user suspends and resumes the task meanwhile.
    """
    suspend, is_active = task.spec.run_policy.suspend, workload["spec"]["active"]
    is_own = is_suspended_by_operator(task, workload)
    if suspend is is_active and (suspend or is_own):
        return {"metadata": build_suspension_mark(workload, suspend), "spec": {"active": not suspend}}
    if suspend and not is_own and _get_mark(workload) is None:
        return {"metadata": build_suspension_mark(workload, False), "spec": {"active": False}}
    return None


def has_suspension_mark(item: Object) -> bool:
    """Return whether the operator has suspended the Job and not resumed it; somebody else may have."""
    return _get_mark(item) == "true"


def _get_mark(item: Object) -> str | None:
    mark: str | None = (item["metadata"].get("annotations") or {}).get(names.SUSPENDED_ANNOTATION)
    return mark


def compute_workload_wait(
    task: TrainingTask, job: Object, workload: Object | None, settings: Settings, now: datetime
) -> timedelta | None:
    """Return for how long Kueue may still be about to create the Workload of a suspended Job, None when it is not."""
    if workload is not None or not settings.kueue.enabled or not _is_suspended_otherwise(task, job):
        return None
    left = WORKLOAD_GRACE - (now - parse_time(job["metadata"]["creationTimestamp"]))
    return left if left > timedelta(0) else None


def explain_suspended_job(
    task: TrainingTask, job: Object, workload: Object | None, settings: Settings, now: datetime
) -> Cause | None:
    """Return why the Job is suspended although the task is not, None when that is not so.

    Parameters
    ----------
    task, job
        The task, and its Job or JobSet.
    workload
        Kueue's Workload of the Job, None when there is none, or when the operator watches none.
    settings
        Whether it does.
    now
        The current time.
    """
    if not _is_suspended_otherwise(task, job):
        return None
    queue = get_queue_name(task, job, workload)
    if workload is not None:
        return _explain_workload(task, workload, queue)
    waits = f"{_describe_queue(queue)} has not admitted the task yet"
    if compute_workload_wait(task, job, workload, settings, now) is not None:
        return Cause(Reason.WAITING_FOR_QUOTA, f"{waits}: it starts when there is quota.")
    if queue is None:
        return _explain_foreign_suspension(task, settings)
    if settings.kueue.enabled:
        priority = task.spec.run_policy.workload_priority_class_name
        exists = f", and is there a WorkloadPriorityClass {priority!r}" if priority else ""
        return Cause(
            Reason.WAITING_FOR_QUOTA,
            f"{waits}, and has no Workload of {describe_job(task)}: is Kueue installed, does it manage the Jobs of this"
            f" namespace{exists}?",
        )
    return Cause(
        Reason.WAITING_FOR_QUOTA,
        f"{waits}: it starts when there is quota (kubectl get localqueue {queue} tells how long the queue is; with"
        " kueue.enabled in the Helm release Kueue's reason is told here).",
    )


def _is_suspended_otherwise(task: TrainingTask, job: Object) -> bool:
    return bool(job["spec"].get("suspend")) and not task.spec.run_policy.suspend


def explain_missing_workload(task: TrainingTask) -> Cause:
    """Return why a queued task cannot be suspended or resumed: its Job has no Workload."""
    return _explain_queue_unavailable(task, "has no Workload of it: is Kueue installed, and does it serve the queue?")


def explain_rejected_workload_patch(task: TrainingTask, error: Exception) -> Cause:
    """Return why a queued task cannot be suspended or resumed: the API server refuses to change its Workload."""
    return _explain_queue_unavailable(
        task, f"has a Workload of it that cannot be changed: ask the cluster's admin. {error}"
    )


def explain_disabled_kueue(task: TrainingTask) -> Cause:
    """Return why a queued task cannot be suspended or resumed: the operator may not change Workloads."""
    return _explain_queue_unavailable(
        task, "is not told: ask the cluster's admin to set kueue.enabled in the Helm release."
    )


def explain_resumed_job(task: TrainingTask) -> Cause:
    """Return why a task is not suspended: somebody else resumes the Job that the operator has suspended."""
    return Cause(
        Reason.QUEUE_UNAVAILABLE,
        f"spec.runPolicy.suspend is true, but somebody has resumed {describe_job(task)} since, as Kueue does with all that it"
        " manages: ask the cluster's admin to set kueue.enabled in the Helm release, or set it to false and to true again.",
    )


def _explain_queue_unavailable(task: TrainingTask, words: str) -> Cause:
    suspend = str(task.spec.run_policy.suspend).lower()
    return Cause(
        Reason.QUEUE_UNAVAILABLE,
        f"spec.runPolicy.suspend is {suspend}, but {describe_job(task)} is started and stopped by Kueue, which {words}",
    )


def _describe_queue(queue: str | None) -> str:
    return "Kueue" if queue is None else f"Queue {queue!r}"


def _explain_workload(task: TrainingTask, workload: Object, queue: str | None) -> Cause:
    place = _describe_queue(queue)
    conditions = {condition["type"]: condition for condition in get_conditions(workload)}
    eviction, reservation = conditions.get("Evicted", {}), conditions.get("QuotaReserved", {})
    evicted = str(eviction.get("message", "")) if eviction.get("status") == "True" else ""
    if not workload["spec"]["active"]:
        patch = _build_patch("workload", workload["metadata"]["name"], "active", True)
        return Cause(
            Reason.JOB_SUSPENDED,
            f"{place} does not start the task, since its Workload is deactivated, and not by spec.runPolicy.suspend: by"
            f" Kueue or an admin, who can activate it ({patch}), and the task is queued again. {_cut(evicted)}".rstrip(),
        )
    if not evicted and conditions.get("Admitted", {}).get("status") == "True":
        return Cause(Reason.WAITING_FOR_QUOTA, f"{place} has admitted the task: its pods are about to start.")
    if not evicted and reservation.get("status") == "True":
        checks = _cut(_describe_checks(workload)) or "they are under way"
        return Cause(
            Reason.WAITING_FOR_QUOTA, f"{place} has quota for the task, which waits for admission checks: {checks}."
        )
    waits = f"{place} has not admitted the task yet"
    if queue is None:
        label = f"kubectl label {get_workload_kind(task).lower()} {build_workload_name(task)} {names.QUEUE_LABEL}=QUEUE"
        return Cause(
            Reason.WAITING_FOR_QUOTA,
            f"{waits}, since it holds all Jobs of this namespace, and this one names no queue: create the task with"
            f" spec.runPolicy.queueName, or give its {get_workload_kind(task)} one ({label}).",
        )
    reason, waiting = str(eviction.get("reason", "")), str(reservation.get("message", ""))
    # Of a Workload that is active again, the deactivation stays the last eviction.
    words = (
        [f"it took the quota back ({reason}): {evicted}"] if evicted and not reason.startswith("Deactivated") else []
    )
    words += [waiting] if waiting and waiting != evicted else []
    return Cause(
        Reason.WAITING_FOR_QUOTA,
        f"{waits}: {_cut('; '.join(words)) or 'Kueue has not tried yet'}. It starts by itself when there is quota.",
    )


def _describe_checks(workload: Object) -> str:
    checks = [check for check in workload["status"]["admissionChecks"] if check.get("state") != "Ready"]
    return "; ".join(
        f"{check.get('name')!r} is {check.get('state')}{': ' if check.get('message') else ''}{check.get('message', '')}"
        for check in checks
    )


def _explain_foreign_suspension(task: TrainingTask, settings: Settings) -> Cause:
    kind, name = get_workload_kind(task).lower(), build_workload_name(task)
    patch = _build_patch(kind, name, "suspend", False)
    hint = (
        ""
        if settings.kueue.enabled
        else " If Kueue did, kueue.enabled in the Helm release lets its reason be told here."
    )
    return Cause(
        Reason.JOB_SUSPENDED,
        f"{describe_job(task)} is suspended, and not by spec.runPolicy.suspend: whoever did it can resume it ({patch}),"
        f" and the task goes on.{hint}",
    )


def _build_patch(kind: str, name: str, field: str, value: bool) -> str:
    patch = json.dumps({"spec": {field: value}})
    return f"kubectl patch {kind} {name} --type=merge --patch='{patch}'"


def _cut(words: str) -> str:
    text = words.strip().rstrip(".")
    return text if len(text) <= _MAX_WORDS else f"{text[:_MAX_WORDS]}…"
