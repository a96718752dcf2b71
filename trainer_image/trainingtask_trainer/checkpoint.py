"""Finding the pretrained checkpoint of a task: a folder in its volume claim, or a download from the hub."""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from trainingtask_api.spec import Model as ModelSpec
from trainingtask_trainer.errors import Fault, UserError
from trainingtask_trainer.places import contents, find

# The checkpoint that a family starts from when the task names none.
BASE_CHECKPOINTS = {
    "bert": "google-bert/bert-base-uncased",
    "distilbert": "distilbert/distilbert-base-uncased",
}
# Weights as safetensors alone: other formats are larger, and some run code when they are read.
_HUB_FILES = ["*.json", "*.txt", "*.model", "*.safetensors"]
_NO_LIMIT = 1_000_000  # tokenizers without a limit report an astronomic one


def checkpoint_name(model: ModelSpec) -> str:
    """Return what the task, or the family's default, calls the checkpoint.

    Raises
    ------
    UserError
        When the family has no default and the task names none.
    """
    name = model.checkpoint or BASE_CHECKPOINTS.get(model.name)
    if name is None:
        raise UserError("InvalidSpec", f"model.checkpoint is required for model.name '{model.name}'")
    return name


@lru_cache  # the tokenizer and the model ask for the same one
def checkpoint_folder(model: ModelSpec, root: Path) -> Path:
    """Return the folder that holds the checkpoint, downloaded first if it comes from the hub.

    Parameters
    ----------
    model
        The model section of the task.
    root
        The folder that stands for `model.volumeClaim`.

    Raises
    ------
    UserError
        When the checkpoint does not exist, is not open to us, or is not of the family that the task names.
    Fault
        When the hub cannot be reached.
    """
    name = checkpoint_name(model)
    if model.volume_claim is not None:
        folder = find(root, name, "model.checkpoint", model.volume_claim, "ModelUnavailable")
    else:
        folder = _download(name, model.revision or "main")
    _check_family(model, folder, name)
    return folder


def text_limit(folder: Path, tokenizer: Any) -> int | None:
    """Return the most tokens that a checkpoint can read, None when it has no limit."""
    limits = [tokenizer.model_max_length, _config(folder).get("max_position_embeddings")]
    known = [limit for limit in limits if isinstance(limit, int) and 0 < limit < _NO_LIMIT]
    return min(known) if known else None


def _config(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config


def _check_family(model: ModelSpec, folder: Path, name: str) -> None:
    if not (folder / "config.json").is_file():
        there = contents(folder) if folder.is_dir() else "a file, not a folder"
        raise UserError("ModelUnavailable", f"checkpoint '{name}' ({folder}) has no config.json; it holds {there}")
    if not list(folder.glob("*.safetensors")):
        raise UserError(
            "ModelUnavailable", f"checkpoint '{name}' ({folder}) has no *.safetensors; it holds {contents(folder)}"
        )
    try:
        family = _config(folder).get("model_type")
    except ValueError as error:
        raise UserError("ModelUnavailable", f"checkpoint '{name}' has a broken config.json: {error}") from error
    if family != model.name:
        raise UserError(
            "ModelMismatch",
            f"model.name is '{model.name}', but checkpoint '{name}' is a '{family}': set model.name to '{family}' "
            "or choose another checkpoint",
        )


def _download(name: str, revision: str) -> Path:
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - a folder in a claim needs no hub
    from huggingface_hub.errors import (  # noqa: PLC0415
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    where = f"checkpoint '{name}' at revision '{revision}'"
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=_HUB_FILES))
    except GatedRepoError as error:
        raise UserError(
            "ModelUnavailable", f"{where} is gated: ask for access on the hub and pass HF_TOKEN through spec.env"
        ) from error
    except RepositoryNotFoundError as error:
        raise UserError(
            "ModelUnavailable", f"{where} does not exist on the hub, or is private and HF_TOKEN is missing"
        ) from error
    except RevisionNotFoundError as error:
        raise UserError("ModelUnavailable", f"{where}: the hub knows no such revision") from error
    except (LocalEntryNotFoundError, HfHubHTTPError, ConnectionError) as error:
        raise Fault(
            "HubUnavailable", f"the hub could not be reached for {where} ({type(error.__cause__ or error).__name__})"
        ) from error
