"""An output claim is shared: what another one left there is data, and is neither run nor followed out of the claim."""

import hashlib
import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from support.fine_tuning import fit, spec, stop_at
from support.hostile_models import Payload
from trainingtask_trainer.artifacts.bundle import prepare_output_folder
from trainingtask_trainer.errors import Interrupted, UserError
from trainingtask_trainer.models.transformers.checkpointing import CheckpointFolder
from trainingtask_trainer.preprocessors.array_cache import MAX_CACHE_BYTES, load_or_compute
from trainingtask_trainer.volumes import Volumes


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
    (tmp_path / "step-9").mkdir()
    forge(tmp_path / "step-9" / "training.json")
    assert CheckpointFolder(tmp_path, "key").find_last() is None
    assert f"The checkpoint {tmp_path / 'step-9'} is not used" in caplog.text


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
    assert load_or_compute(tmp_path, "key", lambda: {"ids": np.arange(3)})["ids"].tolist() == [0, 1, 2]
    assert f"The cache entry {tmp_path / 'key.npz'} is not used" in caplog.text


def test_a_cache_entry_of_pickles_runs_nothing(tmp_path: Path, marker: Path) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, ids=np.array([Payload(marker)], dtype=object))
    payload = buffer.getvalue()
    (tmp_path / "key.npz").write_bytes(hashlib.sha256(payload).digest() + payload)
    assert load_or_compute(tmp_path, "key", lambda: {"ids": np.arange(3)})["ids"].tolist() == [0, 1, 2]
    assert not marker.exists()
    assert load_or_compute(tmp_path, "key", dict)["ids"].tolist() == [0, 1, 2], "the forged entry was replaced"


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
    volumes = Volumes(dataset=claim, model=claim, output=claim)
    with pytest.raises(
        UserError, match=f"leads out of the volume claim, to {outside}.*: remove the symbolic link"
    ) as refused:
        prepare_output_folder(
            claim,
            "team/model" if link == "team" else "model",
            (volumes.cache_folder, volumes.get_checkpoint_folder("uid")),
        )
    assert refused.value.reason == "OutputOccupied"
    assert sorted(path.name for path in outside.iterdir()) == ["model", "trainingtask.json"]
