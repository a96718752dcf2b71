"""Tasks as the API server shows them -> what can be read of them, whoever wrote into them."""

import contextlib
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from pydantic import ValidationError

from trainingtask_api import Metadata, Reason, TrainingReport, TrainingTask, TrainingTaskStatus
from trainingtask_operator.malformed import skip

Object = Mapping[str, Any]

CLOCK_DIFFERENCE = timedelta(minutes=5)


def parse(body: Object, now: datetime) -> TrainingTask | None:
    """Return the task, without what of its status cannot be read; None when its spec cannot be read.

    A status may be spoilt by a person, or written by another release. What the cluster shows is the truth and rebuilds
    it, except for its end: a task that has ended must not train again because its status is not understood.

    Parameters
    ----------
    body
        The task as the API server sends it.
    now
        What a trainer reports of times after it is not believed, see `is_believable`.
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
                return _believed(known[1].model_copy(update={"metadata": metadata, "status": said}), now)
            task = TrainingTask.model_validate({**body, "status": attempt})
            _remember(body["spec"], task)
            return _believed(task, now)
    return None


def is_believable(report: TrainingReport, task: TrainingTask, now: datetime) -> bool:
    """Tell whether a report's times are in the life of its task, up to what clocks differ by."""
    times = [time for time in (report.report_time, report.start_time, report.finish_time) if time is not None]
    created = task.metadata.creation_timestamp
    return all(time - now <= CLOCK_DIFFERENCE for time in times) and (
        created is None or all(created - time <= CLOCK_DIFFERENCE for time in times)
    )


def _believed(task: TrainingTask, now: datetime) -> TrainingTask:
    """Return the task without a report that is not believable: as if it could not be read."""
    report = task.status.training if task.status else None
    if task.status is None or report is None or is_believable(report, task, now):
        return task
    name = f"of {task.metadata.namespace}/{task.metadata.name}"
    skip("report", name, ValueError("its times are not in the life of its task"))
    return task.model_copy(update={"status": task.status.model_copy(update={"training": None})})


# Reading a spec costs more than the rest of a reconcile, and it is the same ten times in the life of a task.
_REMEMBERED = 1024
_NO_METADATA = Metadata(name="-")
_read: dict[str | None, tuple[Object, TrainingTask]] = {}  # uid -> the spec as it came and as it was read, oldest first


def _remember(spec: Object, task: TrainingTask) -> None:
    _read.pop(task.metadata.uid, None)
    # Without its labels, which may be large: the metadata is read anew each time.
    _read[task.metadata.uid] = spec, task.model_copy(update={"status": None, "metadata": _NO_METADATA})
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
