"""Files as a tar stream, whose last member has their digests: a stream that was cut off is never taken for a whole one.

Both ends run this module. The helper pod has nothing but its source, which may import the standard library alone.
"""

import errno
import hashlib
import json
import os
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Mapping
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

_BLOCK_BYTES = 1 << 20
_DIGESTS_NAME = ".digests.json"
_MAX_DIGESTS_BYTES = 64 << 20


class ArchiveError(Exception):
    """The stream is no whole archive; the message says what is wrong with it."""


class _DigestingReader:
    """Reads a file, digests what it has read, and reports how many bytes that were."""

    def __init__(self, file: BinaryIO, on_bytes: Callable[[int], None]) -> None:
        self._file, self._on_bytes, self.digest = file, on_bytes, hashlib.sha256()

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self.digest.update(data)
        self._on_bytes(len(data))
        return data


def find_files(paths: Iterable[Path]) -> dict[str, Path]:
    """Return files, and those of folders at any depth, by their names in an archive.

    Raises
    ------
    OSError
        When a path does not exist, a folder cannot be listed, or has a link to another folder in it.
    """
    found: dict[str, Path] = {}
    for path in paths:
        if not path.is_dir():
            path.stat()
            found[path.name] = path
            continue
        for folder, folders, files in os.walk(path, onerror=_raise):
            if links := [name for name in folders if (Path(folder) / name).is_symlink()]:
                raise OSError(
                    errno.ELOOP, "is a link to a folder, which is not followed: remove it", str(Path(folder) / links[0])
                )
            found |= {(Path(folder) / name).relative_to(path.parent).as_posix(): Path(folder) / name for name in files}
    return dict(sorted(found.items()))


def _raise(error: OSError) -> None:
    raise error


def write_archive(
    files: Mapping[str, Path], stream: BinaryIO, on_bytes: Callable[[int], None] = lambda count: None
) -> None:
    """Write files under their names, then their digests.

    Raises
    ------
    OSError
        When a file cannot be read or becomes shorter meanwhile, or the stream is closed.
    """
    digests: dict[str, str] = {}
    with tarfile.open(fileobj=stream, mode="w|", bufsize=_BLOCK_BYTES) as archive:
        for name, path in files.items():
            with path.open("rb") as file:
                member = tarfile.TarInfo(name)
                member.size = os.fstat(file.fileno()).st_size
                reader = _DigestingReader(file, on_bytes)
                archive.addfile(member, reader)  # type: ignore[arg-type]  # it reads alone
            digests[name] = reader.digest.hexdigest()
        content = json.dumps(digests).encode()
        member = tarfile.TarInfo(_DIGESTS_NAME)
        member.size = len(content)
        archive.addfile(member, BytesIO(content))


def read_archive(stream: BinaryIO, folder: Path, on_bytes: Callable[[int], None] = lambda count: None) -> list[str]:
    """Write the files of an archive into an empty folder; return their names.

    Raises
    ------
    ArchiveError
        When the archive is cut off or altered, or a name in it leads out of the folder.
    OSError
        When a file cannot be written.
    """
    digests: dict[str, str] = {}
    expected: object = None
    try:
        with tarfile.open(fileobj=stream, mode="r|", bufsize=_BLOCK_BYTES) as archive:
            for untrusted in archive:
                member = tarfile.data_filter(untrusted, str(folder))
                content = archive.extractfile(member) if member.isreg() else None
                # Of a sparse file the holes would fill the disk from no bytes.
                if content is None or untrusted.issparse() or expected is not None:
                    raise ArchiveError(f"{member.name!r} is not expected in it")
                if member.name == _DIGESTS_NAME:
                    expected = json.loads(content.read(_MAX_DIGESTS_BYTES))
                    continue
                path = folder / member.name
                path.parent.mkdir(parents=True, exist_ok=True)
                reader = _DigestingReader(content, on_bytes)  # type: ignore[arg-type]  # a reader of bytes
                with path.open("xb") as file:
                    while block := reader.read(_BLOCK_BYTES):
                        file.write(block)
                digests[member.name] = reader.digest.hexdigest()
    except (tarfile.TarError, ValueError, RecursionError) as error:
        raise ArchiveError(str(error)) from error
    while stream.read(_BLOCK_BYTES):  # the padding: its sender fails if it is not read
        pass
    if digests != expected:
        raise ArchiveError("it is not whole, or not what was sent")
    return list(digests)


def receive_files(stream: BinaryIO, folder: Path) -> None:
    """Write the files of an archive into a folder, where each replaces an earlier one, after all have arrived.

    Raises
    ------
    ArchiveError
        As `read_archive`; the folder is left as it was.
    OSError
        When a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".partial-") as partial:
        for name in read_archive(stream, Path(partial)):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (Path(partial) / name).replace(folder / name)


def send_folder(folder: Path, stream: BinaryIO) -> None:
    """Write an archive of a folder's content, which may be untrusted.

    Raises
    ------
    OSError
        When the folder does not exist or a file cannot be read, or there is a link out of it, a pipe or a device.
    """
    entries = sorted(folder.iterdir())
    _check_sent(entries, folder)
    files = find_files(entries)
    _check_sent(files.values(), folder)
    write_archive(files, stream)


def _check_sent(paths: Iterable[Path], folder: Path) -> None:
    """Refuse links out of a folder, and what is neither file nor folder: a read of it may never end."""
    root = folder.resolve()
    for path in paths:
        if not path.is_file() and not path.is_dir():
            raise OSError(errno.EINVAL, "is neither a file nor a folder: remove it", str(path))
        if not path.resolve().is_relative_to(root):
            raise OSError(errno.EXDEV, "is a link out of the folder, which is not followed: remove it", str(path))


def main(action: str, folder: str) -> int:
    """Receive files from standard input, or send a folder to standard output, in a helper pod."""
    try:
        if action == "receive":
            receive_files(sys.stdin.buffer, Path(folder))
        else:
            send_folder(Path(folder), sys.stdout.buffer)
    except (ArchiveError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
