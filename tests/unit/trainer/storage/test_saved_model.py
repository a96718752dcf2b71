"""Addresses of saved models that `predict` refuses."""

import re

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


def test_an_address_of_an_unknown_kind_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "ftp://host/model?key=secret", "a text"]) == 64
    assert capsys.readouterr().err.startswith("'ftp://host/model' is no place of a saved model: name a folder, s3://")
