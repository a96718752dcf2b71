"""Arrays that follow from data alone (token ids, embeddings), kept on the output claim for the next run."""

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

MAX_CACHE_BYTES = 1 << 30
"""Most bytes in a cache folder; the entries that were not used for longest go first."""
_SUFFIX = ".npz"
_DIGEST_BYTES = hashlib.sha256().digest_size

Arrays = dict[str, NDArray[Any]]

logger = logging.getLogger(__name__)


def load_or_compute(folder: Path, key: str, compute: Callable[[], Arrays]) -> Arrays:
    """Return what `compute` returns, from an earlier run where there was one.

    A cache may fail: an entry that is damaged is computed anew and a folder that cannot be written is gone without,
    both with a warning.

    Parameters
    ----------
    folder
        The cache; need not exist.
    key
        Names everything that the arrays depend on: see `digest`.
    compute
        Its arrays must hold no Python objects.
    """
    path = folder / (key + _SUFFIX)
    arrays = _read(path)
    if arrays is None:
        arrays = compute()
        try:
            _write(path, arrays)
        except OSError as error:
            logger.warning("Nothing is cached in %s: %s", folder, error)
    return arrays


def compute_key(settings: Iterable[object], texts: Iterable[str], files: Iterable[Path]) -> str:
    """Return the SHA-256 of settings, texts and the names and contents of files, in hexadecimal."""
    total = hashlib.sha256()
    for group in (map(repr, settings), texts):
        for text in group:
            part = text.encode("utf-8", "surrogatepass")
            total.update(b"%d:" % len(part) + part)  # the length keeps "ab", "c" apart from "a", "bc"
        total.update(b";")
    for path in sorted(files):
        with path.open("rb") as file:
            total.update(path.name.encode() + b"=" + hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def _read(path: Path) -> Arrays | None:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_CACHE_BYTES:  # a pipe would be waited for
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
        os.utime(path)  # used just now
    except OSError as error:
        logger.debug("The cache entry %s will look unused: %s", path, error)  # a claim mounted read-only
    try:
        with np.load(io.BytesIO(payload), allow_pickle=False) as entry:
            return dict(entry)
    # Written by something else, its digest is no secret: zip, zlib, tokenize and numpy each raise errors of their own.
    except Exception as error:  # noqa: BLE001
        logger.warning("The cache entry %s is not used: %s", path, error)
        return None


def _write(path: Path, arrays: Arrays) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type] # its other keyword, allow_pickle, is no array's name
    payload = buffer.getbuffer()
    if _DIGEST_BYTES + len(payload) > MAX_CACHE_BYTES:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.stem, suffix=".tmp", delete=False) as file:
        try:
            file.write(hashlib.sha256(payload).digest())
            file.write(payload)
            file.close()
            os.replace(file.name, path)  # other runs see all of it or nothing
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
    _remove_oldest(path.parent)


def _remove_oldest(folder: Path) -> None:
    found = []
    for entry in folder.iterdir():
        try:
            found.append((entry.stat(), entry))
        except FileNotFoundError:
            continue  # another run removed it
    total = sum(status.st_size for status, _ in found)
    for status, entry in sorted(found, key=lambda pair: pair[0].st_mtime_ns):
        if total <= MAX_CACHE_BYTES:
            return
        entry.unlink(missing_ok=True)
        total -= status.st_size
