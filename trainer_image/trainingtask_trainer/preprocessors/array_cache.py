"""A cache on the output claim for arrays that are computed from data alone: token ids, embeddings."""

import hashlib
import io
import logging
import os
import stat
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainingtask_trainer.runtime.shared_folder import enter_first_in_pod

MAX_CACHE_BYTES = 1 << 30
"""Most bytes in a cache folder; the least recently used entries are removed first."""
_SUFFIX = ".npz"
_DIGEST_BYTES = hashlib.sha256().digest_size

Arrays = dict[str, NDArray[Any]]

logger = logging.getLogger(__name__)


def load_or_compute(folder: Path, key: str, names: Iterable[str], compute: Callable[[], Arrays]) -> Arrays:
    """Return what `compute` returns, from an earlier run where there was one.

    A damaged entry is computed anew, and a folder that cannot be written is not used, both with a warning.

    Parameters
    ----------
    folder
        The folder of the cache; it may not exist yet.
    key
        Names everything that the arrays depend on: see `digest`.
    names
        Names of the arrays; an entry without one of them, as another release may have written it, is computed anew.
    compute
        Returns arrays without Python objects.
    """
    with enter_first_in_pod(key):  # the pod's other processes read what the first has written
        arrays = load(folder, key, names)
        if arrays is None:
            arrays = compute()
            store(folder, key, arrays)
    return arrays


def load(folder: Path, key: str, names: Iterable[str]) -> Arrays | None:
    """Return the arrays of an entry, None where it is missing, damaged or without one of `names`."""
    arrays = _read(folder / (key + _SUFFIX))
    return arrays if arrays is not None and arrays.keys() >= set(names) else None


def store(folder: Path, key: str, arrays: Arrays) -> None:
    """Write an entry; warn where the folder cannot be written."""
    try:
        _write(folder / (key + _SUFFIX), arrays)
    except OSError as error:
        logger.warning("Nothing is cached in %s: %s", folder, error)


def compute_key(settings: Iterable[object], texts: Iterable[str], files: Iterable[Path]) -> str:
    """Return the SHA-256 of settings, texts and the names and contents of files, in hexadecimal."""
    total = hashlib.sha256()
    for group in (map(repr, settings), texts):
        for text in group:
            part = text.encode("utf-8", "surrogatepass")
            total.update(b"%d:" % len(part) + part)  # length-prefixed: "ab", "c" and "a", "bc" differ
        total.update(b";")
    for path in sorted(files):
        with path.open("rb") as file:
            total.update(path.name.encode() + b"=" + hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def _read(path: Path) -> Arrays | None:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_CACHE_BYTES:  # reading a pipe would block
            logger.warning("The cache entry %s is not used: it is no file of at most %d bytes", path, MAX_CACHE_BYTES)
            return None
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        logger.warning("The cache entry %s is not used: %s", path, error)
        return None
    payload = memoryview(content)[_DIGEST_BYTES:]
    if hashlib.sha256(payload).digest() != content[:_DIGEST_BYTES]:
        logger.warning("The cache entry %s is damaged and computed anew", path)
        return None
    try:
        os.utime(path)  # for `_remove_oldest`
    except OSError as error:
        logger.debug("The cache entry %s will look unused: %s", path, error)  # a claim mounted read-only
    try:
        with np.load(io.BytesIO(payload), allow_pickle=False) as entry:
            return dict(entry)
    # The digest is no signature: in a forged entry zip, zlib, tokenize and numpy raise any of their errors.
    except Exception as error:  # noqa: BLE001
        logger.warning("The cache entry %s is not used: %s", path, error)
        return None


def _write(path: Path, arrays: Arrays) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type] # no array is called like its other keyword, allow_pickle
    payload = buffer.getbuffer()
    if _DIGEST_BYTES + len(payload) > MAX_CACHE_BYTES:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.stem, suffix=".tmp", delete=False) as file:
        try:
            file.write(hashlib.sha256(payload).digest())
            file.write(payload)
            file.close()
            os.replace(file.name, path)  # atomic for other runs
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
    _remove_oldest(path.parent)


def _remove_oldest(folder: Path) -> None:
    found = []
    for entry in folder.iterdir():
        try:
            status = entry.stat()
        except FileNotFoundError:
            continue  # another run removed it
        if stat.S_ISREG(status.st_mode):
            found.append((status, entry))
    total = sum(status.st_size for status, _ in found)
    for status, entry in sorted(found, key=lambda pair: pair[0].st_mtime_ns):
        if total <= MAX_CACHE_BYTES:
            return
        entry.unlink(missing_ok=True)
        total -= status.st_size
