"""Access to the hub: commits of revisions, files of checkpoints, and the errors of both as sentences.

The library's variables hold: HF_ENDPOINT, HF_TOKEN, HF_HOME, HF_HUB_OFFLINE, proxies and SSL_CERT_FILE.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx2
from huggingface_hub import HfApi, is_offline_mode, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    RevisionResolutionError,
    XetDownloadError,
)

from trainingtask_api.reasons import Reason
from trainingtask_api.status import Source
from trainingtask_trainer.errors import Fault, UserError
from trainingtask_trainer.storage.archives import CHECKPOINT_FILES
from trainingtask_trainer.storage.hub_client import HubSilentError, install_client
from trainingtask_trainer.storage.observer import get_observer

_COMMIT = re.compile(r"[0-9a-f]{40}")

install_client()


class Repository(NamedTuple):
    """A repository that a task reads from the hub.

    Attributes
    ----------
    field
        The field of the spec that names it.
    id
        Its id on the hub.
    is_dataset
        Whether it holds a data set; else a model.
    """

    field: str
    id: str
    is_dataset: bool = False

    @property
    def kind(self) -> str:
        """The hub's word for what it holds."""
        return "dataset" if self.is_dataset else "model"

    @property
    def reason(self) -> Reason:
        """The reason when it cannot be had."""
        return Reason.DATASET_UNAVAILABLE if self.is_dataset else Reason.MODEL_UNAVAILABLE

    def describe(self, revision: str) -> str:
        """Return its name for messages."""
        name = f"dataset.hub '{self.id}'" if self.is_dataset else f"checkpoint '{self.id}'"
        return f"{name} at revision '{revision}'"


def is_commit(value: str) -> bool:
    """Return whether a revision is a full commit hash."""
    return _COMMIT.fullmatch(value) is not None


def resolve_revision(repository: Repository, revision: str) -> str:
    """Return the commit that a branch or a tag is at, the same in all attempts of a task, and report it.

    The hub is asked once; where it does not answer, the commit that it last gave is taken from the cache.

    Raises
    ------
    UserError
        When the repository or the revision does not exist, or access is refused.
    Fault
        When the hub does not answer, and the cache knows no commit.
    """
    observer = get_observer()
    commit = revision if is_commit(revision) else observer.find_commit(repository.field, repository.id)
    if commit is None:
        with translate_hub_errors(repository, revision):
            commit = _ask_hub(repository, revision)
    observer.report_source(Source(field=repository.field, address=repository.id, commit=commit))
    return commit


def _ask_hub(repository: Repository, revision: str) -> str:
    try:
        return _resolve(repository, revision, is_cached=is_offline_mode())
    except (HubSilentError, httpx2.TransportError) as silence:
        try:
            commit = _resolve(repository, revision, is_cached=True)
        except RevisionResolutionError:
            raise silence from None
    where = repository.describe(revision)
    get_observer().add_warning(f"the hub did not answer for {where}: commit {commit} of the cache was taken")
    return commit


def _resolve(repository: Repository, revision: str, *, is_cached: bool) -> str:
    resolved = HfApi().resolve_revision(
        repository.id, repo_type=repository.kind, revision=revision, local_files_only=is_cached
    )
    commit = str(resolved.resolved)
    if not is_commit(commit):  # it becomes a part of paths and addresses
        raise Fault(
            Reason.HUB_UNAVAILABLE,
            f"the hub gave no commit for {repository.describe(revision)}: look at HF_ENDPOINT",
        )
    return commit


def download_checkpoint(repository: Repository, revision: str) -> Path:
    """Return the folder with the files of a checkpoint, from the cache where the hub does not answer.

    Raises
    ------
    UserError
        When the repository or the revision does not exist, or access is refused.
    Fault
        When the hub does not answer, and the cache does not hold them.
    """
    commit = resolve_revision(repository, revision)
    with translate_hub_errors(repository, revision):
        try:
            return _download(repository, commit, is_cached=is_offline_mode())
        except HubSilentError as silence:
            try:
                return _download(repository, commit, is_cached=True)
            except LocalEntryNotFoundError:
                raise silence from None


def _download(repository: Repository, commit: str, *, is_cached: bool) -> Path:
    patterns = list(CHECKPOINT_FILES)
    return Path(snapshot_download(repository.id, revision=commit, allow_patterns=patterns, local_files_only=is_cached))


@contextmanager
def translate_hub_errors(repository: Repository, revision: str) -> Iterator[None]:
    """Turn the errors of huggingface_hub into a UserError or a Fault."""
    where = repository.describe(revision)
    try:
        yield
    except GatedRepoError as error:
        raise UserError(
            repository.reason, f"{where} is gated: ask for access on the hub and pass HF_TOKEN through spec.env"
        ) from error
    except RepositoryNotFoundError as error:
        raise UserError(
            repository.reason, f"{where} does not exist on the hub, or is private and HF_TOKEN is missing"
        ) from error
    except RevisionNotFoundError as error:
        raise UserError(repository.reason, f"{where}: the hub knows no such revision") from error
    except (OfflineModeIsEnabled, HubSilentError, httpx2.TransportError, XetDownloadError) as error:
        raise _describe_outage(repository, where, error) from error
    except (RevisionResolutionError, LocalEntryNotFoundError, HfHubHTTPError) as error:
        # The hub was tried before the cache.
        answer = error if isinstance(error, HfHubHTTPError) else error.__cause__
        if isinstance(answer, HfHubHTTPError) and answer.response.status_code in (401, 403):
            raise UserError(
                repository.reason, f"{where}: the hub refuses access, check the HF_TOKEN in spec.env"
            ) from error
        raise _describe_outage(repository, where, answer or error) from error


def _describe_outage(repository: Repository, where: str, error: BaseException) -> Fault:
    section = repository.field.partition(".")[0]
    remedy = f"a {'data set' if repository.is_dataset else 'checkpoint'} in {section}.volumeClaim needs no hub"
    if is_offline_mode():
        cause = f"{where} is not in the cache, and HF_HUB_OFFLINE forbids to ask the hub"
    elif isinstance(error, HubSilentError):
        cause = f"the hub could not be reached for {where} ({error})"
    else:
        status = f", HTTP {error.response.status_code}" if isinstance(error, HfHubHTTPError) else ""
        cause = f"the hub could not be reached for {where} ({type(error).__name__}{status})"
    return Fault(Reason.HUB_UNAVAILABLE, f"{cause}; {remedy}")
