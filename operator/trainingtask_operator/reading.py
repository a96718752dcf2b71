"""Tasks as the API server shows them -> what can be read of them, whoever wrote into them."""

import contextlib
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from trainingtask_api import Metadata, Reason, TrainingTask, TrainingTaskStatus

Object = Mapping[str, Any]


def parse(body: Object) -> TrainingTask | None:
    """Return the task, without what of its status cannot be read; None when its spec cannot be read.

    A status may be spoilt by a person, or written by another release. What the cluster shows is the truth and rebuilds
    it, except for its end: a task that has ended must not train again because its status is not understood.
    """
    status = body.get("status") or None
    readable = (
        {field: value for field, value in status.items() if field != "training"} if isinstance(status, dict) else None
    )
    ended = (
        {"conditions": [c for c in conditions_in(body) if c.get("type") in ("Complete", "Failed")]}
        if has_ended(body)
        else None
    )
    known = _read.get(body["metadata"].get("uid"))
    for attempt in (status, readable, ended):
        with contextlib.suppress(ValidationError):
            if known is not None and known[0] == body.get("spec"):
                metadata = Metadata.model_validate(body["metadata"])
                said = None if attempt is None else TrainingTaskStatus.model_validate(attempt)
                return known[1].model_copy(update={"metadata": metadata, "status": said})
            task = TrainingTask.model_validate({**body, "status": attempt})
            _remember(body["spec"], task)
            return task
    return None


# Reading a spec costs more than the rest of a reconcile, and it is the same ten times in the life of a task.
_REMEMBERED = 1024
_read: dict[str | None, tuple[Object, TrainingTask]] = {}  # uid -> the spec as it came and as it was read, oldest first


def _remember(spec: Object, task: TrainingTask) -> None:
    _read.pop(task.metadata.uid, None)
    _read[task.metadata.uid] = spec, task.model_copy(update={"status": None})
    if len(_read) > _REMEMBERED:
        del _read[next(iter(_read))]


def conditions_in(body: Object) -> list[Object]:
    """Return the conditions of a raw object, as far as they are conditions at all."""
    status = body.get("status")
    found = status.get("conditions") if isinstance(status, Mapping) else None
    return [item for item in found if isinstance(item, Mapping)] if isinstance(found, list) else []


def has_ended(body: Object) -> bool:
    """Tell whether a raw task is Complete or Failed."""
    return any(
        item.get("type") in ("Complete", "Failed") and item.get("status") == "True" for item in conditions_in(body)
    )


def says_invalid(body: Object, message: str) -> bool:
    """Tell whether a raw task's status says already that its spec cannot be read, and why."""
    return any(
        item.get("reason") == Reason.INVALID_SPEC and item.get("message") == message for item in conditions_in(body)
    )


def invalid_spec(body: Object, message: str, now: datetime) -> dict[str, Any]:
    """Return the status of a task whose spec cannot be read; the rest of what it says stays."""
    condition = {
        "type": "Accepted",
        "status": "False",
        "reason": Reason.INVALID_SPEC.value,
        "message": message,
        "lastTransitionTime": now.isoformat(),
    }
    status = {field: value for field, value in (body.get("status") or {}).items() if field != "training"}
    others = [item for item in conditions_in(body) if item.get("type") != "Accepted"]
    return {"state": "Pending"} | status | {"reason": Reason.INVALID_SPEC.value, "conditions": [*others, condition]}
