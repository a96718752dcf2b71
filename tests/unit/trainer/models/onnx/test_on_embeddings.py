"""Classical models on an encoder's vectors as ONNX: encoder and model in one file, with the trained model's probabilities."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from google.protobuf.message import EncodeError

from support.specs import CLASSICAL, changed
from support.tiny_models import FAMILIES
from trainingtask_api.exports import Format
from trainingtask_api.task import TrainingTask
from trainingtask_trainer import registry
from trainingtask_trainer.artifacts.saved_model import SavedModel
from trainingtask_trainer.models.base import TrainingRows
from trainingtask_trainer.models.classical.base import Classical
from trainingtask_trainer.models.formats import MODEL_FILES, NotExportableError
from trainingtask_trainer.models.onnx import graphs
from trainingtask_trainer.models.onnx.model import OnnxModel
from trainingtask_trainer.models.onnx.quantization import quantize
from trainingtask_trainer.pipeline import train
from trainingtask_trainer.preprocessors.embedding import Embedding
from trainingtask_trainer.reporting.reporter import Reporter
from trainingtask_trainer.volumes import Volumes

Make = Callable[..., TrainingTask]
Fitted = tuple[Classical, Embedding]
NAMES = ["page", "charged", "all", "none"]
TEXTS = ["the slow page", "a password", "charged", "", "the guide charged the slow page", "page password guide"] * 3
LABELS = np.array([["page" in text, "charged" in text, True, False] for text in TEXTS], np.uint8)
OTHER_TEXTS = ["", "a", "slow charged password guide " * 40, "Ünïcode 😀 e\u0301", "guide the page slow"] * 5
KINDS = [
    ("logistic_regression", "one_vs_rest"),
    ("logistic_regression", "classifier_chain"),
    ("linear_svc", "one_vs_rest"),
    ("random_forest", "native"),
    ("random_forest", "one_vs_rest"),
    ("random_forest", "classifier_chain"),
]


def embedded(model: str, family: str, strategy: str | None = None, **more: Any) -> dict[str, Any]:
    preprocessor = {"name": "embedding", "volumeClaim": "models", "checkpoint": family, "maxLength": 32}
    chosen = {"name": model} | ({"strategy": strategy} if strategy else {})
    training = {"trees": 5} if model == "random_forest" else {}
    return changed(CLASSICAL, model=chosen, preprocessor=preprocessor, training=training, **more)


@pytest.fixture
def tiny(tiny_models: Path, volumes: Volumes) -> Volumes:
    return Volumes(volumes.dataset, volumes.model, volumes.output, tiny_models)


@pytest.fixture
def fit(make_task: Make, tiny: Volumes) -> Callable[..., Fitted]:
    def fit(*args: str) -> Fitted:
        spec = make_task(embedded(*args)).spec
        preprocessor = Embedding(spec, tiny)
        preprocessor.fit(TEXTS)
        features = preprocessor.transform(TEXTS)
        model: Classical = registry.load("models", spec.model.name)(spec, tiny)
        rows = TrainingRows(features, LABELS, features, LABELS, NAMES)
        model.fit(rows, preprocessor, lambda step: None, None)
        return model, preprocessor

    return fit


def assert_same_probabilities(fitted: Fitted, folder: Path) -> None:
    model, preprocessor = fitted
    model.export(folder, preprocessor)
    assert sorted(path.name for path in folder.iterdir() if path.suffix in {".onnx", ".safetensors"}) == ["model.onnx"]
    exported = OnnxModel(folder, Format.ONNX, 1).predict_probabilities(OTHER_TEXTS)
    expected = model.predict(preprocessor.transform(OTHER_TEXTS))
    np.testing.assert_allclose(exported, expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(exported[:, 2:], [[1, 0]] * len(OTHER_TEXTS), rtol=0, atol=0.1)
    assert len(np.unique(exported[:5].round(4), axis=0)) > 1


@pytest.mark.parametrize("family", FAMILIES)
def test_probabilities_are_those_of_the_trained_model_with_each_family(
    fit: Callable[..., Fitted], tmp_path: Path, family: str
) -> None:
    folder = tmp_path / "exported"
    folder.mkdir()
    assert_same_probabilities(fit("logistic_regression", family), folder)


@pytest.mark.parametrize(("model", "strategy"), KINDS)
def test_probabilities_are_those_of_the_trained_model_of_each_kind(
    fit: Callable[..., Fitted], tmp_path: Path, model: str, strategy: str
) -> None:
    folder = tmp_path / "exported"
    folder.mkdir()
    assert_same_probabilities(fit(model, "bert", strategy), folder)


def test_eight_bit_weights_give_nearly_the_same(fit: Callable[..., Fitted], tmp_path: Path) -> None:
    model, preprocessor = fit("logistic_regression", "bert")
    model.export(tmp_path, preprocessor)
    quantize(tmp_path / "model.onnx", tmp_path / "model.int8.onnx")
    exact = OnnxModel(tmp_path, Format.ONNX, 1).predict_probabilities(OTHER_TEXTS)
    rounded = OnnxModel(tmp_path, Format.ONNX_INT8, 1).predict_probabilities(OTHER_TEXTS)
    np.testing.assert_allclose(rounded, exact, rtol=0, atol=0.02)
    assert not np.array_equal(rounded, exact)


def test_nearest_neighbours_have_no_onnx_form(fit: Callable[..., Fitted], tmp_path: Path) -> None:
    model, preprocessor = fit("knn", "bert")
    with pytest.raises(NotExportableError, match="the model is its training rows"):
        model.export(tmp_path, preprocessor)
    assert not list(tmp_path.glob("*.onnx"))


def fail(*args: object) -> None:
    raise EncodeError("Failed to serialize proto")


@pytest.mark.parametrize("limit", [(graphs, "MAX_BYTES", 1000), (onnx, "save_model", fail)])  # of two GiB and more
def test_a_model_that_is_too_large_leaves_no_file(
    make_task: Make, tiny: Volumes, monkeypatch: pytest.MonkeyPatch, limit: Any
) -> None:
    monkeypatch.setattr(*limit)
    output = {"volumeClaim": "models", "formats": ["skops", "onnx"]}
    results = train(
        make_task(embedded("random_forest", "bert", dataset__sampleSize=100, output=output)), tiny, Reporter([])
    )
    assert any("not written as ONNX, it has more than the" in warning for warning in results.warnings)
    written = {path.name for path in (tiny.output / "a-task").iterdir()}
    assert "model.skops" in written
    assert not written & set(MODEL_FILES.values())


def test_a_task_saves_a_model_that_predicts_the_same_labels(make_task: Make, tiny: Volumes) -> None:
    formats = ["skops", "onnx", "onnx_int8"]
    output = {"volumeClaim": "models", "formats": formats, "maxF1Loss": 1}
    task = make_task(embedded("logistic_regression", "bert", dataset__sampleSize=200, output=output))
    results = train(task, tiny, Reporter([]))
    assert [(export.format, export.is_written) for export in results.exports or ()] == [
        ("onnx", True),
        ("onnx_int8", True),
    ]
    folder = tiny.output / "a-task"
    own, exported = (SavedModel(folder, kind) for kind in (Format.SKOPS, Format.ONNX))
    texts = ["My card was charged twice", "I forgot my password", "the app is slow and crashes", ""]
    assert [prediction.labels.keys() for prediction in exported.predict(texts)] == [
        prediction.labels.keys() for prediction in own.predict(texts)
    ]
    np.testing.assert_allclose(
        exported.predict_probabilities(texts), own.predict_probabilities(texts), rtol=0, atol=1e-5
    )
