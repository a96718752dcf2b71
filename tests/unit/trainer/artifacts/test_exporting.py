"""output.formats: what lies in the folder, what it costs, and predictions from it without torch."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from support.fine_tuning import LABELS, NAMES, TEXTS, Run, fit, spec
from support.hostile_models import BROKEN, write_manifest
from trainingtask_api.exports import Format
from trainingtask_api.spec import Output
from trainingtask_trainer.artifacts import exporting
from trainingtask_trainer.artifacts.exporting import WrittenFormats, write_exports
from trainingtask_trainer.artifacts.saved_model import SavedModel
from trainingtask_trainer.errors import UserError
from trainingtask_trainer.evaluation.decisions import DecisionRule
from trainingtask_trainer.evaluation.evaluator import ScoredRows
from trainingtask_trainer.evaluation.metrics import Probabilities
from trainingtask_trainer.models.onnx.model import OnnxModel

BOTH = [Format.ONNX, Format.ONNX_INT8]


@pytest.fixture(scope="module")
def run(tiny_models: Path) -> Run:
    return fit(spec(), tiny_models)


def export(run: Run, folder: Path, formats: list[Format] | None, limit: float | None = None) -> WrittenFormats:
    return write_exports(
        Output(volume_claim="models", formats=formats, max_f1_loss=limit),
        folder,
        run.model,
        run.tokenizer,
        texts=TEXTS,
        test=ScoredRows(LABELS, run.probabilities),
        temperature=None,
        rule=DecisionRule([0.3]),
        report=lambda step: None,
    )


def test_without_formats_nothing_is_exported(run: Run, tmp_path: Path) -> None:
    assert export(run, tmp_path, None) == WrittenFormats()
    assert export(run, tmp_path, [Format.SAFETENSORS]) == WrittenFormats()
    assert not list(tmp_path.iterdir())


def test_each_export_is_scored_on_the_test_rows(run: Run, tmp_path: Path) -> None:
    written = export(run, tmp_path, BOTH)
    assert written.formats == tuple(BOTH)
    assert not written.is_native_written
    assert not written.warnings
    exact, rounded = written.exports
    assert exact.is_written
    assert exact.f1_loss == 0
    assert exact.micro_f1 is not None
    assert exact.max_probability_difference < 1e-5
    assert exact.max_probability_difference < rounded.max_probability_difference < 0.1
    assert exact.rows_per_second > 0
    files = [(tmp_path / name).stat().st_size for name in ("model.onnx", "tokenizer.json")]
    assert exact.size == sum(files)
    assert not list(tmp_path.glob("*.safetensors"))


def test_int8_alone_leaves_no_other_weights(run: Run, tmp_path: Path) -> None:
    assert export(run, tmp_path, [Format.ONNX_INT8]).formats == (Format.ONNX_INT8,)
    assert [path.name for path in tmp_path.glob("*.onnx")] == ["model.int8.onnx"]


def test_an_export_that_costs_too_much_f1_is_not_written(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def predict_nothing(self: OnnxModel, texts: list[str]) -> Probabilities:
        return np.zeros((len(texts), len(NAMES)))

    monkeypatch.setattr(OnnxModel, "predict_probabilities", predict_nothing)
    written = export(run, tmp_path, [Format.SAFETENSORS, Format.ONNX], 0.25)
    assert written.is_native_written
    assert written.formats == ()
    assert [one.is_written for one in written.exports] == [False]
    [warning] = written.warnings
    loss = written.exports[0].f1_loss
    assert loss > 0.25
    assert f"'onnx' costs {loss:.4f} of micro-F1 on the test rows, more than output.maxF1Loss 0.25" in warning
    assert float(warning.rpartition("to have it")[0].rpartition("maxF1Loss to ")[2]) >= loss
    assert not list(tmp_path.glob("*.onnx"))
    alone = export(run, tmp_path, [Format.ONNX])
    assert alone.is_native_written
    assert alone.warnings[1] == "none of output.formats is written: the model is saved in its own format"


def test_a_model_without_export_is_saved_in_its_own_format(tmp_path: Path) -> None:
    written = write_exports(
        Output(volume_claim="models", formats=[Format.ONNX]),
        tmp_path,
        object(),  # type: ignore[arg-type]
        None,  # type: ignore[arg-type]
        texts=TEXTS,
        test=ScoredRows(LABELS, LABELS.astype(float)),
        temperature=None,
        rule=DecisionRule([0.5]),
        report=lambda step: None,
    )
    assert written.is_native_written
    assert written.warnings[0] == "output.formats: the model is not written as ONNX, object has no `export`"


def test_of_many_test_rows_some_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "_MAX_SCORED_ROWS", 3)
    drawn = exporting._draw_rows(100)
    assert drawn == sorted(set(drawn))
    assert len(drawn) == 3
    assert exporting._draw_rows(3) == [0, 1, 2]


@pytest.fixture
def exported(run: Run, tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    written = export(run, folder, BOTH)
    manifest = {"labels": NAMES, "thresholds": [0.3] * len(NAMES), "formats": written.formats}
    write_manifest(folder, model="bert", preprocessor="tokenizer", **manifest)
    return folder


def test_a_saved_model_reads_the_format_that_is_there(run: Run, exported: Path) -> None:
    assert SavedModel(exported).format == Format.ONNX
    assert SavedModel(exported, Format.ONNX_INT8).format == Format.ONNX_INT8
    (exported / "model.onnx").unlink()
    assert SavedModel(exported).format == Format.ONNX_INT8
    with pytest.raises(UserError, match="does not hold the model as safetensors, only as onnx_int8"):
        SavedModel(exported, Format.SAFETENSORS)
    run.model.save(exported, run.tokenizer)
    write_manifest(exported, formats=["safetensors", "onnx_int8"])
    saved = SavedModel(exported)
    assert saved.format == Format.SAFETENSORS
    np.testing.assert_allclose(saved.predict_probabilities(TEXTS), run.probabilities, rtol=0, atol=1e-5)


def test_a_folder_without_its_formats_is_refused(exported: Path) -> None:
    for path in exported.glob("*.onnx"):
        path.unlink()
    with pytest.raises(UserError, match="does not hold the model as onnx, onnx_int8, only as other files"):
        SavedModel(exported)


WITHOUT_TORCH = """
import json, sys
for name in ("torch", "transformers", "sklearn", "scipy", "joblib", "skops", "matplotlib"):
    sys.modules[name] = None
