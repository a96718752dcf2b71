"""Where models and checkpoints go: claims, mounted buckets and object stores, the manifest last in all of them."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.bucket_mount import mount_bucket
from support.fine_tuning import Run, assert_same_numbers, fit, spec, stop_at
from support.http_server import Answer, HttpServer, Request
from support.object_store import Bucket
from support.ports import free_port
from support.specs import CLASSICAL, changed
from trainingtask_api.reasons import Reason
from trainingtask_api.spec import Output
from trainingtask_trainer.__main__ import main
from trainingtask_trainer.errors import Fault, Interrupted, UserError
from trainingtask_trainer.models.transformers.checkpointing import CHECKPOINT_MANIFEST
from trainingtask_trainer.runtime.signals import InterruptHandler
from trainingtask_trainer.storage import destination as module
from trainingtask_trainer.storage.destination import Destination, create_destination

MANIFEST = "trainingtask.json"


class Gateway:
    """A server before an object store that answers some requests itself."""

    def __init__(self, server: HttpServer, upstream: int) -> None:
        self.server = server
        self.fault: Callable[[Request], Answer | None] = lambda _: None
        self._upstream = f"http://127.0.0.1:{upstream}"
        server.answer = self._answer

    def _answer(self, request: Request) -> Answer:
        if (answer := self.fault(request)) is not None:
            return answer
        hidden = ("host", "connection", "accept-encoding")
        headers = {name: value for name, value in request.headers.items() if name not in hidden}
        url = self._upstream + request.path
        reply = httpx.request(request.method, url, headers=headers, content=request.body, trust_env=False, timeout=120)
        hidden = ("connection", "server", "date", "content-encoding", "transfer-encoding")
        kept = {name: value for name, value in reply.headers.items() if name not in hidden}
        return Answer(reply.status_code, reply.content, kept)


@pytest.fixture
def gateway(bucket: Bucket, broken_store: HttpServer) -> Gateway:
    """Return the server through which the bucket is reached."""
    return Gateway(broken_store, bucket.port)


def fail(method: str, part: str, status: int = 503) -> Callable[[Request], Answer | None]:
    return lambda request: Answer(status) if request.method == method and part in request.path else None


def open_destination(root: Path, **output: str) -> Destination:
    return create_destination(Output.model_validate(output or {"volumeClaim": "models"}), root, "model", "uid")


def open_bucket(bucket: Bucket, path: str = "team/model") -> Destination:
    return open_destination(Path("unused"), uri=f"{bucket.uri}/{path}")


def build(folder: Path, content: str, *more: str) -> Path:
    """Write the files of a model."""
    for name in (MANIFEST, "weights", "sub/vocabulary", *more):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


def read(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


EVERY_FILE = (MANIFEST, "weights", "sub/vocabulary")


def test_a_claim_gets_the_model_and_keeps_nothing_else(tmp_path: Path) -> None:
    claim = tmp_path / "claim"
    destination = open_destination(claim, volumeClaim="models", subPath="team/model")
    destination.check()
    assert read(claim) == {}
    destination.publish(build(tmp_path / "first", "1", "only-in-the-first"))
    destination.publish(build(tmp_path / "second", "2"))
    destination.remove_checkpoints(CHECKPOINT_MANIFEST)
    assert read(claim) == {f"team/model/{name}": "2" for name in EVERY_FILE}
    assert (destination.model_path, destination.model_uri) == ("team/model", None)
    assert (claim / "team" / "model" / "weights").stat().st_mode & 0o444 == 0o444


def test_the_root_of_a_claim_is_no_destination(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"output.subPath '.' is the root of the claim"):
        create_destination(Output.model_construct(volume_claim="c", sub_path="."), tmp_path, "model", "uid")


def test_a_claim_folder_that_is_no_model_is_kept(tmp_path: Path) -> None:
    (tmp_path / "team" / "data").mkdir(parents=True)
    (tmp_path / "file").touch()
    for path, there in (("team", "holds data/"), ("file", "a file stands in the way")):
        with pytest.raises(UserError, match=f"output.subPath '{path}'.*{there}") as caught:
            open_destination(tmp_path, volumeClaim="c", subPath=path).check()
        assert caught.value.reason == "OutputOccupied"
    assert (tmp_path / "team" / "data").is_dir()


@pytest.mark.parametrize("has_own", [True, False])
def test_the_folder_of_other_models_is_kept(tmp_path: Path, has_own: bool) -> None:
    if has_own:
        open_destination(tmp_path, volumeClaim="c", subPath="team").publish(build(tmp_path / "new", "1"))
    open_destination(tmp_path, volumeClaim="c", subPath="team/second").publish(build(tmp_path / "second", "2"))
    with pytest.raises(UserError, match=r"output.subPath 'team' holds the folders of other models, second/:") as caught:
        open_destination(tmp_path, volumeClaim="c", subPath="team").check()
    assert caught.value.reason == Reason.OUTPUT_OCCUPIED


def test_a_bucket_gets_the_model_and_keeps_nothing_else(bucket: Bucket, tmp_path: Path) -> None:
    destination = open_bucket(bucket)
    destination.check()
    assert bucket.read() == {}
    destination.publish(build(tmp_path / "first", "1", "only-in-the-first"))
    bucket.put({"team/model/.trainingtask/checkpoints/other/step-3/training.json": b"another task's"})
    destination.publish(build(tmp_path / "second", "2"))
    destination.remove_checkpoints(CHECKPOINT_MANIFEST)
    expected = {f"team/model/{name}": b"2" for name in EVERY_FILE}
    assert bucket.read() == expected | {
        "team/model/.trainingtask/checkpoints/other/step-3/training.json": b"another task's"
    }
    assert (destination.model_path, destination.model_uri) == (None, f"{bucket.uri}/team/model")


def test_a_prefix_that_is_no_model_is_kept(bucket: Bucket) -> None:
    bucket.put({"team/model/data/train.csv": b"mine", "team/model/.trainingtask/checkpoints/uid/step-1/x": b""})
    with pytest.raises(UserError, match=r"output.uri '.*' is no trained model, but holds data/:") as caught:
        open_bucket(bucket).check()
    assert caught.value.reason == "OutputOccupied"


@pytest.mark.parametrize("file", [*EVERY_FILE])
def test_a_model_whose_upload_broke_has_no_manifest(
    gateway: Gateway, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    monkeypatch.setattr(module, "_PUBLISH_SECONDS", 0.0)
    destination = open_bucket(bucket)
    destination.publish(build(tmp_path / "first", "1"))
    gateway.fault = fail("PUT", file)
    with pytest.raises(Fault, match=r"503.*the trained model could not be stored .*next attempt goes on") as caught:
        destination.publish(build(tmp_path / "second", "2"))
    assert caught.value.reason == Reason.OUTPUT_UNAVAILABLE
    assert f"team/model/{MANIFEST}" not in bucket.read()
    assert "team/model/.trainingtask/incomplete" in bucket.read()

    gateway.fault = lambda _: None
    again = open_bucket(bucket)
    again.check()  # its own half of a model is no obstacle
    again.publish(tmp_path / "second")
    assert bucket.read() == {f"team/model/{name}": b"2" for name in EVERY_FILE}


def test_a_model_is_uploaded_again_until_it_is_stored(
    gateway: Gateway, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            gateway.fault = lambda _: None

    monkeypatch.setattr(module.time, "sleep", pause)
    destination = open_bucket(bucket)
    gateway.fault = fail("PUT", "weights", 403)  # such as a token that expired, and will be renewed
    destination.publish(build(tmp_path / "model", "1"))
    assert bucket.read() == {f"team/model/{name}": b"1" for name in EVERY_FILE}
    assert len(pauses) == 3


def test_a_model_is_stored_before_a_signal_ends_the_run(
    gateway: Gateway, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop_the_process_and_renew_the_token(_: float) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        gateway.fault = lambda _: None

    monkeypatch.setattr(module.time, "sleep", stop_the_process_and_renew_the_token)
    gateway.fault = fail("PUT", "weights", 403)
    with InterruptHandler() as signals:
        open_bucket(bucket).publish(build(tmp_path / "model", "1"))
        with pytest.raises(Interrupted, match="SIGTERM"):
            signals.raise_if_received()
    assert bucket.read() == {f"team/model/{name}": b"1" for name in EVERY_FILE}


@pytest.mark.parametrize(
    ("method", "status", "kind", "reason"),
    [
        ("PUT", 403, UserError, Reason.OUTPUT_DENIED),
        ("GET", 403, UserError, Reason.OUTPUT_DENIED),
        ("POST", 403, UserError, Reason.OUTPUT_DENIED),
        ("PUT", 503, Fault, Reason.OUTPUT_UNAVAILABLE),
    ],
)
def test_what_a_store_refuses_is_reported_before_the_training(
    gateway: Gateway, bucket: Bucket, method: str, status: int, kind: type[Exception], reason: Reason
) -> None:
    gateway.fault = lambda request: Answer(status) if request.method == method else None  # POST deletes
    with pytest.raises(kind, match=r"output.uri 's3://a-bucket/team/model.*'") as caught:
        open_bucket(bucket).check()
    assert caught.value.reason == reason  # type: ignore[attr-defined]


def test_a_missing_bucket_is_reported_before_the_training(bucket: Bucket) -> None:
    with pytest.raises(UserError, match="there is no bucket 'no-such'") as caught:
        open_destination(Path("unused"), uri="s3://no-such/model").check()
    assert caught.value.reason == Reason.OUTPUT_DENIED


@pytest.mark.usefixtures("broken_store")
def test_a_store_that_is_away_is_a_fault_before_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(Fault, match="the store could not be used") as caught:
        open_destination(Path("unused"), uri="s3://a-bucket/model").check()
    assert caught.value.reason == Reason.OUTPUT_UNAVAILABLE


def long(**training: Any) -> dict[str, Any]:
    return spec(epochs=3, checkpointSteps=5, **training)


@pytest.fixture(scope="module")
def whole(tiny_models: Path) -> Run:
    """Return a training that was not interrupted."""
    return fit(long(), tiny_models)


def list_checkpoints(bucket: Bucket) -> set[str]:
    prefix = "team/model/.trainingtask/checkpoints/uid/"
    return {key.removeprefix(prefix).partition("/")[0] for key in bucket.read() if key.startswith(prefix)}


def test_a_training_goes_on_from_the_checkpoint_in_the_store(tiny_models: Path, whole: Run, bucket: Bucket) -> None:
    with pytest.raises(Interrupted):
        fit(
            long(),
            tiny_models,
            progress=stop_at(13, Interrupted("SIGTERM")),
            checkpoints=open_bucket(bucket).checkpoints,
        )
    assert list_checkpoints(bucket) == {"step-13"}
    destination = open_bucket(bucket)
    resumed = fit(long(), tiny_models, checkpoints=destination.checkpoints)
    assert resumed.fitted.resumed_from_step == 13
    assert_same_numbers(resumed, whole)
    destination.remove_checkpoints(CHECKPOINT_MANIFEST)
    assert bucket.read() == {}


class Killed(BaseException):
    """What SIGKILL leaves behind."""


@pytest.mark.parametrize("file", ["model.safetensors", CHECKPOINT_MANIFEST])
def test_half_a_checkpoint_is_not_resumed_from(
    tiny_models: Path, whole: Run, gateway: Gateway, bucket: Bucket, file: str
) -> None:
    gateway.fault = fail("PUT", f"step-10/{file}")
    checkpoints = open_bucket(bucket).checkpoints
    with pytest.raises(Killed):
        fit(long(), tiny_models, progress=stop_at(13, Killed()), checkpoints=checkpoints)
    assert list_checkpoints(bucket) == {"step-5", "step-10"}
    gateway.fault = lambda _: None
    resumed = fit(long(), tiny_models, checkpoints=checkpoints)
    assert resumed.fitted.resumed_from_step == 5
    assert_same_numbers(resumed, whole)
    assert len(list_checkpoints(bucket)) == 1


def test_a_checkpoint_that_cannot_be_stored_costs_a_warning(
    tiny_models: Path, whole: Run, gateway: Gateway, bucket: Bucket
) -> None:
    gateway.fault = fail("PUT", "step-10/", 403)
    run = fit(long(), tiny_models, checkpoints=open_bucket(bucket).checkpoints)
    assert_same_numbers(run, whole)
    [warning] = run.fitted.warnings
    assert warning.startswith(
        "1 of the checkpoints could not be stored, the last one because output.uri 's3://a-bucket/team/"
    )
    assert list_checkpoints(bucket) == {"step-20"}


@pytest.mark.parametrize("key", ["step-13/sub/weights", "step-13/.hidden", "step-13/%s" % ("x" * 101)])
def test_a_checkpoint_with_foreign_files_is_not_resumed_from(
    tiny_models: Path, bucket: Bucket, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = open_bucket(bucket).checkpoints
    with pytest.raises(Interrupted):
        fit(long(), tiny_models, progress=stop_at(13, Interrupted("SIGTERM")), checkpoints=checkpoints)
    bucket.put({f"team/model/.trainingtask/checkpoints/uid/{key}": b"x"})
    run = fit(long(), tiny_models, checkpoints=checkpoints)
    assert run.fitted.resumed_from_step is None
    assert "The checkpoint step-13 is not used" in caplog.text


def test_foreign_objects_beside_the_checkpoints_stop_no_training(tiny_models: Path, bucket: Bucket) -> None:
    hostile = {
        "step-99": b"",
        "step-98/training.json": b"[",
        "step-97/training.json": b"[]",
        "step-96/training.json": b"{}",
        f"step-{10**18}/training.json": b"{}",
        "step-x/training.json": b"{}",
        "readme": b"",
    }
    bucket.put({f"team/model/.trainingtask/checkpoints/uid/{key}": content for key, content in hostile.items()})
    run = fit(spec(epochs=1), tiny_models, checkpoints=open_bucket(bucket).checkpoints)
    assert (run.fitted.resumed_from_step, run.fitted.warnings) == (None, ())
    assert list_checkpoints(bucket) == {"step-7", "step-99", "readme"}


def test_a_mounted_bucket_gets_checkpoints_and_a_model(tiny_models: Path, whole: Run, tmp_path: Path) -> None:
    with mount_bucket(tmp_path / "claim") as claim:
        destination = open_destination(claim)
        destination.check()
        with pytest.raises(Interrupted):
            fit(
                long(),
                tiny_models,
                progress=stop_at(13, Interrupted("SIGTERM")),
                checkpoints=destination.checkpoints,
            )
        resumed = fit(long(), tiny_models, checkpoints=destination.checkpoints)
        assert resumed.fitted.resumed_from_step == 13
        assert_same_numbers(resumed, whole)
        for content in ("1", "2"):
            destination.publish(build(tmp_path / content, content))
        destination.remove_checkpoints(CHECKPOINT_MANIFEST)
    assert read(claim) == {f"model/{name}": "2" for name in EVERY_FILE}


def test_a_run_on_a_mounted_bucket_replaces_its_model(tmp_path: Path, write_task: Callable[..., Path]) -> None:
    task = write_task(changed(CLASSICAL, output__volumeClaim="models", dataset__sampleSize=100), "tickets")
    build(tmp_path / "out" / "tickets", "an earlier model")
    with mount_bucket(tmp_path / "out"):
        assert main(["run", str(task), f"--output-dir={tmp_path / 'out'}", f"--history=sqlite:///{tmp_path}/h.db"]) == 0
        assert main(["predict", str(tmp_path / "out" / "tickets"), "a text"]) == 0


@pytest.mark.parametrize("refused", ["unlink", "open"])
def test_a_claim_that_refuses_an_operation_is_a_fault_before_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    def refuse(self: Path, *_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted", str(self))

    monkeypatch.setattr(Path, refused, refuse)
    with pytest.raises(Fault, match=r"output.subPath 'model': .* cannot be .*: Operation not permitted") as caught:
        open_destination(tmp_path).check()
    assert caught.value.reason == Reason.OUTPUT_NOT_WRITABLE


def test_a_task_stores_its_model_in_a_bucket_and_predicts_from_there(
    bucket: Bucket, tmp_path: Path, write_task: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    uri = f"{bucket.uri}/tickets"
    task = write_task(changed(CLASSICAL, output={"uri": uri, "tensorboard": True}))
    arguments = [f"--output-dir={tmp_path / 'out'}", f"--history=sqlite:///{tmp_path}/history.db"]
    assert main(["run", str(task), *arguments]) == 0
    objects = bucket.read()
    assert {key.partition("/")[2] for key in objects} >= {MANIFEST, "results.json", "README.md"}
    assert any(key.startswith("tickets/tensorboard/events.out.tfevents.") for key in objects)
    results = json.loads(objects["tickets/results.json"])
    assert (results["modelUri"], results.get("modelPath")) == (uri, None)
    capsys.readouterr()
    assert main(["predict", uri, "the dashboard is very slow."]) == 0
    assert "performance" in capsys.readouterr().out
    assert main(["download", uri, str(tmp_path / "copy")]) == 0
    files = (path for path in (tmp_path / "copy").rglob("*") if path.is_file())
    copied = {f"tickets/{path.relative_to(tmp_path / 'copy')}": path.read_bytes() for path in files}
    assert copied == {key: content for key, content in objects.items() if key.startswith("tickets/")}
