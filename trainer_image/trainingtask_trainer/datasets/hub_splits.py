"""The splits of a data set on the hub, as `datasets` prepares them: from tables alone, and it runs no code of the hub."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import datasets
import pyarrow
from datasets.data_files import EmptyDatasetError
from datasets.exceptions import DatasetNotFoundError, DatasetsError
from datasets.naming import camelcase_to_snakecase
from datasets.packaged_modules.cache.cache import Cache
from huggingface_hub import is_offline_mode
from huggingface_hub.errors import OfflineModeIsEnabled

from trainingtask_api.dataset import HubSource
from trainingtask_api.reasons import Reason
from trainingtask_trainer.errors import UserError
from trainingtask_trainer.storage.hub import Repository, resolve_revision, translate_hub_errors
from trainingtask_trainer.storage.hub_client import HubSilentError

# The formats that hold tables; others of the library hold media, or objects that run code when they are read.
_FORMATS = ("arrow", "csv", "json", "parquet")

Splits = dict[str, datasets.Dataset]


def load_hub_splits(hub: HubSource, config: str | None, config_field: str = "dataset.hub.config") -> Splits:
    """Return the splits of a configuration; those of the cache where the hub does not answer.

    `config_field` is the field of the spec that names the configuration, for messages.

    Raises
    ------
    UserError
        When there is no such data set, revision or configuration, access is refused, or its files cannot be read.
    Fault
        When the hub does not answer, and the cache does not hold this commit.
    """
    datasets.disable_progress_bars()
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False  # it would tell the id to another server than the hub
    repository = Repository("dataset.hub", hub.id, is_dataset=True)
    commit = resolve_revision(repository, hub.revision)
    with translate_hub_errors(repository, hub.revision):
        try:
            if is_offline_mode():
                raise OfflineModeIsEnabled
            return _prepare(repository, hub.revision, config, commit, config_field)
        except (OfflineModeIsEnabled, HubSilentError):
            prepared = _read_cache(hub.id, config, commit)
            if prepared is None:
                raise
            return prepared


def _prepare(repository: Repository, revision: str, config: str | None, commit: str, config_field: str) -> Splits:
    where = repository.describe(revision)
    # In its usual cache the library would find any commit when the hub fails, and not raise what failed.
    with tempfile.TemporaryDirectory() as empty:
        with _translate_finding(where, config_field):
            # By its address: a plain id is also the name of a local folder.
            address = f"hf://datasets/{repository.id}"
            builder = datasets.load_dataset_builder(address, config, revision=commit, cache_dir=empty)
        _check_format(builder, where)
        place = Path(builder.cache_dir).relative_to(empty)
        with _translate_reading(where):
            builder.download_and_prepare(str(Path(datasets.config.HF_DATASETS_CACHE) / place))
            return dict(builder.as_dataset())


def _check_format(builder: datasets.DatasetBuilder, where: str) -> None:
    form = type(builder).__module__.rpartition(".")[2]
    if form not in _FORMATS:
        raise UserError(
            Reason.DATASET_UNAVAILABLE,
            f"{where} has files of the format '{form}', but only {', '.join(_FORMATS)} are read",
        )


@contextmanager
def _translate_finding(where: str, config_field: str) -> Iterator[None]:
    """Turn what the library raises about a data set's configurations and the names of its files into a UserError."""
    try:
        yield
    except (DatasetNotFoundError, EmptyDatasetError, FileNotFoundError) as error:
        why = str(error).rpartition("FileNotFoundError: ")[2].partition(" with any supported extension ")[0]
        hint = "; pass HF_TOKEN through spec.env" if "gated" in why else ""
        raise UserError(Reason.DATASET_UNAVAILABLE, f"{where} cannot be had: {why}{hint}") from error
    except RuntimeError as error:  # a script instead of data
        raise UserError(
            Reason.DATASET_UNAVAILABLE, f"{where} cannot be had: {error}; a data set must consist of data files"
        ) from error
    except ValueError as error:  # no such configuration, or several
        why = " ".join(str(error).partition("\nExample")[0].split())
        raise UserError(Reason.DATASET_UNAVAILABLE, f"{where}, {config_field}: {why}") from error


@contextmanager
def _translate_reading(where: str) -> Iterator[None]:
    """Turn what the library raises about the content of files into a UserError; the system's errors stay."""
    try:
        yield
    except (DatasetsError, pyarrow.ArrowException, ValueError) as error:
        cause = error.__cause__ or error
        if (isinstance(cause, OSError) and cause.errno is not None) or isinstance(cause, HubSilentError):
            raise cause from error
        raise UserError(Reason.INVALID_DATA, f"{where} has files that cannot be read: {cause}") from error


def _read_cache(repository_id: str, config: str | None, commit: str) -> Splits | None:
    """Return the splits of a commit that was prepared before, None when none or several configurations were."""
    *owner, name = repository_id.split("/")
    root = Path(datasets.config.HF_DATASETS_CACHE)
    folder = root / "___".join([*owner, camelcase_to_snakecase(name)])
    prepared = list(folder.glob(f"{config or '*'}/*/{commit}/dataset_info.json"))
    if len(prepared) != 1:
        return None
    found, version = prepared[0].relative_to(folder).parts[:2]
    cache = Cache(
        cache_dir=str(root), repo_id=repository_id, dataset_name=name, config_name=found, version=version, hash=commit
    )
    return dict(cache.as_dataset())
