"""Tasks as the API server returns them -> the contract's models, without the parts that are invalid. Pure."""

import copy
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from trainingtask_api import Condition, TrainingTaskStatus

Object = dict[str, Any]
Path = tuple[str | int, ...]
Model = TypeVar("Model", bound=BaseModel)


def parse_status(task: Object) -> TrainingTaskStatus:
    """Return the valid parts of the status, an empty one where there is none."""
    return parse_leniently(TrainingTaskStatus, task.get("status")) or TrainingTaskStatus()


def parse_leniently(model: type[Model], value: Any) -> Model | None:
    """Return the object as a model without its invalid parts, which another release or a person may have written.

    As little as possible is left out. None when the rest is no valid object either.
    """
    value = copy.deepcopy(value)
    while isinstance(value, dict):
        try:
            return model.model_validate(value)
        except ValidationError as error:
            invalid = {_find_existing_prefix(value, item["loc"]) for item in error.errors(include_url=False)}
            if () in invalid:
                return None
            # Later items of a list first, so that the indices of earlier ones stay valid.
            for path in sorted(invalid, key=lambda path: [str(part).zfill(6) for part in path], reverse=True):
                _delete_path(value, path)
    return None


def _find_existing_prefix(value: Any, location: Path) -> Path:
    """Return the existing part of an error's location: the object that lacks a field, where one is missing."""
    path: Path = ()
    for part in location:
        keys = range(len(value)) if isinstance(value, list) else value if isinstance(value, dict) else ()
        if part not in keys:
            break
        value = value[part]
        path += (part,)
    return path


def _delete_path(value: Any, path: Path) -> None:
    *parents, last = path
    for part in parents:
        value = value[part]
    del value[last]


def primary_condition(status: TrainingTaskStatus) -> Condition | None:
    """Return the condition that the task's state is derived from, None without one."""
    candidates = [condition for condition in status.conditions or () if condition.reason == status.reason]
    # Accepted=False, Running=False and Stalled=True may have one reason, with one message.
    return max(candidates, key=lambda condition: condition.last_transition_time, default=None)


def get_state(task: Object) -> str:
    """Return the state, an empty string before the operator has set one."""
    return parse_status(task).state or ""


def get_spec(task: Object) -> Object:
    """Return the spec unchanged, with fields of other releases."""
    spec = task.get("spec")
    return spec if isinstance(spec, dict) else {}
