import io
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from support.http_server import Answer, HttpServer, serve_http
from support.object_store import Bucket
from support.specs import CLASSICAL, TRANSFORMER, changed
from trainingtask_api.model import Model
from trainingtask_api.reasons import Reason
from trainingtask_api.status import Results, Source, TrainingReport
from trainingtask_api.task import TrainingTask
from trainingtask_trainer.errors import UserError
from trainingtask_trainer.pipeline import train
from trainingtask_trainer.pretrained.checkpoint import fetch_checkpoint
from trainingtask_trainer.reporting.reporter import Reporter
from trainingtask_trainer.runtime.shared_folder import ENV_SHARED_FOLDER
from trainingtask_trainer.storage.archives import unpack_checkpoint
from trainingtask_trainer.storage.downloads import open_downloads
from trainingtask_trainer.storage.observer import observe_downloads
from trainingtask_trainer.volumes import Volumes

ROWS = "text,labels\n" + "".join(f"a text about {topic} number {n},{topic}\n" for n in range(12) for topic in ("ham", "spam"))  # fmt: skip
TABLE = changed(CLASSICAL, dataset={"name": "table"})


class Reports:
    """Keeps every report."""

    def __init__(self) -> None:
        self.all: list[TrainingReport] = []

    def send(self, report: TrainingReport) -> None:
        self.all.append(report)

    def finish(self, report: TrainingReport, timeout: float | None) -> None:
        """Keep nothing more."""

    def wait(self) -> None:
        """Return at once."""


@pytest.fixture
def reports() -> Reports:
    return Reports()


@pytest.fixture
def run(volumes: Volumes, make_task: Callable[..., TrainingTask], reports: Reports) -> Callable[..., Results]:
    return lambda spec: train(make_task(spec), volumes, Reporter([reports]))


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[HttpServer]:
    """Return a web server in the place of every one: certificates have tests of their own."""
    with serve_http() as server:
        from trainingtask_trainer.storage import web_server

        download = web_server.download_file
        monkeypatch.setattr(
            web_server,
            "download_file",
            lambda url, *rest: download(url.replace("https://example.com", server.url), *rest),
        )
        yield server


def test_a_table_is_read_from_a_store(bucket: Bucket, run: Callable[..., Results], reports: Reports) -> None:
    bucket.put({"data/tickets.csv": ROWS.encode()})
    results = run(changed(TABLE, dataset__uri=f"{bucket.uri}/data/tickets.csv"))
    [source] = results.sources
    assert (source.field, source.address) == ("dataset.uri", "s3://a-bucket/data/tickets.csv")
    assert (source.size, source.object_count) == (len(ROWS), 1)
    assert [(entry.name, entry.size) for entry in source.objects] == [("tickets.csv", len(ROWS))]
    assert reports.all[-1].sources == results.sources
    assert (reports.all[-1].bytes_read, reports.all[-1].bytes_total, reports.all[-1].rows_read) == (
        len(ROWS),
        len(ROWS),
        24,
    )
    assert {f"{len(ROWS)} B of {len(ROWS)} B", "24 rows"} <= {report.progress for report in reports.all}


def test_the_same_rows_from_two_places_have_one_fingerprint(
    bucket: Bucket, run: Callable[..., Results], volumes: Volumes, web: HttpServer
) -> None:
    bucket.put({"parts/train/part-0.csv": ROWS.encode()})
    web.answer = lambda _: Answer(body=ROWS.encode())
    volumes.dataset.mkdir()
    (volumes.dataset / "rows.csv").write_text(ROWS)
    specs = [
        changed(TABLE, dataset__uri=f"{bucket.uri}/parts"),
        changed(TABLE, dataset__uri="https://example.com/rows.csv?token=s3cret"),
        changed(TABLE, dataset__volumeClaim="data", dataset__path="rows.csv"),
    ]
    results = [run(spec) for spec in specs]
    assert len({result.data_fingerprint for result in results}) == 1
    assert [len(result.sources) for result in results] == [1, 1, 0]
    assert results[0].sources[0].digest != results[1].sources[0].digest
    assert "s3cret" not in results[1].model_dump_json()
    assert results[1].arguments["dataset.uri"] == "https://example.com/rows.csv"


