"""The downloads of a run: what each uri of its task names, in a folder on the node that is removed at the end."""

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from trainingtask_api.formatting import remove_query
from trainingtask_api.status import MAX_SOURCE_OBJECTS, Source, SourceObject
from trainingtask_trainer.errors import TrainerError
from trainingtask_trainer.runtime.shared_folder import enter_first_in_pod, get_shared_folder
from trainingtask_trainer.storage.observer import get_observer
from trainingtask_trainer.storage.scratch import is_file_name

_REPORT_BYTES = 2**20
_MAX_TAG_LENGTH = 128


class Downloads:
    """What was downloaded, by the uri that names it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._fetched: dict[tuple[str, str], Path] = {}

    def fetch(self, uri: str, field: str, is_wanted: Callable[[str], bool] = lambda _: True) -> Path:
        """Return the file, or the folder of the files, that a uri names, downloaded first unless it has been.

        Parameters
        ----------
        uri
            An object or a prefix in an object store, or a file at ``https://``.
        field
            The field of the spec that has the uri, for messages and for the record.
        is_wanted
            Whether a file under a prefix is downloaded, by its name relative to the uri.

        Raises
        ------
        UserError
            When there is nothing under the uri, or access is refused.
        Fault
            When it cannot be reached for some minutes, or there is not enough space.
        """
        key = uri, field
        if key not in self._fetched:
            self._fetched[key] = self._fetch_once_in_pod(uri, field, is_wanted)
        return self._fetched[key]

    def _fetch_once_in_pod(self, uri: str, field: str, is_wanted: Callable[[str], bool]) -> Path:
        shared = get_shared_folder()
        link = None if shared is None else shared / f"{field}.download"
        with enter_first_in_pod(f"{field} {uri}") as is_first:
            if link is not None and not is_first:
                return Path(link.read_text(encoding="utf-8"))
            folder = Path(tempfile.mkdtemp(dir=self._folder))
            download = _download_file if uri.startswith("https:") else _download_objects
            path, objects = download(uri, field, folder, is_wanted)
            get_observer().report_source(describe_source(field, remove_query(uri), objects))
            if link is not None:
                link.write_text(str(path), encoding="utf-8")
        return path

    def name_addresses(self, text: str) -> str:
        """Return a message with addresses in the place of the paths that they were downloaded to."""
        for (uri, _), path in self._fetched.items():
            text = text.replace(str(path), remove_query(uri))
        return text


_current: ContextVar[Downloads] = ContextVar("downloads")


@contextmanager
def open_downloads() -> Iterator[Downloads]:
    """Yield the downloads of a run, which `get_downloads` returns while entered; name addresses in its errors."""
    with tempfile.TemporaryDirectory(prefix="trainingtask-", dir=get_shared_folder()) as folder:
        downloads = Downloads(Path(folder))
        token = _current.set(downloads)
        try:
            yield downloads
        except TrainerError as error:
            error.message = downloads.name_addresses(error.message)
            error.args = (error.message,)
            raise
        finally:
            _current.reset(token)


def get_downloads() -> Downloads:
    """Return the downloads of this run."""
    return _current.get()


def describe_source(field: str, address: str, objects: Sequence[SourceObject], *, commit: str | None = None) -> Source:
    """Return the record of a source, with a digest of the state of all its files."""
    states = [[entry.name, entry.size, entry.etag, entry.version] for entry in objects]
    return Source(
        field=field,
        address=address,
        commit=commit,
        size=sum(entry.size for entry in objects),
        object_count=len(objects),
        objects=list(objects[:MAX_SOURCE_OBJECTS]),
        digest=hashlib.sha256(json.dumps(states).encode()).hexdigest(),
    )


def _download_file(
    uri: str, field: str, folder: Path, is_wanted: Callable[[str], bool]
) -> tuple[Path, Sequence[SourceObject]]:
    from trainingtask_trainer.storage.web_server import download_file  # noqa: PLC0415 - unused without such a uri

    del is_wanted  # it names one file
    progress = _Progress()
    read = download_file(uri, field, folder, progress.report)
    return folder / read.name, [read]


def _download_objects(
    uri: str, field: str, folder: Path, is_wanted: Callable[[str], bool]
) -> tuple[Path, Sequence[SourceObject]]:
    from trainingtask_trainer.storage.object_store import ObjectStore  # noqa: PLC0415 - unused without such a uri

    observer = get_observer()
    store = ObjectStore(uri, field, check=observer.raise_if_interrupted)
    found = store.find()
    is_object = [entry.path for entry in found] == [store.key]
    wanted = found if is_object else [entry for entry in found if is_wanted(entry.name)]
    root = folder if is_object else _create_folder(folder, store.key)
    progress = _Progress(sum(entry.size for entry in wanted))
    read = store.download(wanted, root, progress.add)
    records = [
        SourceObject(name=entry.name, size=entry.size, etag=_cut(entry.etag), version=_cut(entry.version))
        for entry in read
    ]
    return root / found[0].name if is_object else root, records


def _create_folder(parent: Path, key: str) -> Path:
    """Return a new folder with the last part of a prefix as its name: a split's name may stand there."""
    name = key.rpartition("/")[2]
    folder = parent / (name if is_file_name(name) else "bucket")
    folder.mkdir()
    return folder


def _cut(tag: str | None) -> str | None:
    return tag[:_MAX_TAG_LENGTH] if tag else None


class _Progress:
    """The bytes of a source so far, reported for each MiB."""

    def __init__(self, total: int | None = None) -> None:
        self._observer = get_observer()
        self._total = total
        self._read = 0
        self._reported = 0

    def add(self, count: int) -> None:
        """Report `count` more bytes."""
        self.report(self._read + count, self._total)

    def report(self, read: int, total: int | None) -> None:
        """Report `read` bytes of `total`."""
        self._read = read
        if abs(read - self._reported) >= _REPORT_BYTES or read == total:
            self._reported = read
            self._observer.report_loading(read, total)
        else:
            self._observer.raise_if_interrupted()
