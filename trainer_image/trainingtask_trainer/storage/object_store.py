"""The objects under a uri of an object store: list, read, download, upload, delete."""

import os
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, CancelledError, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from operator import attrgetter
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import TYPE_CHECKING, Final, TypeVar

import obstore
from obstore.exceptions import BaseError
from obstore.store import from_url

from trainingtask_trainer.errors import Fault, UserError, join_names
from trainingtask_trainer.storage.scratch import check_free_space, is_file_name
from trainingtask_trainer.storage.store_errors import (
    METADATA_HOSTS,
    SOURCE_REASONS,
    Location,
    StoreReasons,
    translate_errors,
)

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ClientConfig, RetryConfig

T = TypeVar("T")

# A server that is away for a minute is survived: the last retry starts up to 3 minutes after the first request, with
# pauses of 0.2 to 10 s. A signed request is valid for 5 minutes at least.
RETRY: "Final[RetryConfig]" = {
    "max_retries": 1000,  # the time is the limit
    "retry_timeout": timedelta(minutes=3),
    "backoff": {"init_backoff": timedelta(milliseconds=200), "max_backoff": timedelta(seconds=10), "base": 2},
}
# A large object may take hours on a slow link, a silent server may not.
TIMEOUTS: "Final[ClientConfig]" = {"connect_timeout": "10s", "read_timeout": "60s", "timeout": "7d"}

_PARALLEL_REQUESTS = 8
_DOWNLOAD_CHUNK = 2**20
_UPLOAD_CHUNK = 16 * 2**20  # of at most 10,000: files of up to 156 GiB
_PARALLEL_CHUNKS = 4
_MAX_OBJECTS = 100_000
_POLL_SECONDS = 0.25
_METADATA_SECONDS = 10.0  # GKE's metadata server answers a new pod after some seconds
_GOOGLE_DEFAULT_FILE = ".config/gcloud/application_default_credentials.json"  # of a laptop, in the home folder

_ENDPOINT_VARIABLES = {
    "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
    "gs": ("GOOGLE_BASE_URL",),
    "az": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
}
# Any of these names an identity, or says that none is needed; without one, that of the machine is taken.
_IDENTITY_VARIABLES = {
    "s3": (
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "AWS_METADATA_ENDPOINT",
        "AWS_SKIP_SIGNATURE",
    ),
    "gs": (
        "GOOGLE_SERVICE_ACCOUNT",
        "GOOGLE_SERVICE_ACCOUNT_PATH",
        "GOOGLE_SERVICE_ACCOUNT_KEY",
        "GOOGLE_APPLICATION_CREDENTIALS",
        "GOOGLE_BEARER_TOKEN",
        "GOOGLE_SKIP_SIGNATURE",
    ),
    "az": (
        "AZURE_STORAGE_ACCOUNT_KEY",
        "AZURE_STORAGE_ACCESS_KEY",
        "AZURE_STORAGE_SAS_KEY",
        "AZURE_STORAGE_SAS_TOKEN",
        "AZURE_STORAGE_TOKEN",
        "AZURE_STORAGE_CLIENT_SECRET",
        "AZURE_CLIENT_SECRET",
        "AZURE_FEDERATED_TOKEN_FILE",
        "AZURE_MSI_ENDPOINT",
        "AZURE_IDENTITY_ENDPOINT",
        "AZURE_SKIP_SIGNATURE",
        "AZURE_STORAGE_USE_EMULATOR",
    ),
}


@dataclass(frozen=True)
class StoredObject:
    """An object, and the state of it that a listing saw."""

    name: str
    """Relative to the uri of its store; the last part of the uri if that names the object itself."""
    size: int
    etag: str | None
    version: str | None
    path: str
    """In the bucket."""


# `list` is a method below.
Objects = list[StoredObject]
Files = list[tuple[StoredObject, Path]]


def ignore(*_: object) -> None:
    """Do nothing."""