from pathlib import Path
from trainingtask_trainer.artifacts.saved_model import SavedModel
texts = json.load(sys.stdin)
print(json.dumps(SavedModel(Path(sys.argv[1])).predict_probabilities(texts).tolist()))
"""


def test_predictions_need_neither_torch_nor_scikit_learn(run: Run, exported: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, str(exported)],
        input=json.dumps(TEXTS),
        capture_output=True,
        text=True,
        check=True,
    )
    np.testing.assert_allclose(json.loads(done.stdout), run.probabilities, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.onnx", "no model"),
        ("tokenizer.json", "{}"),
        ("tokenizer.json", None),
    ],
)
def test_a_forged_or_missing_file_is_refused_in_one_sentence(exported: Path, name: str, content: str | None) -> None:
    if content is None:
        (exported / name).unlink()
    else:
        (exported / name).write_text(content)
    with pytest.raises(UserError, match=BROKEN):
        SavedModel(exported)


def test_a_tokenizer_without_truncation_is_refused(exported: Path) -> None:
    tokenizer = json.loads((exported / "tokenizer.json").read_text())
    (exported / "tokenizer.json").write_text(json.dumps(tokenizer | {"truncation": None}))
    with pytest.raises(UserError, match=r"tokenizer\.json does not say how texts are cut and padded"):
        SavedModel(exported)


def test_a_graph_of_other_labels_or_outputs_is_refused(exported: Path, tmp_path: Path) -> None:
    write_manifest(exported, labels=["a"], thresholds=[0.5])
    with pytest.raises(UserError, match="numbers of shape"):
        SavedModel(exported).predict_probabilities(["a"])
    shutil.rmtree(exported)
