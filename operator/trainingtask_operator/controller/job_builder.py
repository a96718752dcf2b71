"""The Job of a task that trains on one node, from the task and the admin's settings. Pure."""

import hashlib
import re

from trainingtask_api import ExitCode, TrainingTask, names
from trainingtask_operator.controller.pod_builder import build_labels, build_pod_template
from trainingtask_operator.controller.pod_environment import build_field_variable
from trainingtask_operator.kube_objects import Object
from trainingtask_operator.settings import Settings

_USER_ERROR_CODES = {
    "containerName": names.TRAINER_CONTAINER,
    "operator": "In",
    "values": [int(ExitCode.USER_ERROR)],
}
FAIL_ON_USER_ERROR = {"action": "FailJob", "onExitCodes": _USER_ERROR_CODES}
# An evicted or preempted pod is not the task's own failure: it is replaced and does not count.
_IGNORE_DISRUPTION = {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
_FAILURE_COUNTS = [
    build_field_variable(names.ENV_FAILURE_COUNT, f"metadata.annotations['{names.FAILURE_COUNT_ANNOTATION}']"),
    build_field_variable(
        names.ENV_IGNORED_FAILURE_COUNT, f"metadata.annotations['{names.IGNORED_FAILURE_COUNT_ANNOTATION}']"
    ),
]


def build_job_name(task: TrainingTask) -> str:
    """Return the name of the task's Job: readable, and unique for the uid, so that a re-created task gets its own.

    At most 55 characters, so that the names of its pods (`<job>-<index>-<random>`) are not cut.
    """
    return build_unique_name(task, 55)


def build_unique_name(task: TrainingTask, max_characters: int) -> str:
    """Return the task's name, cut to make room for a hash of its uid."""
    digest = hashlib.sha256((task.metadata.uid or "").encode()).hexdigest()[:10]
    readable = re.sub(r"[^a-z0-9-]", "-", task.metadata.name)[: max_characters - 11].strip("-")
    return f"{readable}-{digest}"


def build_metadata(task: TrainingTask, name: str) -> Object:
    """Return the metadata of the task's Job or JobSet: its labels, its queue and priority, and the task as its owner."""
    policy = task.spec.run_policy
    kueue = {
        names.QUEUE_LABEL: policy.queue_name,
        names.WORKLOAD_PRIORITY_LABEL: policy.workload_priority_class_name,
    }
    return {
        "name": name,
        "namespace": task.metadata.namespace,
        "labels": build_labels(task) | {label: value for label, value in kueue.items() if value},
        "annotations": {names.SUSPENDED_ANNOTATION: "false"},
        "ownerReferences": [
            {
                "apiVersion": names.API_VERSION,
                "kind": names.KIND,
                "name": task.metadata.name,
                "uid": task.metadata.uid,
                "controller": True,
                "blockOwnerDeletion": False,
            }
        ],
    }


def build_scheduling(task: TrainingTask) -> Object:
    """Return the fields of a Job or JobSet that say who starts it, and when.

    Kueue requires that the Jobs of its queues are created suspended, and starts them when there is quota.
    """
    policy = task.spec.run_policy
    managed_by = {"managedBy": policy.managed_by.value} if policy.managed_by else {}
    return {"suspend": policy.queue_name is not None, **managed_by}


def build_job(task: TrainingTask, settings: Settings) -> Object:
    """Return the Job that trains `task`.

    One index with a backoff limit of its own: the Job controller then annotates each pod with the count of failures,
    from which the trainer derives the number of its attempt without a request.
    """
    policy = task.spec.run_policy
    spec: Object = {
        "completionMode": "Indexed",
        "completions": 1,
        "parallelism": 1,
        "backoffLimitPerIndex": policy.retries,
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": {"rules": [FAIL_ON_USER_ERROR, _IGNORE_DISRUPTION]},
        **build_scheduling(task),
        "template": build_pod_template(task, settings, _FAILURE_COUNTS),
    }
    if policy.active_deadline_seconds is not None:
        spec["activeDeadlineSeconds"] = policy.active_deadline_seconds
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": build_metadata(task, build_job_name(task)),
        "spec": spec,
    }