class ObjectStore:
    """The objects under one uri: ``s3://``, ``gs://`` or ``az://``.

    Credentials and endpoint come from the environment variables that each store's own tools read.

    Parameters
    ----------
    uri
        An object, a prefix of several, or a bucket.
    field
        The field of the spec that has the uri, for messages.
    reasons
        Reasons of errors.
    check
        Is called several times a second while a request lasts; an exception that it raises ends the request.

    Raises
    ------
    UserError
        From each method: the bucket or an object does not exist, or access is refused.
    Fault
        From each method: the store cannot be reached, or fails, for as long as `RETRY` has it.
    """

    def __init__(
        self,
        uri: str,
        field: str,
        reasons: StoreReasons = SOURCE_REASONS,
        check: Callable[[], None] = ignore,
    ) -> None:
        self._location = Location(field, uri, reasons)
        self._check = check
        self.key = uri.partition("://")[2].partition("/")[2].rstrip("/")
        _check_identity(self._location, check)
        options: ClientConfig = {**TIMEOUTS, "allow_http": _is_http_wanted(self._location.scheme)}
        try:
            self._store = from_url(
                f"{self._location.scheme}://{self._location.bucket}", client_options=options, retry_config=RETRY
            )
        except (BaseError, ValueError) as error:  # its text may hold a part of a secret
            raise self._location.deny("the credentials cannot be used as they are") from error

    def find(self) -> Objects:
        """Return the object that the uri names, else all under it; raise UserError when there is none."""
        exact = [] if not self.key or self._location.uri.endswith("/") else self._run(self._head)
        if exact and exact[0].size:
            return exact
        if found := self.list() or exact:  # a folder may be an empty object, too
            return found
        raise UserError(
            self._location.reasons.not_found,
            f"{self._location}: there is no object of that name, and none under it; {self._run(self._describe_parent)}",
        )

    def list(self, prefix: str = "") -> Objects:
        """Return the objects under the uri, or under a folder of it, in the order of their names."""
        return self._run(lambda: self._list(self._join(prefix)))

    def read(self, name: str, max_bytes: int) -> bytes:
        """Return the content of an object, which may have at most `max_bytes`."""
        return self._run(lambda: self._read(name, max_bytes))

    def download(
        self, objects: Sequence[StoredObject], folder: Path, on_bytes: Callable[[int], None] = ignore
    ) -> Objects:
        """Write objects to files of their names in a folder, and return them as they were read.

        `on_bytes` is called with the number of bytes that were written since the last call.

        Raises
        ------
        UserError
            When a name is not one of a file in the folder.
        Fault
            When an object was changed since it was listed, or there is not enough space.
        """
        files = self._choose_files(objects, folder)
        check_free_space(folder, sum(entry.size for entry in objects), str(self._location))
        for _, file in files:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        written = _Counter()
        calls = [partial(self._download, entry, file, written) for entry, file in files]
        return [*self._run_all(calls, lambda: on_bytes(written.take()), written.stop)]

    def upload(self, file: Path, name: str) -> None:
        """Write a file, in parts that are retried; an object of the same name is replaced when all are there."""
        file.stat()  # its absence is not reported as that of an object
        self._run(lambda: self._put(name, file))

    def write(self, name: str, content: bytes) -> None:
        """Write a small object, or replace it."""
        self._run(lambda: self._put(name, content))

    def delete(self, names: Sequence[str]) -> None:
        """Delete objects; one that does not exist is no error."""
        self._run_all([partial(self._delete, name) for name in names])

    def _join(self, name: str) -> str:
        return "/".join(part for part in (self.key, name.rstrip("/")) if part)

    def _run(self, call: Callable[[], T]) -> T:
        return self._run_all([call])[0]

    def _run_all(
        self,
        calls: "Sequence[Callable[[], T]]",
        on_poll: Callable[[], None] = ignore,
        stop: Callable[[], None] = ignore,
    ) -> "Sequence[T]":
        """Return the results of calls, several at a time; end with the first error, or when `check` raises.

        The calls run in threads, because the library retries for minutes without looking at signals. Its functions for
        asyncio would do, but abort one in five processes that end soon after (0.12).
        """
        pool = ThreadPoolExecutor(_PARALLEL_REQUESTS)
        try:
            futures = [pool.submit(call) for call in calls]
            pending = set(futures)
            while pending:
                done, pending = wait(pending, _POLL_SECONDS, FIRST_EXCEPTION)
                self._check()
                on_poll()
                for future in done:
                    future.result()
            return [future.result() for future in futures]
        finally:
            stop()
            pool.shutdown(wait=False, cancel_futures=True)

    def _head(self) -> Objects:
        name = PurePosixPath(self.key).name
        with translate_errors(self._location, name), suppress(FileNotFoundError):
            return [_to_object(obstore.head(self._store, self.key), name)]
        return []

    def _list(self, prefix: str) -> Objects:
        objects: Objects = []
        cut = len(self.key) + 1 if self.key else 0
        with translate_errors(self._location):
            for page in obstore.list(self._store, f"{prefix}/" if prefix else None, chunk_size=1000):
                objects += [_to_object(meta, meta["path"][cut:]) for meta in page if meta["path"] != self.key]
                if len(objects) > _MAX_OBJECTS:
                    raise UserError(
                        self._location.reasons.not_found,
                        f"{self._location}: there are more than {_MAX_OBJECTS} objects under it: name a narrower prefix",
                    )
        return sorted(objects, key=attrgetter("name"))

    def _describe_parent(self) -> str:
        parent = str(PurePosixPath(self.key).parent) if "/" in self.key else ""
        with translate_errors(self._location):
            found = obstore.list_with_delimiter(self._store, f"{parent}/" if parent else None)
        names = [f"{PurePosixPath(path).name}/" for path in found["common_prefixes"]]
        names += [PurePosixPath(meta["path"]).name for meta in found["objects"]]
        where = f"{self._location.bucket}/{parent}".rstrip("/")
        return f"'{where}' holds {join_names(sorted(names), 10) or 'nothing'}"

    def _read(self, name: str, max_bytes: int) -> bytes:
        with translate_errors(self._location, name):
            result = obstore.get(self._store, self._join(name))
            if result.meta["size"] <= max_bytes:
                return bytes(result.bytes())
        raise UserError(
            self._location.reasons.not_found, f"{self._location}: '{name}' has more than the {max_bytes} bytes expected"
        )

    def _choose_files(self, objects: Sequence[StoredObject], folder: Path) -> Files:
        """Return the file of each object; an empty object that stands for a folder has none."""
        parents = {str(parent) for entry in objects for parent in PurePosixPath(entry.name).parents}
        for entry in objects:
            if not is_file_name(entry.name) or (entry.name in parents and entry.size):
                raise UserError(
                    self._location.reasons.not_found,
                    f"{self._location}: '{entry.name}' cannot be the name of a file beside the others: remove that object",
                )
        return [(entry, folder / entry.name) for entry in objects if entry.name not in parents]

    def _download(self, entry: StoredObject, file: Path, counter: "_Counter") -> StoredObject:
        if not entry.size:  # a store may list a folder as an empty object that cannot be read
            return entry
        written = 0
        with translate_errors(self._location, entry.name):
            result = obstore.get(self._store, entry.path, options={"if_match": entry.etag})
            with file.open("r+b") as target:  # which is not there any more after an interrupt
                for chunk in result.stream(_DOWNLOAD_CHUNK):
                    written += target.write(chunk)
                    counter.add(len(chunk))
        if written != entry.size:
            raise Fault(
                self._location.reasons.unavailable,
                f"{self._location}: '{entry.name}' has {written} bytes, but was listed with {entry.size}: it was changed "
                "while it was read",
            )
        return replace(entry, version=result.meta["version"] or entry.version)

    def _put(self, name: str, content: Path | bytes) -> None:
        with translate_errors(self._location, name):
            obstore.put(
                self._store, self._join(name), content, chunk_size=_UPLOAD_CHUNK, max_concurrency=_PARALLEL_CHUNKS
            )

    def _delete(self, name: str) -> None:
        with translate_errors(self._location, name), suppress(FileNotFoundError):
            obstore.delete(self._store, self._join(name))


