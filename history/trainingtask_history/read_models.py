"""Runs, events and points as they are read: trainers write rows as they like, so each value is checked."""

import json
import math
import uuid
from datetime import UTC, datetime
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict

_MAX_DEPTH = 32  # of JSON


def _assume_utc(value: Any) -> Any:
    return value.replace(tzinfo=UTC) if isinstance(value, datetime) and value.tzinfo is None else value


def _convert_to_utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("is outside of the years 1 to 9999 in UTC") from None


# SQLite stores no zone; all times are stored in UTC
UtcTime = Annotated[AwareDatetime, BeforeValidator(_assume_utc), AfterValidator(_convert_to_utc)]


def _drop_non_finite(value: Any) -> Any:
    return value if not isinstance(value, float) or math.isfinite(value) else None


def _parse_object(value: Any) -> dict[str, Any] | None:
    """Return a JSON object, parsed if it is text; None for anything else, and for an object nested too deeply."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    return value if isinstance(value, dict) and _is_shallow(value, _MAX_DEPTH) else None


def _is_shallow(value: Any, depth: int) -> bool:
    """Return whether a JSON object is nested at most `depth` levels."""
    level = [value]
    for _ in range(depth):
        parts = [part for item in level for part in (item.values() if isinstance(item, dict) else item)]
        level = [part for part in parts if isinstance(part, (dict, list))]
        if not level:
            return True
    return False


def _parse_labels(value: Any) -> dict[str, str] | None:
    found = _parse_object(value)
    return None if found is None else {key: label for key, label in found.items() if isinstance(label, str)}


FiniteFloat = Annotated[float | None, BeforeValidator(_drop_non_finite)]
JsonObject = Annotated[dict[str, Any] | None, BeforeValidator(_parse_object)]


class RunSummary(BaseModel):
    """A run in a list; the fields are named as the columns."""

    model_config = ConfigDict(from_attributes=True, frozen=True)

    id: uuid.UUID
    task_uid: str
    namespace: str
    name: str
    attempt: int
    dataset: str
    model: str
    device: str
    status: str
    create_time: UtcTime | None
    start_time: UtcTime | None
    finish_time: UtcTime | None
    total_time: FiniteFloat
    score: FiniteFloat
    error_reason: str | None
    phase: str | None
    step: int | None
    total_steps: int | None
    eta: Annotated[str | None, BeforeValidator(lambda eta: eta or None)]


class RunDetail(RunSummary):
    """A run with all its columns."""

    labels: Annotated[dict[str, str] | None, BeforeValidator(_parse_labels)]
    report_time: UtcTime | None
    spec: JsonObject
    training_args: JsonObject
    training_result: JsonObject
    evaluate_result: JsonObject
    error_message: str | None
    trainer_image: str | None
    node: str | None
    tracking_url: str | None
    log_tail: str | None


class Event(BaseModel):
    """An event of a run."""

    model_config = ConfigDict(from_attributes=True, frozen=True)

    time: UtcTime
    type: str
    reason: str
    message: str


class Point(NamedTuple):
    """One value of a curve."""

    step: int
    value: float
