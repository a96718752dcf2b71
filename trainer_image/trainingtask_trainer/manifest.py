"""The TrainingTask in a file: the one mounted into a pod, or a user's YAML with other manifests beside it."""

import json
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from trainingtask_api.names import KIND
from trainingtask_api.reasons import Reason
from trainingtask_api.task import TrainingTask, describe_errors
from trainingtask_trainer.errors import UserError


def _parse_documents(text: str) -> list[Any]:
    """Return the documents of a file; a pod's is JSON, whose escapes YAML does not all accept."""
    try:
        return [json.loads(text)]
    except ValueError:
        return list(yaml.safe_load_all(text))


def read_task(path: Path) -> TrainingTask:
    """Return the one TrainingTask in a YAML file.

    Raises
    ------
    UserError
        When there is none, more than one, or one that breaks the contract: a sentence for each broken field.
    """
    try:
        documents = _parse_documents(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(Reason.INVALID_SPEC, f"{path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(Reason.INVALID_SPEC, f"{path} is not YAML: {error}") from error
    except ValueError as error:  # of a date such as 2026-02-30
        raise UserError(
            Reason.INVALID_SPEC, f"{path} has a date or a number that is none ({error}): quote it, or correct it"
        ) from error
    tasks = [document for document in documents if isinstance(document, dict) and document.get("kind") == KIND]
    if len(tasks) != 1:
        raise UserError(Reason.INVALID_SPEC, f"{path} holds {len(tasks)} objects of kind {KIND}, expected one")
    # The status may be of another version of the operator, and is not used here.
    task = {key: value for key, value in tasks[0].items() if key != "status"}
    try:
        return TrainingTask.model_validate(task)
    except ValidationError as error:
        raise UserError(Reason.INVALID_SPEC, describe_errors(error).replace("\n", "; ")) from error
