"""The pretrained checkpoint of a task: a folder in its volume claim, or a download from an address or from the hub."""

import errno
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from trainingtask_api.formatting import remove_query
from trainingtask_api.model import Model as ModelSpec
from trainingtask_api.model import Preprocessor as PreprocessorSpec
from trainingtask_api.reasons import Reason
from trainingtask_trainer.errors import UserError
from trainingtask_trainer.pretrained.families import get_family
from trainingtask_trainer.runtime.shared_folder import enter_first_in_pod
from trainingtask_trainer.storage.archives import CHECKPOINT_FILES, ENDINGS, unpack_checkpoint
from trainingtask_trainer.storage.downloads import get_downloads
from trainingtask_trainer.volumes import describe_contents, resolve_path

_UNLIMITED_TOKENS = 1_000_000  # tokenizers without a limit report 10^30


def get_checkpoint_name(model: ModelSpec) -> str:
    """Return the checkpoint's name or address in the task, else the family's default.

    Raises
    ------
    UserError
        When the family has no default and the task names none.
    """
    if model.uri is not None:
        return remove_query(model.uri)
    name = model.checkpoint or get_family(model.name).default_checkpoint
    if name is None:
        raise UserError(Reason.INVALID_SPEC, f"model.checkpoint is required for model.name '{model.name}'")
    return name


def get_encoder_name(preprocessor: PreprocessorSpec) -> str:
    """Return the name or address of an embedding's encoder; raise UserError when the task names none."""
    name = preprocessor.checkpoint or remove_query(preprocessor.uri or "")
    if not name:
        raise UserError(Reason.INVALID_SPEC, "preprocessor.checkpoint is required for preprocessor.name 'embedding'")
    return name


def fetch_checkpoint(model: ModelSpec, root: Path) -> Path:
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
        When the checkpoint does not exist, access is refused, or it is of another family than the task names.
    Fault
        When the hub cannot be reached.
    """
    name = get_checkpoint_name(model)
    folder = _fetch("model", model, name, root)
    _check_family(model, folder, name)
    return folder


def fetch_encoder(preprocessor: PreprocessorSpec, root: Path) -> Path:
    """Return the folder that holds the encoder of an embedding, of any family; see `fetch_checkpoint`.

    `root` is the folder that stands for `preprocessor.volumeClaim`.
    """
    name = get_encoder_name(preprocessor)
    folder = _fetch("preprocessor", preprocessor, name, root)
    check_is_data(folder, name)
    return folder


def _fetch(section: str, spec: ModelSpec | PreprocessorSpec, name: str, root: Path) -> Path:
    if spec.uri is not None:
        return _fetch_address(section, spec.uri)
    if spec.volume_claim is not None:
        return resolve_path(root, name, f"{section}.checkpoint", spec.volume_claim, Reason.MODEL_UNAVAILABLE)
    from trainingtask_trainer.storage.hub import Repository, download_checkpoint  # noqa: PLC0415 - unused with a claim

    return download_checkpoint(Repository(f"{section}.checkpoint", name), spec.revision or "main")


def _fetch_address(section: str, uri: str) -> Path:
    """Return the folder of the checkpoint's files under a prefix, or of those in an archive."""
    field = f"{section}.uri"
    path = get_downloads().fetch(uri, field, _is_wanted)
    with enter_first_in_pod(f"{field} {uri} unpacked"):  # the pod's other processes find a folder
        return path if path.is_dir() else _unpack(path, f"{field} '{remove_query(uri)}'")


def _unpack(path: Path, what: str) -> Path:
    """Put the folder of an archive's files in its place."""
    if not path.name.lower().endswith(ENDINGS):
        raise UserError(
            Reason.MODEL_UNAVAILABLE,
            f"{what} is a file: name the prefix of a checkpoint's files, or an archive of them ({', '.join(ENDINGS)})",
        )
    folder = Path(tempfile.mkdtemp(dir=path.parent))
    unpack_checkpoint(path, folder, what, _is_wanted)
    path.unlink()
    return folder.rename(path)  # the path that stands for the address, in messages and for the next caller


def _is_wanted(name: str) -> bool:
    """Return whether a file belongs to a checkpoint; macOS puts a hidden one of the same ending beside each."""
    return not name.startswith(".") and any(fnmatch(name, pattern) for pattern in CHECKPOINT_FILES) and "/" not in name


@contextmanager
def translate_read_errors(name: str, failure: str) -> Iterator[None]:
    """Turn a library's errors about checkpoint `name` into a UserError with `failure` as its verb phrase."""
    try:
        yield
    except (OSError, ValueError, SafetensorError) as error:
        # Libraries raise OSErrors without a number; one with a number is the system's, and may be temporary.
        if isinstance(error, OSError) and error.errno not in (None, errno.ENOENT):
            raise
        raise UserError(Reason.MODEL_UNAVAILABLE, f"checkpoint '{name}' {failure}: {error}") from error


