"""Addresses of saved models that `predict` refuses, and the folders that `download` makes."""

import errno
import re
import shutil
from pathlib import Path

import pytest

from support.object_store import Bucket
from trainingtask_trainer.__main__ import main
from trainingtask_trainer.storage import saved_model
from trainingtask_trainer.storage.folder_store import MODEL_MANIFEST


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ((), r"is not a saved model .*: it holds nothing"),
        (("data.csv",), r"is not a saved model .*: it holds data.csv"),
        ((MODEL_MANIFEST, "a/../../weights"), "cannot be the name of a file"),
        ((MODEL_MANIFEST, "a", "b", "c"), "at most 3 files"),
    ],
)
def test_an_address_without_a_saved_model_is_refused(
    bucket: Bucket,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    keys: tuple[str, ...],
    sentence: str,
) -> None:
    monkeypatch.setattr(saved_model, "_MAX_FILES", 3)
    bucket.put({f"tickets/{key}": b"{}" for key in keys})
    assert main(["predict", f"{bucket.uri}/tickets", "a text"]) == 64
    assert re.search(sentence, capsys.readouterr().err)


def test_a_folder_that_exists_is_not_downloaded_into(
    bucket: Bucket, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["download", f"{bucket.uri}/tickets", str(tmp_path)]) == 64
    assert capsys.readouterr().err == f"{tmp_path} exists already: name a new folder\n"


def test_a_download_that_is_cut_off_leaves_no_folder(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def copy_a_part(source: Path, target: Path) -> None:
        target.mkdir()
        shutil.copyfile(source / MODEL_MANIFEST, target / MODEL_MANIFEST)
        raise OSError(errno.ENOSPC, "No space left on device")

    bucket.put({f"tickets/{MODEL_MANIFEST}": b"{}", "tickets/weights": b"x"})
    target = tmp_path / "models" / "copy"
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copytree", copy_a_part)
        with pytest.raises(OSError, match="No space"):
            main(["download", f"{bucket.uri}/tickets", str(target)])
    assert list(target.parent.iterdir()) == []
    assert main(["download", f"{bucket.uri}/tickets", str(target)]) == 0
    assert sorted(path.name for path in target.iterdir()) == [MODEL_MANIFEST, "weights"]


def test_an_address_of_an_unknown_kind_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "ftp://host/model?key=secret", "a text"]) == 64
    assert capsys.readouterr().err.startswith("'ftp://host/model' is no place of a saved model: name a folder, s3://")