def test_messages_have_the_address_and_not_the_path(bucket: Bucket, run: Callable[..., Results]) -> None:
    bucket.put({"data/tickets.csv": b"text,labels\na text,ham\n,spam\n"})
    with pytest.raises(UserError, match=r"^s3://a-bucket/data/tickets.csv, row 3, column 'text': ") as raised:
        run(changed(TABLE, dataset__uri=f"{bucket.uri}/data/tickets.csv"))
    assert raised.value.message == str(raised.value)
    bucket.put({"set/train.csv": ROWS.encode(), "set/notes.md": b"x"})
    results = run(changed(TABLE, dataset__uri=f"{bucket.uri}/set"))
    assert any(text.startswith("files of s3://a-bucket/set that were not read: notes.md") for text in results.warnings)


def test_nothing_is_left_on_the_disk(
    bucket: Bucket, run: Callable[..., Results], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    bucket.put({"good.csv": ROWS.encode(), "bad.csv": b"nothing"})
    run(changed(TABLE, dataset__uri=f"{bucket.uri}/good.csv"))
    with pytest.raises(UserError):
        run(changed(TABLE, dataset__uri=f"{bucket.uri}/bad.csv"))
    assert list(scratch.iterdir()) == []


def test_many_objects_have_a_digest_and_the_first_of_them(bucket: Bucket) -> None:
    sources: list[Source] = []

    class Observer(Reporter):
        def report_source(self, source: Source) -> None:
            sources.append(source)

    bucket.put({f"data/{number:03}.csv": b"text" for number in range(40)})
    with observe_downloads(Observer([])):
        for _ in range(2):
            with open_downloads() as downloads:
                path = downloads.fetch(f"{bucket.uri}/data", "dataset.uri")
                assert downloads.fetch(f"{bucket.uri}/data", "dataset.uri") == path
            bucket.put({"data/039.csv": b"more"})
    first, second = sources
    assert (first.object_count, first.size, len(first.objects)) == (40, 160, 32)
    assert first.digest != second.digest


def make_zip(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in files.items():
            file.writestr(name, content)
    return buffer.getvalue()


def make_tar(files: dict[str, bytes], *more: tarfile.TarInfo) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as file:
        for member in more:
            file.addfile(member)
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def checkpoint(tiny_models: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (tiny_models / "bert").iterdir()}


FINE_TUNING: dict[str, Any] = changed(
    TRANSFORMER,
    dataset={"name": "support_tickets", "sampleSize": 60},
    training={"epochs": 1},
    preprocessor={"maxLength": 16},
)


def test_a_checkpoint_is_read_from_a_prefix(
    bucket: Bucket, checkpoint: dict[str, bytes], run: Callable[..., Results]
) -> None:
    bucket.put({f"models/tiny/{name}": content for name, content in checkpoint.items()})
    bucket.put({"models/tiny/optimizer.pt": b"code", "models/tiny/checkpoint-1/config.json": b"{}"})
    results = run(changed(FINE_TUNING, model__uri=f"{bucket.uri}/models/tiny"))
    [source] = results.sources
    assert (source.field, source.address) == ("model.uri", "s3://a-bucket/models/tiny")
    assert not {"optimizer.pt", "checkpoint-1/config.json"} & {entry.name for entry in source.objects}
    assert results.arguments["model.checkpoint"] == "s3://a-bucket/models/tiny"


@pytest.mark.parametrize("name", ["tiny.zip", "tiny.tar.gz"])
def test_a_checkpoint_is_read_from_an_archive(
    name: str, web: HttpServer, checkpoint: dict[str, bytes], run: Callable[..., Results]
) -> None:
    files = {f"tiny/{member}": content for member, content in checkpoint.items()}
    web.answer = lambda _: Answer(body=(make_zip if name.endswith(".zip") else make_tar)(files))
    results = run(changed(FINE_TUNING, model__uri=f"https://example.com/{name}?token=s3cret"))
    assert [source.address for source in results.sources] == [f"https://example.com/{name}"]
    assert results.arguments["model.checkpoint"] == f"https://example.com/{name}"
    assert [request.path for request in web.requests] == [f"/{name}?token=s3cret"]


# It says what it comes to first, and at its end where the checkpoint is.
SECOND_PROCESS = """
import sys, time
from pathlib import Path
from trainingtask_api.model import Model
from trainingtask_trainer.pretrained import checkpoint
from trainingtask_trainer.storage.downloads import open_downloads

def wait(seconds, sleep=time.sleep, said=[]):
    if not said:
        said.append(print("waits", flush=True))
    sleep(seconds)

time.sleep = wait
checkpoint.unpack_checkpoint = lambda *_: print("unpacks", flush=True)
with open_downloads():
    print(checkpoint.fetch_checkpoint(Model(name="bert", uri=sys.argv[1]), Path()))
"""


def test_an_archive_is_unpacked_by_the_pods_first_process(
    bucket: Bucket, checkpoint: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.put({"tiny.tar.gz": make_tar(checkpoint)})
    uri = f"{bucket.uri}/tiny.tar.gz"
    command = [sys.executable, "-c", SECOND_PROCESS, uri]
    monkeypatch.setenv(ENV_SHARED_FOLDER, str(tmp_path))
    started: list[subprocess.Popen[str]] = []

    def unpack_beside_second(*arguments: Any) -> None:
        second = subprocess.Popen(command, env=os.environ | {"LOCAL_RANK": "1"}, stdout=subprocess.PIPE, text=True)
        started.append(stack.enter_context(second))
        stack.callback(second.kill)
        assert second.stdout is not None
        assert second.stdout.readline() == "waits\n"
        unpack_checkpoint(*arguments)

    monkeypatch.setattr("trainingtask_trainer.pretrained.checkpoint.unpack_checkpoint", unpack_beside_second)
    with ExitStack() as stack, open_downloads():
        folder = fetch_checkpoint(Model(name="bert", uri=uri), tmp_path)
        assert started[0].communicate()[0] == f"{folder}\n"
        assert {path.name for path in folder.iterdir()} == checkpoint.keys()


def test_an_encoder_is_read_from_a_prefix(
    bucket: Bucket, checkpoint: dict[str, bytes], run: Callable[..., Results]
) -> None:
    bucket.put({f"models/tiny/{name}": content for name, content in checkpoint.items()})
    preprocessor = {"name": "embedding", "uri": f"{bucket.uri}/models/tiny", "maxLength": 16}
    results = run(changed(CLASSICAL, dataset__sampleSize=60, preprocessor=preprocessor))
    assert [source.field for source in results.sources] == ["preprocessor.uri"]


LINK = tarfile.TarInfo("model.safetensors")
LINK.type, LINK.linkname = tarfile.SYMTYPE, "/etc/passwd"
CONFIG = {"config.json": json.dumps({"model_type": "bert"}).encode()}


@pytest.mark.parametrize(
    ("name", "content", "cause"),
    [
        ("a.zip", b"no archive", "is damaged"),
        ("a.tar.gz", b"no archive", "is damaged"),
        ("a.tar.gz", make_tar({"config.json": b"x" * 99_999})[:-50], "is damaged"),
        ("a.zip", make_zip({"a/notes.txt": b""}), "has no config.json"),
        ("a.zip", make_zip({"a/config.json": b"", "b/config.json": b""}), "has 2 config.json, one is needed"),
        ("a.tar.gz", make_tar(CONFIG, LINK), r"has no \*.safetensors"),
        ("a.zip", make_zip({"../../config.json": b"{}"}), r"has no \*.safetensors"),
        ("weights.bin", b"x", r"is a file: name the prefix of a checkpoint's files, or an archive"),
    ],
)
def test_archives_without_a_checkpoint_are_refused(
    name: str, content: bytes, cause: str, bucket: Bucket, run: Callable[..., Results]
) -> None:
    bucket.put({name: content})
    with pytest.raises(UserError, match=cause) as raised:
        run(changed(FINE_TUNING, model__uri=f"{bucket.uri}/{name}"))
    assert raised.value.reason == Reason.MODEL_UNAVAILABLE
    assert f"{bucket.uri}/{name}" in raised.value.message
    assert "/tmp" not in raised.value.message
