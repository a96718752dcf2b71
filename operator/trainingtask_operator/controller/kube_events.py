"""Warning Events for conditions that need attention. Pure."""

import uuid
from datetime import datetime

from trainingtask_api import Condition, Reason, TrainingTask, names
from trainingtask_operator.kube_objects import Object

# A task without a failure gets no Event: its conditions hold the same, and a thousand tasks save a thousand requests.
_WARNING_CONDITIONS = {("Accepted", "False"), ("Failed", "True"), ("Interrupted", "True")}
_WARNING_REASONS = {Reason.PROGRESS_STALE, Reason.QUEUE_UNAVAILABLE, Reason.SIDECAR_RUNNING}
_USUAL_WAITING_REASONS = {Reason.STARTING, Reason.WAITING_FOR_QUOTA, Reason.SUSPENDED_BY_USER, Reason.ENDED}


def is_warning(condition: Condition) -> bool:
    """Return whether a transition to this condition deserves a Warning."""
    if condition.type == "Running" and condition.status == "False":
        return condition.reason not in _USUAL_WAITING_REASONS
    return condition.reason in _WARNING_REASONS or (condition.type, condition.status) in _WARNING_CONDITIONS


def build_warnings(task: TrainingTask, transitions: list[Condition], now: datetime) -> list[Object]:
    """Return one Warning per reason among the transitions."""
    messages = {condition.reason: condition.message for condition in transitions if is_warning(condition)}
    return [_build_warning(task, reason, message, now) for reason, message in messages.items()]


def _build_warning(task: TrainingTask, reason: str, message: str, now: datetime) -> Object:
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": f"{task.metadata.name}.{uuid.uuid4().hex[:16]}", "namespace": task.metadata.namespace},
        "type": "Warning",
        "reason": reason,
        "note": message[:1024],
        "action": "Reconcile",
        "eventTime": now.isoformat(timespec="microseconds"),
        "reportingController": names.OPERATOR_FIELD_MANAGER,
        "reportingInstance": names.OPERATOR_FIELD_MANAGER,
        "regarding": {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            "name": task.metadata.name,
            "namespace": task.metadata.namespace,
            "uid": task.metadata.uid,
        },
    }
