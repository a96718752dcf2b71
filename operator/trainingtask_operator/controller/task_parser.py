"""Parsing of tasks whose spec or status may be invalid, and the status of those with an invalid spec."""

import contextlib
from datetime import datetime, timedelta

from pydantic import ValidationError

from trainingtask_api import Metadata, Reason, TrainingReport, TrainingTask, TrainingTaskStatus
from trainingtask_api.status import SUMMARY_CONDITIONS
from trainingtask_operator.kube_objects import TERMINAL_CONDITIONS, Object, get_conditions, is_finished
from trainingtask_operator.malformed_records import report_malformed

MAX_CLOCK_SKEW = timedelta(minutes=5)


def parse_task(body: Object, now: datetime) -> TrainingTask | None:
    """Return the task without the invalid part of its status; None when its spec is invalid.

    A person may have edited the status, or another release written it. It is rebuilt from the cluster, except for its
    end: a finished task must not train again because its status cannot be parsed.

    Parameters
    ----------
    body
        The task as the API server sends it.
    now
        The current time: a trainer's report with later times is dropped, see `is_plausible`.
    """
    status = body.get("status") or None
    without_report = (
        {field: value for field, value in status.items() if field != "training"} if isinstance(status, dict) else None
    )
    conditions_only = (
        {"conditions": [c for c in get_conditions(body) if c.get("type") in TERMINAL_CONDITIONS]}
        if is_finished(body)
        else None
    )
    cached = _parsed_specs.get(body["metadata"].get("uid"))
    for candidate in (status, without_report, conditions_only):
        with contextlib.suppress(ValidationError):
            if cached is not None and cached[0] == body.get("spec"):
                metadata = Metadata.model_validate(body["metadata"])
                parsed = None if candidate is None else TrainingTaskStatus.model_validate(candidate)
                return _drop_implausible_report(
                    cached[1].model_copy(update={"metadata": metadata, "status": parsed}), now
                )
            task = TrainingTask.model_validate({**body, "status": candidate})
            _cache_spec(body["spec"], task)
            return _drop_implausible_report(task, now)
    return None


def is_plausible(report: TrainingReport, task: TrainingTask, now: datetime) -> bool:
    """Return whether a report's times lie between its task's creation and now, give or take the clock skew."""
    times = [time for time in (report.report_time, report.start_time, report.finish_time) if time is not None]
    created = task.metadata.creation_timestamp
    return all(time - now <= MAX_CLOCK_SKEW for time in times) and (
        created is None or all(created - time <= MAX_CLOCK_SKEW for time in times)
    )


def _drop_implausible_report(task: TrainingTask, now: datetime) -> TrainingTask:
    """Return the task without a report that is not plausible."""
    report = task.status.training if task.status else None
    if task.status is None or report is None or is_plausible(report, task, now):
        return task
    name = f"of {task.metadata.namespace}/{task.metadata.name}"
    report_malformed("report", name, ValueError("its times are not in the life of its task"))
    return task.model_copy(update={"status": task.status.model_copy(update={"training": None})})


# Parsing a spec costs more than the rest of a reconcile, and it is the same ten times in the life of a task.
_MAX_PARSED_SPECS = 1024
_NO_METADATA = Metadata(name="-")
_parsed_specs: dict[str | None, tuple[Object, TrainingTask]] = {}  # uid -> raw and parsed, oldest first


def _cache_spec(spec: Object, task: TrainingTask) -> None:
    _parsed_specs.pop(task.metadata.uid, None)
    # Without the metadata, whose labels may be large: it is parsed anew each time.
    _parsed_specs[task.metadata.uid] = spec, task.model_copy(update={"status": None, "metadata": _NO_METADATA})
    if len(_parsed_specs) > _MAX_PARSED_SPECS:
        del _parsed_specs[next(iter(_parsed_specs))]


def has_invalid_spec_condition(body: Object, message: str) -> bool:
    """Return whether a raw task's status has the condition for an invalid spec with this message, about this generation."""
    status = body.get("status") or {}
    return status.get("observedGeneration") == body["metadata"].get("generation") and any(
        item.get("reason") == Reason.INVALID_SPEC and item.get("message") == message for item in get_conditions(body)
    )


def build_invalid_spec_status(body: Object, message: str, now: datetime) -> Object:
    """Return the status of a task with an invalid spec; the rest of the status stays."""
    cause = {"reason": Reason.INVALID_SPEC.value, "message": message, "lastTransitionTime": now.isoformat()}
    conditions = [{"type": "Accepted", "status": "False"} | cause, {"type": "Stalled", "status": "True"} | cause]
    status = {field: value for field, value in (body.get("status") or {}).items() if field != "training"}
    others = [item for item in get_conditions(body) if item.get("type") not in ("Accepted", *SUMMARY_CONDITIONS)]
    changed = {"reason": Reason.INVALID_SPEC.value, "conditions": [*others, *conditions]}
    return {"state": "Pending"} | status | changed | {"observedGeneration": body["metadata"].get("generation")}
