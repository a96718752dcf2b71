"""The manifest of a saved model, ``trainingtask.json``: what `predict` needs beside the files of the model's kind."""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trainingtask_api.exports import Format
from trainingtask_api.fields import ColumnName, IndicatorName, RegisteredName
from trainingtask_api.reasons import Reason
from trainingtask_api.task import describe_errors
from trainingtask_trainer.errors import UserError
from trainingtask_trainer.storage.folder_store import MODEL_MANIFEST
from trainingtask_trainer.volumes import describe_contents

_MAX_MANIFEST_BYTES = 32 << 20

_Label = Annotated[str, Field(max_length=200)]
_Threshold = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class Manifest(BaseModel):
    """The manifest of a saved model. It may come from an untrusted folder: every value is bounded."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    task: Annotated[str, Field(min_length=1, max_length=63)]
    """Name of the task that trained it."""
    model: RegisteredName
    preprocessor: RegisteredName
    labels: Annotated[tuple[_Label, ...], Field(min_length=1, max_length=100_000)]
    thresholds: tuple[_Threshold, ...]
    """One per label: the probability from which it is predicted."""
    at_least_one: bool = False
    """Whether the most probable label is predicted where none reaches its threshold."""
    max_labels: Annotated[int, Field(ge=1)] | None = None
    """The most labels that are predicted of a text."""
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """What the model's logits are divided by, before the thresholds; None: nothing."""
    formats: Annotated[tuple[Format, ...], Field(max_length=4)] = ()
    """The formats that were asked for and written; none: the model's own."""
    text_columns: Annotated[tuple[IndicatorName, ...], Field(max_length=16)] = ()
    """The columns that a row's text was joined from; none for a text of one column."""
    text_column: ColumnName = "text"
    """The column of the text where it is one."""


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of a saved model.

    Raises
    ------
    UserError
        When `folder` holds no saved model, or a manifest that breaks its bounds.
    """
    path = folder / MODEL_MANIFEST
    if not path.is_file():
        there = f"it holds {describe_contents(folder)}" if folder.is_dir() else "there is no such folder"
        raise UserError(
            Reason.MODEL_UNAVAILABLE, f"{folder} is not a saved model, {MODEL_MANIFEST} is missing: {there}"
        )
    if (size := path.stat().st_size) > _MAX_MANIFEST_BYTES:
        raise create_invalid_model_error(
            folder, f"{MODEL_MANIFEST} has {size} bytes, at most {_MAX_MANIFEST_BYTES} are allowed"
        )
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = describe_errors(error).partition("\n")[0]
        raise create_invalid_model_error(folder, f"{MODEL_MANIFEST}: {first}") from error
    if len(manifest.labels) != len(manifest.thresholds):
        counts = f"{len(manifest.labels)} labels and {len(manifest.thresholds)} thresholds"
        raise create_invalid_model_error(folder, f"{MODEL_MANIFEST} has {counts}: one threshold per label is allowed")
    return manifest


def create_invalid_model_error(folder: Path, why: str) -> UserError:
    """Return the error that a folder is not a saved model as this project writes it."""
    return UserError(Reason.MODEL_UNAVAILABLE, f"{folder} is not a saved model of this project, or was changed: {why}")