class _Counter:
    """The bytes that several threads have written."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._count = 0
        self._is_stopped = False

    def add(self, count: int) -> None:
        """Count bytes; raise `CancelledError` once nobody waits for them."""
        with self._lock:
            self._count += count
        if self._is_stopped:
            raise CancelledError

    def take(self) -> int:
        """Return the bytes since the last call."""
        with self._lock:
            count, self._count = self._count, 0
        return count

    def stop(self) -> None:
        """End the threads with their next bytes."""
        self._is_stopped = True


def _to_object(meta: "ObjectMeta", name: str) -> StoredObject:
    etag = meta["e_tag"]
    if etag and not etag.endswith('"'):  # Azure's listing has none, its headers and If-Match do
        etag = f'"{etag}"'
    return StoredObject(name, meta["size"], etag, meta["version"], meta["path"])


def _is_http_wanted(scheme: str) -> bool:
    """Return whether the endpoint's variable says ``http:``."""
    endpoints = (os.environ.get(name, "") for name in _ENDPOINT_VARIABLES[scheme])
    is_emulated = scheme == "az" and "AZURE_STORAGE_USE_EMULATOR" in os.environ
    return is_emulated or any(endpoint.startswith("http://") for endpoint in endpoints)


def _check_identity(location: Location, check: Callable[[], None]) -> None:
    """Refuse a store without credentials, where no metadata service gives the pod any; requests to it would be retried."""
    if any(os.environ.get(name) for name in _IDENTITY_VARIABLES[location.scheme]):
        return
    if location.scheme == "gs" and (Path.home() / _GOOGLE_DEFAULT_FILE).is_file():
        return
    end = time.monotonic() + _METADATA_SECONDS
    while True:
        try:
            socket.create_connection((METADATA_HOSTS[location.scheme], 80), timeout=5).close()
        except OSError as error:
            if time.monotonic() >= end:
                raise location.deny("no credentials were found") from error
        else:
            return
        check()
        time.sleep(_POLL_SECONDS)
