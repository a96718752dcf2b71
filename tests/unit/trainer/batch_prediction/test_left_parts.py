"""A batch prediction that was killed at its end, when the output is there and its parts are, too."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from support.object_store import clear_credentials, serve_bucket
from support.served_models import HeldModel
from trainingtask_trainer.__main__ import main
from trainingtask_trainer.batch_prediction.outputs import LocalOutput
from trainingtask_trainer.storage.object_store import ObjectStore

Predict = Callable[[object], int]


@pytest.fixture
def predict(model: HeldModel, tmp_path: Path) -> Predict:
    """Return the command with three parts, for an output."""
    (tmp_path / "in.jsonl").write_text("".join(f'{{"text": "row {row}"}}\n' for row in range(5)))
    command = ["predict", str(model.folder), f"--code-dir={model.code}", f"--input={tmp_path / 'in.jsonl'}"]
    return lambda output: main([*command, f"--output={output}"])


@contextmanager
def killed_at(owner: type, name: str, call: int = 0) -> Iterator[None]:
    """End the process at a call of a method, counted from 0."""
    method, calls = getattr(owner, name), itertools.count()

    def count(*arguments: Any, **options: Any) -> Any:
        if next(calls) == call:
            raise SystemExit
        return method(*arguments, **options)

    with mock.patch.object(owner, name, count), pytest.raises(SystemExit):
        yield


@pytest.mark.parametrize("removed", [0, 1, 3])
def test_a_prediction_killed_while_it_removes_its_parts_ends_well(
    predict: Predict, model: HeldModel, tmp_path: Path, removed: int
) -> None:
    output, parts = tmp_path / "out.jsonl", tmp_path / "out.jsonl.parts"
    with killed_at(Path, "unlink", removed):
        predict(output)
    content = output.read_bytes()
    assert len(list(parts.iterdir())) == 4 - removed
    assert predict(output) == 0
    assert output.read_bytes() == content
    assert not parts.exists()
    assert model.batches == [2, 2, 1]


@pytest.mark.parametrize("removed", [0, 1])
def test_a_prediction_killed_in_an_object_store_ends_well(
    predict: Predict, model: HeldModel, monkeypatch: pytest.MonkeyPatch, removed: int
) -> None:
    clear_credentials(monkeypatch)
    with serve_bucket() as bucket:
        for name, value in bucket.environment.items():
            monkeypatch.setenv(name, value)
        bucket.empty()
        with killed_at(ObjectStore, "delete", removed):
            predict(f"{bucket.uri}/out.jsonl")
        before = bucket.read()
        assert len(before) == (2 if removed else 5)
        assert predict(f"{bucket.uri}/out.jsonl") == 0
        assert bucket.read() == {"out.jsonl": before["out.jsonl"]}
    assert model.batches == [2, 2, 1]


@pytest.mark.parametrize("end", ["complete", "remove_parts"])
def test_an_output_that_its_parts_did_not_become_is_refused(
    predict: Predict, tmp_path: Path, capsys: pytest.CaptureFixture[str], end: str
) -> None:
    output = tmp_path / "out.jsonl"
    with killed_at(LocalOutput, end):
        predict(output)
    output.write_text("of another")
    assert predict(output) == 64
    assert "--output 'out.jsonl' exists already: remove it, or name another file" in capsys.readouterr().err
    assert output.read_text() == "of another"
    output.unlink()
    assert predict(output) == 0
    assert not (tmp_path / "out.jsonl.parts").exists()


def test_an_output_of_another_input_is_refused(
    predict: Predict, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with killed_at(LocalOutput, "remove_parts"):
        predict(tmp_path / "out.jsonl")
    (tmp_path / "in.jsonl").write_text('{"text": "other"}\n')
    assert predict(tmp_path / "out.jsonl") == 64
    assert "holds parts of another input, model, code or release" in capsys.readouterr().err
