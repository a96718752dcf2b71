"""A branch of a model repository on the hub as a store of folders, which one commit replaces."""

import json
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from trainingtask_trainer.errors import Fault, UserError
from trainingtask_trainer.storage.folder_store import OUTPUT_REASONS
from trainingtask_trainer.storage.object_store import StoredObject
from trainingtask_trainer.storage.scratch import check_free_space, is_file_name
from trainingtask_trainer.storage.store_errors import StoreReasons

if TYPE_CHECKING:
    from huggingface_hub import HfApi

HUB_SCHEME: Final = "hf"
MAIN: Final = "main"
_REFUSALS = (401, 403, 404)
_INVALID = (400, 422)
_PROBE = ".trainingtask/probe"
_GIT_FILES = {".gitattributes"}  # the hub writes it, and without it large files would be text


class HubBranch:
    """The files of a branch; the token and the hub's address come from `HF_TOKEN` and `HF_ENDPOINT`.

    Raises
    ------
    UserError
        From each method: the hub refuses access.
    Fault
        From each method: the hub cannot be reached or fails.
    """

    def __init__(
        self, repository: str, branch: str = MAIN, field: str = "output.hub", reasons: StoreReasons = OUTPUT_REASONS
    ) -> None:
        self._repository = repository
        self._branch = branch
        self._reasons = reasons
        self._where = f"{field} '{repository}' at branch '{branch}'"

    def check(self) -> None:
        """Create the repository (private) and the branch where they are missing, and prove that it can be written."""
        with self._access("checked") as api:
            api.create_repo(self._repository, private=True, exist_ok=True)
            if self._branch == MAIN:
                return  # its history is for models; the branch of the checkpoints shows whether commits are allowed
            api.create_branch(self._repository, branch=self._branch, exist_ok=True)
        with tempfile.TemporaryDirectory() as scratch:
            probe = Path(scratch) / "probe"
            probe.write_bytes(b"")
            self._commit("Check that models can be stored", add={_PROBE: probe}, delete=[])
        self._commit("Remove the check", add={}, delete=[_PROBE])

    def list(self) -> list[StoredObject]:
        """Return all files at the branch's present commit, which is their version; none when there is no such branch."""
        from huggingface_hub.errors import RevisionNotFoundError  # noqa: PLC0415
        from huggingface_hub.hf_api import RepoFile  # noqa: PLC0415

        try:
            with self._access("listed") as api:
                commit = api.model_info(self._repository, revision=self._branch).sha
                tree = list(api.list_repo_tree(self._repository, recursive=True, revision=commit))
        except UserError as error:
            if isinstance(error.__cause__, RevisionNotFoundError):
                return []
            raise
        return [
            StoredObject(file.path, file.size, etag=file.blob_id, version=commit, path=file.path)
            for file in tree
            if isinstance(file, RepoFile) and file.path not in _GIT_FILES
        ]

    def read(self, name: str, max_bytes: int) -> bytes:
        """Return the content of a small file."""
        found = [entry for entry in self.list() if entry.name == name]
        if not found or found[0].size > max_bytes:
            what = f"has more than the {max_bytes} bytes expected" if found else "does not exist"
            raise UserError(self._reasons.not_found, f"{self._where}: '{name}' {what}")
        with tempfile.TemporaryDirectory() as scratch:
            self.download(found, Path(scratch))
            return (Path(scratch) / name).read_bytes()

    def download(self, objects: Sequence[StoredObject], folder: Path) -> None:
        """Download files into a folder under their names, of the commit that they were listed at: not of two models."""
        for entry in objects:
            if not is_file_name(entry.name):
                raise UserError(self._reasons.not_found, f"{self._where}: {entry.name!r} cannot be the name of a file")
        check_free_space(folder, sum(entry.size for entry in objects), self._where)
        with self._access("read") as api:
            for entry in objects:
                api.hf_hub_download(self._repository, entry.name, revision=entry.version, local_dir=folder)
        shutil.rmtree(folder / ".cache", ignore_errors=True)  # the client's own notes

    def replace(self, source: Path, manifest: str, name: str = "") -> None:
        """Replace a folder by one commit, so that the order of its files does not matter."""
        prefix = f"{name}/" if name else ""
        files = (path for path in source.rglob("*") if path.is_file())
        add = {prefix + file.relative_to(source).as_posix(): file for file in files}
        stale = [entry.name for entry in self.list() if entry.name.startswith(prefix) and entry.name not in add]
        self._commit(f"Store the {name or 'model'}", add, stale)

    def delete(self, manifest: str, name: str = "") -> None:
        """Delete a folder, or the whole branch."""
        if name:
            stale = [entry.name for entry in self.list() if entry.name.startswith(f"{name}/")]
            self._commit(f"Remove the {name}", {}, stale)
        else:
            with self._access("deleted") as api:
                api.delete_branch(self._repository, branch=self._branch)

    def _commit(self, message: str, add: dict[str, Path], delete: Sequence[str]) -> None:
        """Make one commit; the library's `upload_folder` may make several, with half a model between them."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete  # noqa: PLC0415

        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            CommitOperationDelete(name, is_folder=False) for name in delete
        ]
        operations += [CommitOperationAdd(name, str(file)) for name, file in add.items()]
        with self._access("written") as api, warnings.catch_warnings():
            # The library takes predictions.parquet for a data set that was meant for another kind of repository.
            warnings.filterwarnings("ignore", "It seems that you are about to commit a data file")
            api.create_commit(self._repository, operations, commit_message=message, revision=self._branch)

    @contextmanager
    def _access(self, verb: str) -> "Iterator[HfApi]":
        """Yield the hub's client, and translate its errors; their text may hold addresses with signatures."""
        import httpx2  # noqa: PLC0415
        from huggingface_hub import HfApi  # noqa: PLC0415
        from huggingface_hub.errors import HfHubHTTPError  # noqa: PLC0415

        import trainingtask_trainer.storage.hub  # noqa: F401, PLC0415 - installs the client that waits for a busy hub
        from trainingtask_trainer.storage.hub_client import HubSilentError  # noqa: PLC0415

        try:
            yield HfApi()
        # JSONDecodeError: an answer that is none of a hub's; RuntimeError: the library wraps the errors of its upload threads.
        except (httpx2.HTTPError, HubSilentError, ConnectionError, json.JSONDecodeError, RuntimeError) as error:
            cause = error.__cause__ if isinstance(error, RuntimeError) else error
            if not isinstance(cause, httpx2.HTTPError | HubSilentError | ConnectionError | json.JSONDecodeError):
                raise
            status = cause.response.status_code if isinstance(cause, HfHubHTTPError) else None
            if isinstance(cause, HfHubHTTPError) and status in _INVALID:
                answer = f"the hub refuses it as it is ({status}: {(cause.server_message or 'no reason given')[:300]})"
                raise UserError(self._reasons.denied, f"{self._where} cannot be {verb}: {answer}") from cause
            if status in _REFUSALS:
                raise UserError(
                    self._reasons.denied,
                    f"{self._where} cannot be {verb}: the hub answers {status}; pass a token that may do it as HF_TOKEN "
                    "through spec.env",
                ) from cause
            what = f"the hub answers {status}" if status else f"the hub gives no usable answer ({type(cause).__name__})"
            raise Fault(self._reasons.unavailable, f"{self._where} cannot be {verb}: {what}") from error
