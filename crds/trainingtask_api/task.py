"""The TrainingTask object, and its validation errors as sentences for a user."""

from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from trainingtask_api.names import KIND
from trainingtask_api.rules import Contract
from trainingtask_api.spec import TrainingTaskSpec
from trainingtask_api.status import TrainingTaskStatus


class Metadata(BaseModel):
    """The fields of an object's metadata that this project reads."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore", frozen=True)

    name: Annotated[str, Field(min_length=1, max_length=63)]  # it labels the task's Job and pods
    namespace: str = "default"
    uid: str | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    generation: int | None = None
    creation_timestamp: AwareDatetime | None = None


class TrainingTask(Contract):
    """A multi-label text classifier to train, and what became of it."""

    api_version: Literal["trainingtask.dev/v1alpha1"]
    kind: Literal["TrainingTask"]
    metadata: Metadata
    spec: TrainingTaskSpec
    status: TrainingTaskStatus | None = None


def describe_errors(error: ValidationError) -> str:
    """Return one sentence per invalid field: its path, the value and what is allowed.

    Examples
    --------
    ``spec.training.epochs: 0 is refused: Input should be greater than or equal to 1``
    """
    sentences = []
    for item in error.errors(include_url=False):
        path = ".".join(str(part) for part in item["loc"] if part not in ("str", "int")) or KIND
        message = item["msg"].removeprefix("Value error, ")
        sentences.append(f"{path}: {_format_input(item)}{message}")
    return "\n".join(sentences)


def _format_input(item: Any) -> str:
    """Return a refused scalar as the start of a sentence, nothing for an object."""
    value = item["input"]
    if item["type"] == "missing" or isinstance(value, dict | list | BaseModel):
        return ""
    return f"{value!r} is refused: "
