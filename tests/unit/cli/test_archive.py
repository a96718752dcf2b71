"""Files as a tar stream: what arrives whole, and what is refused."""

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from trainingtask_cli import archive
from trainingtask_cli.archive import ArchiveError, find_files, read_archive, receive_files, send_folder, write_archive

Member = tuple[tarfile.TarInfo, bytes]


def pack(*paths: Path) -> bytes:
    stream = io.BytesIO()
    write_archive(find_files(paths), stream)
    return stream.getvalue()


def unpack(data: bytes, folder: Path) -> list[str]:
    return read_archive(io.BytesIO(data), folder)


def forge(*members: Member, digests: dict[str, str] | None = None) -> bytes:
    """Return an archive of members, with their digests unless others are given."""
    stream = io.BytesIO()
    found = {member.name: hashlib.sha256(content).hexdigest() for member, content in members}
    content = json.dumps(found if digests is None else digests).encode()
    with tarfile.open(fileobj=stream, mode="w|") as tar:
        for member, data in (*members, (tarfile.TarInfo(".digests.json"), content)):
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return stream.getvalue()


def build_member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def test_a_file_with_holes_is_refused(target: Path) -> None:
    """1.5 KB of an archive would fill the disk."""
    member = tarfile.TarInfo("big")
    member.pax_headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.realsize": str(2**40),
        "GNU.sparse.name": "big",
    }
    with pytest.raises(ArchiveError, match="'big' is not expected in it"):
        unpack(forge((member, b"0\n".ljust(512, b"\0"))), target)
    assert not any(target.iterdir())