def check_weights(model: Any, loading: dict[str, Any], name: str) -> None:
    """Refuse a checkpoint without all weights of its encoder, for which the library would silently draw random ones.

    Parameters
    ----------
    model, loading
        The result of `from_pretrained` with `output_loading_info`. A head or a pooler may be missing.
    name
        Of the checkpoint, for the message.
    """
    encoder = "" if model.base_model is model else f"{model.base_model_prefix}."
    missing = {*loading["missing_keys"], *(key for key, *_ in loading["mismatched_keys"])}
    lacking = sorted(key for key in missing if key.startswith(encoder) and "pooler" not in key)
    if lacking:
        raise UserError(
            Reason.MODEL_UNAVAILABLE,
            f"checkpoint '{name}' lacks {len(lacking)} of its encoder's weights, or has them in another shape than its "
            f"config.json says, such as {lacking[0]}: it was saved for another kind of model, or config.json is not its own",
        )


def get_max_text_tokens(folder: Path, tokenizer: Any) -> int | None:
    """Return the most tokens of a text that a checkpoint can read, None when it has no limit."""
    config = _read_config(folder)
    positions = config.get("max_position_embeddings")
    if isinstance(positions, int) and get_family(config.get("model_type")).has_padding_offset:
        positions -= config.get("pad_token_id", 1) + 1
    limits = [tokenizer.model_max_length, positions]
    known = [limit for limit in limits if isinstance(limit, int) and 0 < limit < _UNLIMITED_TOKENS]
    return min(known) if known else None


def _read_config(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if not isinstance(config, dict):
        raise ValueError(f"a {type(config).__name__} instead of an object")
    return config


def check_is_data(folder: Path, name: str) -> None:
    """Refuse a checkpoint that would load code, or is not complete.

    Weights in other formats than safetensors may run code when they are read, and an attention implementation that is
    the id of a hub repository is native code from there, which the library would load.

    Raises
    ------
    UserError
        When a file is missing, or a key of config.json would load code or is no number where one is needed.
    """
    if not (folder / "config.json").is_file():
        there = describe_contents(folder) if folder.is_dir() else "a file, not a folder"
        raise UserError(
            Reason.MODEL_UNAVAILABLE, f"checkpoint '{name}' ({folder}) has no config.json; it holds {there}"
        )
    if not list(folder.glob("[!.]*.safetensors")):
        raise UserError(
            Reason.MODEL_UNAVAILABLE,
            f"checkpoint '{name}' ({folder}) has no *.safetensors; it holds {describe_contents(folder)}: weights in another format "
            "may be code, convert them where you trust them (load them with transformers, then save_pretrained)",
        )
    try:
        config = _read_config(folder)
    except ValueError as error:
        raise UserError(Reason.MODEL_UNAVAILABLE, f"checkpoint '{name}' has a broken config.json: {error}") from error
    padding = config.get("pad_token_id", 1)
    if get_family(config.get("model_type")).has_padding_offset and not isinstance(padding, int):
        raise UserError(
            Reason.MODEL_UNAVAILABLE,
            f"checkpoint '{name}': pad_token_id {padding!r} in config.json is no number: give the padding token's id, after "
            "which the positions of its family start",
        )
    for key, value in _iter_attention_keys(config):
        if value not in (None, "eager", "sdpa"):
            raise UserError(
                Reason.MODEL_UNAVAILABLE,
                f"checkpoint '{name}': {key} {value!r} in config.json would load code: remove it, or use eager or sdpa",
            )


def _iter_attention_keys(config: Any) -> Iterator[tuple[str, Any]]:
    """Yield the keys of a configuration and of its parts that name an attention implementation."""
    for key, value in config.items() if isinstance(config, dict) else ():
        if key.endswith("attn_implementation"):
            yield key, value
        yield from _iter_attention_keys(value)


def _check_family(model: ModelSpec, folder: Path, name: str) -> None:
    check_is_data(folder, name)
    family = _read_config(folder).get("model_type")
    if _has_model_name(model.name) and family != model.name:  # any other name accepts any family
        raise UserError(
            Reason.MODEL_MISMATCH,
            f"model.name is '{model.name}', but checkpoint '{name}' is a '{family}': set model.name to "
            f"'{family if _has_model_name(family) else 'auto'}' or choose another checkpoint",
        )


def _has_model_name(family: str | None) -> bool:
    return get_family(family).default_checkpoint is not None
