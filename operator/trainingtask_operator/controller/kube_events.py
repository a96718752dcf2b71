"""Events for what a person should look at. Pure."""

import uuid
from datetime import datetime
from typing import Any

from trainingtask_api import Condition, Reason, TrainingTask, names

# A task that goes well costs no event: its conditions say it all, and a thousand tasks spare a thousand requests.
_TROUBLE = {("Accepted", "False"), ("Failed", "True"), ("Interrupted", "True")}
_ALWAYS_TROUBLE = {Reason.PROGRESS_STALE, Reason.QUEUE_UNAVAILABLE}
_NOT_TROUBLE = {Reason.STARTING, Reason.WAITING_FOR_QUOTA, Reason.SUSPENDED_BY_USER, Reason.ENDED}


def is_trouble(condition: Condition) -> bool:
    """Tell whether a transition to this condition deserves a Warning."""
    if condition.type == "Running" and condition.status == "False":
        return condition.reason not in _NOT_TROUBLE
    return condition.reason in _ALWAYS_TROUBLE or (condition.type, condition.status) in _TROUBLE


def warnings_for(task: TrainingTask, transitions: list[Condition], now: datetime) -> list[dict[str, Any]]:
    """Return one Warning event per trouble, the same sentence once."""
    messages = {condition.reason: condition.message for condition in transitions if is_trouble(condition)}
    return [_event(task, reason, message, now) for reason, message in messages.items()]


def _event(task: TrainingTask, reason: str, message: str, now: datetime) -> dict[str, Any]:
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