def test_nested_digests_are_refused(target: Path) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w|") as tar:
        member = tarfile.TarInfo(".digests.json")
        member.size = 200_000
        tar.addfile(member, io.BytesIO(b"[" * member.size))
    with pytest.raises(ArchiveError):
        unpack(stream.getvalue(), target)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with files at two depths, one of them larger than a block."""
    folder = tmp_path / "data"
    (folder / "parts").mkdir(parents=True)
    (folder / "train.csv").write_text("text,labels\nä,b\n")
    (folder / "parts" / "large.bin").write_bytes(bytes(range(256)) * 10_000)
    (folder / "empty").touch()
    return folder


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "target"
    folder.mkdir()
    return folder


def test_files_and_folders_arrive_unchanged(data: Path, target: Path, tmp_path: Path) -> None:
    single = tmp_path / "one file.csv"
    single.write_text("x")
    counts: list[int] = []
    stream = io.BytesIO()
    write_archive(find_files([data, single]), stream, counts.append)
    names = unpack(stream.getvalue(), target)
    assert names == ["data/empty", "data/parts/large.bin", "data/train.csv", "one file.csv"]
    assert (target / "data" / "parts" / "large.bin").read_bytes() == (data / "parts" / "large.bin").read_bytes()
    assert (target / "data" / "train.csv").read_text() == "text,labels\nä,b\n"
    assert (target / "data" / "empty").stat().st_size == 0
    assert sum(counts) == sum(path.stat().st_size for path in [*data.rglob("*.*"), single])


def test_a_linked_folder_is_refused_and_not_left_out(data: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (data / "parts" / "linked").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match=r"is a link to a folder, .*'.*/data/parts/linked'"):
        find_files([data])


def test_a_linked_file_is_sent_with_its_content(data: Path, target: Path, tmp_path: Path) -> None:
    (data / "linked.csv").symlink_to(data / "train.csv")
    unpack(pack(data), target)
    assert not (target / "data" / "linked.csv").is_symlink()
    assert (target / "data" / "linked.csv").read_text() == (data / "train.csv").read_text()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        find_files([tmp_path / "nowhere.csv"])


@pytest.mark.parametrize("kept", [0.0, 0.2, 0.5, 0.9, 0.995])
def test_a_stream_that_is_cut_off_is_refused(kept: float, data: Path, target: Path) -> None:
    whole = pack(data).rstrip(b"\0")
    with pytest.raises(ArchiveError):
        unpack(whole[: int(len(whole) * kept)], target)


def test_an_end_between_two_files_is_refused(data: Path, target: Path) -> None:
    first = build_member("a")
    digests = {"a": hashlib.sha256(b"1").hexdigest(), "b": hashlib.sha256(b"2").hexdigest()}
    with pytest.raises(ArchiveError, match="not whole"):
        unpack(forge((first, b"1"), digests=digests), target)


def test_an_altered_file_is_refused(data: Path, target: Path) -> None:
    sent = pack(data)
    with pytest.raises(ArchiveError, match="not what was sent"):
        unpack(sent.replace(b"text,labels", b"text;labels"), target)


@pytest.mark.parametrize(
    "member",
    [
        build_member("../outside"),
        build_member("a/../../outside"),
        build_member("link", tarfile.SYMTYPE, "/etc/passwd"),
        build_member("link", tarfile.SYMTYPE, "inside"),
        build_member("link", tarfile.LNKTYPE, "../outside"),
        build_member("pipe", tarfile.FIFOTYPE),
        build_member("device", tarfile.CHRTYPE),
        build_member("folder", tarfile.DIRTYPE),
    ],
    ids=lambda member: f"{member.name} {member.type.decode()} {member.linkname}",
)
def test_only_files_within_the_folder_are_written(member: tarfile.TarInfo, target: Path) -> None:
    with pytest.raises(ArchiveError):
        unpack(forge((member, b"")), target)
    assert list(target.iterdir()) == []
    assert [path.name for path in target.parent.iterdir()] == ["target"]


def test_a_file_that_comes_twice_is_refused(target: Path) -> None:
    with pytest.raises(FileExistsError):
        unpack(forge((build_member("a"), b"1"), (build_member("a"), b"2")), target)


def test_received_files_replace_earlier_ones_alone(data: Path, target: Path) -> None:
    (target / "data").mkdir()
    (target / "data" / "train.csv").write_text("earlier")
    (target / "data" / "other.csv").write_text("other")
    receive_files(io.BytesIO(pack(data)), target)
    assert (target / "data" / "train.csv").read_text().startswith("text")
    assert (target / "data" / "other.csv").read_text() == "other"
    assert [path.name for path in target.iterdir()] == ["data"]


def test_nothing_changes_when_not_all_arrived(data: Path, target: Path) -> None:
    (target / "data").mkdir()
    (target / "data" / "train.csv").write_text("earlier")
    with pytest.raises(ArchiveError):
        receive_files(io.BytesIO(pack(data)[:1_000_000]), target)
    assert [path.name for path in target.rglob("*")] == ["data", "train.csv"]
    assert (target / "data" / "train.csv").read_text() == "earlier"


def test_a_stream_is_read_to_its_end(data: Path, target: Path) -> None:
    stream = io.BytesIO(pack(data) + bytes(5_000_000))
    read_archive(stream, target)
    assert stream.read() == b""


def test_a_folder_is_sent_without_its_own_name(data: Path, target: Path) -> None:
    stream = io.BytesIO()
    send_folder(data, stream)
    assert unpack(stream.getvalue(), target) == ["empty", "parts/large.bin", "train.csv"]


@pytest.mark.parametrize("at", ["", "parts"])
@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("file", "is a link out of the folder, which is not followed: remove it"),
        ("folder", "is a link (out of the|to a) folder, which is not followed: remove it"),
        ("pipe", "is neither a file nor a folder: remove it"),
        ("itself", "is neither a file nor a folder: remove it"),
        ("nothing", "is neither a file nor a folder: remove it"),
    ],
)
def test_a_folder_is_sent_without_what_is_outside_of_it(
    data: Path, tmp_path: Path, at: str, kind: str, sentence: str
) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_text("secret")
    forged = data / at / "forged"
    match kind:
        case "file":
            forged.symlink_to(tmp_path / "outside" / "file")
        case "folder":
            forged.symlink_to(tmp_path / "outside")
        case "pipe":
            os.mkfifo(forged)
        case "itself":
            forged.symlink_to("forged")
        case _:
            forged.symlink_to("nowhere")
    stream = io.BytesIO()
    with pytest.raises(OSError, match=f"{sentence}: '{forged}'"):
        send_folder(data, stream)
    assert not stream.getvalue()


def test_the_module_runs_alone_at_both_ends(data: Path, target: Path) -> None:
    def run(action: str, folder: Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-I", "-S", archive.__file__, action, str(folder)]
        return subprocess.run(command, input=stdin, capture_output=True, check=False)

    sent = run("send", data)
    assert run("receive", target / "new" / "folder", sent.stdout).returncode == 0
    assert (target / "new" / "folder" / "parts" / "large.bin").is_file()
    missing = run("send", data / "nowhere")
    assert (missing.returncode, missing.stdout) == (1, b"")
    assert missing.stderr.decode().splitlines() == [f"[Errno 2] No such file or directory: '{data / 'nowhere'}'"]
    assert run("receive", target, sent.stdout[:1000]).returncode == 1
