"""Transformers as ONNX: the same probabilities as the trained model gives, over tokenizers alone."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from support.fine_tuning import NAMES, Run, fit, spec
from support.tiny_models import FAMILIES
from trainingtask_api.exports import Format
from trainingtask_trainer.models.onnx.model import OnnxModel
from trainingtask_trainer.models.onnx.quantization import quantize
from trainingtask_trainer.models.transformers.classifier import Transformer

MIXED_TEXTS = [
    "",
    "a",
    "the page",
    "slow charged password guide " * 40,
    "Ünïcode 😀 e\u0301",
    "zq x",
    "guide the page slow",
] * 5


def export(run: Run, folder: Path) -> OnnxModel:
    folder.mkdir()
    run.model.export(folder, run.tokenizer)
    return OnnxModel(folder, Format.ONNX, 1)


@pytest.mark.parametrize("family", FAMILIES)
def test_probabilities_are_those_of_the_trained_and_of_the_saved_model(
    tiny_models: Path, tmp_path: Path, family: str
) -> None:
    run = fit(spec("auto", family, epochs=1), tiny_models)
    trained = run.model.predict(run.tokenizer.transform(MIXED_TEXTS))
    exported = export(run, tmp_path / "model").predict_probabilities(MIXED_TEXTS)
    assert exported.shape == (len(MIXED_TEXTS), len(NAMES))
    np.testing.assert_allclose(exported, trained, rtol=0, atol=1e-5)
    run.model.save(tmp_path / "model", run.tokenizer)
    np.testing.assert_allclose(Transformer.load(tmp_path / "model")(MIXED_TEXTS), trained, rtol=0, atol=1e-5)
    reopened = OnnxModel(tmp_path / "model", Format.ONNX, 1)
    np.testing.assert_array_equal(reopened.predict_probabilities(MIXED_TEXTS), exported)


@pytest.mark.parametrize("family", ["bert", "distilbert", "roberta"])
def test_the_last_layer_computes_the_first_token_alone(tiny_models: Path, tmp_path: Path, family: str) -> None:
    export(fit(spec("auto", family, epochs=1), tiny_models), tmp_path / "model")
    model = onnx.load(tmp_path / "model" / "model.onnx")
    names = [node.output[0] for node in model.graph.node if node.op_type == "Erf"]  # of each layer's activation
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    ids = np.ones((3, 5), np.int64)
    values = session.run(names, {"input_ids": ids, "attention_mask": ids})
    assert [value.shape[:2] for value in values] == [(3, 5)] * (len(names) - 1) + [(3, 1)]


def test_eight_bit_weights_give_nearly_the_same_in_a_smaller_file(tiny_models: Path, tmp_path: Path) -> None:
    run = fit(spec(epochs=1), tiny_models)
    exact = export(run, tmp_path / "model").predict_probabilities(MIXED_TEXTS)
    quantize(tmp_path / "model" / "model.onnx", tmp_path / "model" / "model.int8.onnx")
    rounded = OnnxModel(tmp_path / "model", Format.ONNX_INT8, 1).predict_probabilities(MIXED_TEXTS)
    np.testing.assert_allclose(rounded, exact, rtol=0, atol=0.02)
    assert not np.array_equal(rounded, exact)


def test_no_texts_have_no_probabilities(tiny_models: Path, tmp_path: Path) -> None:
    model = export(fit(spec(epochs=1), tiny_models), tmp_path / "model")
    assert model.predict_probabilities([]).shape == (0, len(NAMES))
