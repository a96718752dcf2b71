"""A model repository on a hub as the destination: the hub of the tests answers the requests of the real client."""

from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import constants

from support.fine_tuning import assert_same_numbers, fit, spec, stop_at
from support.hub_server import Hub
from support.specs import CLASSICAL, changed
from trainingtask_api.reasons import Reason
from trainingtask_api.spec import Output
from trainingtask_trainer.__main__ import main
from trainingtask_trainer.errors import Fault, Interrupted, UserError
from trainingtask_trainer.models.transformers.checkpointing import CHECKPOINT_MANIFEST
from trainingtask_trainer.storage import destination as destination_module
from trainingtask_trainer.storage.destination import Destination, create_destination

# Of huggingface_hub itself, when it uploads a large file.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")

TOKEN = "hf_writer"
BRANCH = "trainingtask-checkpoints-uid"


@pytest.fixture
def writable(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """Return a hub that can be written with the token in the environment."""
    hub.writer = TOKEN
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # large files go by LFS, as to a mirror
    monkeypatch.setattr(destination_module, "_PUBLISH_SECONDS", 0.0)
    return hub


def open_repository() -> Destination:
    return create_destination(Output.model_validate({"hub": "me/tickets"}), Path("unused"), "model", "uid")


def read(hub: Hub, branch: str = "main") -> dict[str, bytes]:
    repository = hub.repositories["models/me/tickets"]
    return {path: content for path, content in repository.commits[repository.find(branch)].items() if path[0] != "."}


def build(folder: Path, content: str, *more: str) -> Path:
    folder.mkdir()
    for name in ("trainingtask.json", "weights", *more):
        (folder / name).write_text(content)
    return folder


def test_a_model_is_one_commit_of_a_private_repository(writable: Hub, tmp_path: Path) -> None:
    destination = open_repository()
    destination.check()
    repository = writable.repositories["models/me/tickets"]
    assert repository.token == TOKEN
    assert read(writable) == {}
    before = len(repository.commits)
    destination.publish(build(tmp_path / "1", "first", "only-in-the-first"))
    destination.publish(build(tmp_path / "2", "second" * 1000))  # large enough for LFS
    destination.remove_checkpoints(CHECKPOINT_MANIFEST)
    content = b"second" * 1000
    assert read(writable) == {"trainingtask.json": content, "weights": content}
    assert len(repository.commits) == before + 2
    assert repository.branches == {}
    assert (destination.model_path, destination.model_uri) == (None, "hf://me/tickets")


def test_a_model_that_is_replaced_meanwhile_is_read_as_it_was_listed(writable: Hub, tmp_path: Path) -> None:
    destination = open_repository()
    destination.check()
    destination.publish(build(tmp_path / "1", "first"))
    listed = destination.models.list()
    destination.publish(build(tmp_path / "2", "second"))
    copy = tmp_path / "copy"
    copy.mkdir()
    destination.models.download(listed, copy)
    assert {path.read_text() for path in copy.iterdir()} == {"first"}


def test_a_repository_of_something_else_is_kept(writable: Hub) -> None:
    writable.add("models/me/tickets", {"README.md": b"", "pytorch_model.bin": b""}, token=TOKEN)
    with pytest.raises(UserError, match=r"is no trained model, but holds pytorch_model.bin") as caught:
        open_repository().check()
    assert caught.value.reason == Reason.OUTPUT_OCCUPIED


def test_a_repository_with_a_card_alone_is_taken(writable: Hub) -> None:
    writable.add("models/me/tickets", {"README.md": b"# soon"}, token=TOKEN)
    open_repository().check()


@pytest.mark.parametrize(("token", "status"), [(None, 401), ("hf_reader", 403)])
def test_a_token_that_may_not_write_is_reported_before_the_training(
    writable: Hub, monkeypatch: pytest.MonkeyPatch, token: str | None, status: int
) -> None:
    writable.add("models/me/tickets", {"README.md": b""})
    monkeypatch.delenv("HF_TOKEN") if token is None else monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(
        UserError, match=rf"output.hub 'me/tickets' .* the hub answers {status}; pass a token"
    ) as caught:
        open_repository().check()
    assert caught.value.reason == Reason.OUTPUT_DENIED


def test_a_hub_that_is_away_is_a_fault(writable: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    writable.outage = 500
    with pytest.raises(Fault, match=r"output.hub 'me/tickets' .* the hub answers 500") as caught:
        open_repository().check()
    assert caught.value.reason == Reason.OUTPUT_UNAVAILABLE


def test_a_training_goes_on_from_the_checkpoint_on_the_hub(tiny_models: Path, writable: Hub) -> None:
    task = spec(epochs=3, checkpointSteps=5)
    open_repository().check()
    progress = stop_at(13, Interrupted("SIGTERM"))
    with pytest.raises(Interrupted):
        fit(task, tiny_models, progress=progress, checkpoints=open_repository().checkpoints)
    assert {path.partition("/")[0] for path in read(writable, BRANCH)} == {"step-13"}
    assert read(writable) == {}
    resumed = fit(task, tiny_models, checkpoints=open_repository().checkpoints)
    assert resumed.fitted.resumed_from_step == 13
    assert_same_numbers(resumed, fit(task, tiny_models))
    open_repository().remove_checkpoints(CHECKPOINT_MANIFEST)
    assert writable.repositories["models/me/tickets"].branches == {}


def test_a_task_stores_its_model_on_the_hub_and_predicts_from_there(
    writable: Hub, tmp_path: Path, write_task: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    task = write_task(changed(CLASSICAL, output={"hub": "me/tickets", "tensorboard": True}))
    arguments = [f"--output-dir={tmp_path / 'out'}", f"--history=sqlite:///{tmp_path}/history.db"]
    assert main(["run", str(task), *arguments]) == 0
    assert b"library_name: sklearn" in read(writable)["README.md"]
    assert any(name.startswith("tensorboard/events.out.tfevents.") for name in read(writable))
    capsys.readouterr()
    assert main(["predict", "hf://me/tickets", "the dashboard is very slow."]) == 0
    assert "performance" in capsys.readouterr().out
