"""Tasks as the API server shows them -> what can be read of them, whoever wrote into them. Pure."""

import copy
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from trainingtask_api import Condition, TrainingTaskStatus

Object = Mapping[str, Any]
Path = tuple[str | int, ...]
Model = TypeVar("Model", bound=BaseModel)


def parse_status(task: Object) -> TrainingTaskStatus:
    """Return the status as far as it can be read; an empty one when there is none."""
    return parse_leniently(TrainingTaskStatus, task.get("status")) or TrainingTaskStatus()


def parse_leniently(model: type[Model], value: Any) -> Model | None:
    """Return the object without what cannot be read of it: another release may have written it, or a person.

    Whatever breaks the model is left out, as little of it as possible. None when nothing is left that it accepts.
    """
    value = copy.deepcopy(value)
    while isinstance(value, dict):
        try:
            return model.model_validate(value)
        except ValidationError as error:
            broken = {_find_existing_prefix(value, item["loc"]) for item in error.errors(include_url=False)}
            if () in broken:
                return None
            # Later items of a list first: the numbers of the earlier ones stay right.
            for path in sorted(broken, key=lambda path: [str(part).zfill(6) for part in path], reverse=True):
                _delete_path(value, path)
    return None


def _find_existing_prefix(value: Any, location: Path) -> Path:
    """Return the part of an error's location that exists: a field that is missing breaks the object without it."""
    path: Path = ()
    for part in location:
        known = range(len(value)) if isinstance(value, list) else value if isinstance(value, dict) else ()
        if part not in known:
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
    """Return the condition that the task's state is derived from, None while there is none."""
    named = [condition for condition in status.conditions or () if condition.reason == status.reason]
    # Accepted=False and Running=False may name one reason, with one message.
    return max(named, key=lambda condition: condition.last_transition_time, default=None)


def get_state(task: Object) -> str:
    """Return the word for people; a task that nobody has looked at yet has none."""
    return parse_status(task).state or ""


def get_spec(task: Object) -> Object:
    """Return the spec as it is: what the API server has let in is shown, known to this release or not."""
    spec = task.get("spec")
    return spec if isinstance(spec, Mapping) else {}


def at(value: Any, *path: str) -> Any:
    """Return what stands at the path of a raw object, None where there is nothing."""
    for part in path:
        if not isinstance(value, Mapping):
            return None
        value = value.get(part)
    return value
