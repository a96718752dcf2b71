"""An output claim is shared: what another one left there is data, and is neither run nor followed out of the claim."""

import hashlib
import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from support.fine_tuning import fit, open_checkpoints, spec, stop_at
from support.hostile_models import Payload
from trainingtask_api.spec import Output
from trainingtask_trainer.errors import Interrupted, UserError
from trainingtask_trainer.models.transformers.checkpointing import CHECKPOINT_MANIFEST, CheckpointStore
from trainingtask_trainer.preprocessors.array_cache import MAX_CACHE_BYTES, load_or_compute
from trainingtask_trainer.storage.destination import create_destination


@pytest.mark.parametrize("loop", ["trainer", "accelerate"])
def test_a_checkpoint_of_pickles_runs_nothing(tiny_models: Path, tmp_path: Path, marker: Path, loop: str) -> None:
    task, checkpoints = spec(loop=loop), tmp_path / "kept"
    with pytest.raises(Interrupted):
        fit(task, tiny_models, progress=stop_at(7, Interrupted("SIGTERM")), checkpoints=checkpoints)
    [folder] = checkpoints.glob("step-*")
    replaced = [path for path in folder.iterdir() if path.suffix not in {".json", ".safetensors"}]
    assert replaced
    for path in replaced:
        path.write_bytes(pickle.dumps(Payload(marker), protocol=2))
    manifest = json.loads((folder / CHECKPOINT_MANIFEST).read_text())
    manifest["sizes"] |= {path.name: path.stat().st_size for path in replaced}
    (folder / CHECKPOINT_MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        fit(task, tiny_models, checkpoints=checkpoints)
    assert not marker.exists()


def test_folders_that_are_no_checkpoints_stop_no_training(tiny_models: Path, tmp_path: Path) -> None:
    for name, state in (
        ("step-x", "{}"),
        ("step-8", "{}"),
        ("step-9", "[]"),
        ("step-10", "no json"),
        ("step-11", None),
    ):
        (tmp_path / name).mkdir()
        if state is not None:
            (tmp_path / name / "training.json").write_text(state)
    assert fit(spec(epochs=1), tiny_models, checkpoints=tmp_path).fitted.resumed_from_step is None


def fill(size: int) -> Callable[[Path], object]:
    return lambda path: os.truncate(os.open(path, os.O_CREAT | os.O_WRONLY), size)  # a hole: takes no space


@pytest.mark.parametrize(
    "forge",
    [
        Path.mkdir,
        lambda path: path.symlink_to(path),
        lambda path: path.write_text("[" * 100_000),
        fill((32 << 20) + 1),
        os.mkfifo,
    ],
    ids=["folder", "circle", "nested", "large", "pipe"],
)
def test_a_state_that_cannot_be_read_is_no_checkpoint(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, forge: Callable[[Path], object]
) -> None:
    folder = tmp_path / "claim" / "step-9"
    folder.mkdir(parents=True)
    forge(folder / "training.json")
    (tmp_path / "scratch").mkdir()
    store = CheckpointStore(open_checkpoints(tmp_path / "claim"), "key", tmp_path / "scratch")
    assert store.find_last() is None
    assert ("The checkpoint step-9 is not used" in caplog.text) != (folder / "training.json").is_dir()
    with store.write(10, {}):
        pass
    assert [path.name for path in (tmp_path / "claim").iterdir()] == ["step-10"]


def write_entry(header: bytes) -> Callable[[Path], object]:
    """Return a function that writes a cache entry of one array, with a right digest."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("ids.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    payload = buffer.getvalue()
    return lambda path: path.write_bytes(hashlib.sha256(payload).digest() + payload)


@pytest.mark.parametrize(
    "forge",
    [
        write_entry(b"{'descr': '<i8', 'fortran_order': False, 'shape': (1" + b"0" * 15 + b",), }\n"),
        write_entry(b"{'descr': ("),
        write_entry(b"{[]: 1}"),
        lambda path: path.write_bytes(hashlib.sha256(b"").digest()),
        fill(MAX_CACHE_BYTES + 1),
        os.mkfifo,
    ],
    ids=["memory", "tokens", "type", "end", "large", "pipe"],
)
def test_a_forged_cache_entry_is_computed_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, forge: Callable[[Path], object]
) -> None:
    forge(tmp_path / "key.npz")
    assert load_or_compute(tmp_path, "key", ("ids",), lambda: {"ids": np.arange(3)})["ids"].tolist() == [0, 1, 2]
    assert f"The cache entry {tmp_path / 'key.npz'} is not used" in caplog.text


def test_a_cache_entry_of_pickles_runs_nothing(tmp_path: Path, marker: Path) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, ids=np.array([Payload(marker)], dtype=object))
    payload = buffer.getvalue()
    (tmp_path / "key.npz").write_bytes(hashlib.sha256(payload).digest() + payload)
    assert load_or_compute(tmp_path, "key", ("ids",), lambda: {"ids": np.arange(3)})["ids"].tolist() == [0, 1, 2]
    assert not marker.exists()
    assert load_or_compute(tmp_path, "key", ("ids",), dict)["ids"].tolist() == [0, 1, 2], (
        "the forged entry was replaced"
    )


@pytest.mark.parametrize(
    "link", ["model", "team", ".trainingtask", ".trainingtask/cache", ".trainingtask/checkpoints/uid"]
)
def test_a_link_out_of_the_claim_is_not_written_through(tmp_path: Path, link: str) -> None:
    claim, outside = tmp_path / "claim", tmp_path / "outside"
    (outside / "model").mkdir(parents=True)
    for folder in (outside, outside / "model"):
        (folder / "trainingtask.json").touch()
    (claim / link).parent.mkdir(parents=True)
    (claim / link).symlink_to(outside)
    output = Output.model_validate({"volumeClaim": "c", "subPath": "team/model" if link == "team" else "model"})
    with pytest.raises(
        UserError, match=f"leads out of the volume claim, to {outside}.*: remove the symbolic link"
    ) as refused:
        create_destination(output, claim, "a-task", "uid")
    assert refused.value.reason == "OutputOccupied"
    assert sorted(path.name for path in outside.iterdir()) == ["model", "trainingtask.json"]


def test_links_in_an_earlier_model_are_removed_and_not_followed(tmp_path: Path) -> None:
    claim, outside, built = (tmp_path / name for name in ("claim", "outside", "built"))
    for folder in (claim / "model", outside, built / "sub"):
        folder.mkdir(parents=True)
    for folder in (claim / "model", outside):
        (folder / "trainingtask.json").write_text("mine")
    (claim / "model" / "weights").symlink_to(outside / "trainingtask.json")
    (claim / "model" / "sub").symlink_to(outside)
    for file in (built / "weights", built / "sub" / "more", built / "trainingtask.json"):
        file.write_text("new")
    destination = create_destination(Output.model_validate({"volumeClaim": "c"}), claim, "model", "uid")
    destination.check()
    destination.publish(built)
    assert {path.name: path.read_text() for path in outside.iterdir()} == {"trainingtask.json": "mine"}
    assert (claim / "model" / "sub" / "more").read_text() == "new"
    assert not any(path.is_symlink() for path in claim.rglob("*"))
