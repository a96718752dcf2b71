"""Tasks as the API server shows them -> what can be read of them, whoever wrote into them. Pure."""

import copy
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from trainingtask_api import Condition, TrainingTaskStatus

Object = Mapping[str, Any]
Path = tuple[str | int, ...]
Model = TypeVar("Model", bound=BaseModel)


def status_of(task: Object) -> TrainingTaskStatus:
    """Return the status as far as it can be read; an empty one when there is none."""
    return read(TrainingTaskStatus, task.get("status")) or TrainingTaskStatus()


def read(model: type[Model], value: Any) -> Model | None:
    """Return the object without what cannot be read of it: another release may have written it, or a person.

    Whatever breaks the model is left out, as little of it as possible. None when nothing is left that it accepts.
    """
    value = copy.deepcopy(value)
    while isinstance(value, dict):
        try:
            return model.model_validate(value)
        except ValidationError as error:
            broken = {_existing(value, item["loc"]) for item in error.errors(include_url=False)}
            if () in broken:
                return None
            # Later items of a list first: the numbers of the earlier ones stay right.
            for path in sorted(broken, key=lambda path: [str(part).zfill(6) for part in path], reverse=True):
                _remove(value, path)
    return None


def _existing(value: Any, location: Path) -> Path:
    """Return the part of an error's location that exists: a field that is missing breaks the object without it."""
    path: Path = ()
    for part in location:
        known = range(len(value)) if isinstance(value, list) else value if isinstance(value, dict) else ()
        if part not in known:
            break
        value = value[part]
        path += (part,)
    return path


def _remove(value: Any, path: Path) -> None:
    *parents, last = path
    for part in parents:
        value = value[part]
    del value[last]


def deciding(status: TrainingTaskStatus) -> Condition | None:
    """Return the condition that the task's state is derived from, None while there is none."""
    named = [condition for condition in status.conditions or () if condition.reason == status.reason]
    # Accepted=False and Running=False may name one reason, with one message.
    return max(named, key=lambda condition: condition.last_transition_time, default=None)


def state_of(task: Object) -> str:
    """Return the word for people; a task that nobody has looked at yet has none."""
    return status_of(task).state or ""


def spec_of(task: Object) -> Object:
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
