"""Classical models over tf-idf as ONNX: the same probabilities as the trained model gives."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.specs import CLASSICAL, changed
from trainingtask_api.dataset import Dataset
from trainingtask_api.exports import Format
from trainingtask_api.task import TrainingTask
from trainingtask_trainer import registry
from trainingtask_trainer.datasets.base import Split
from trainingtask_trainer.datasets.support_tickets import SupportTickets
from trainingtask_trainer.models.base import TrainingRows
from trainingtask_trainer.models.classical.base import Classical
from trainingtask_trainer.models.formats import NotExportableError
from trainingtask_trainer.models.onnx.model import OnnxModel
from trainingtask_trainer.preprocessors.tfidf import Tfidf
from trainingtask_trainer.volumes import Volumes

Make = Callable[..., TrainingTask]
KINDS = [
    ("logistic_regression", "one_vs_rest"),
    ("logistic_regression", "classifier_chain"),
    ("linear_svc", "one_vs_rest"),
    ("linear_svc", "classifier_chain"),
    ("random_forest", "native"),
    ("random_forest", "one_vs_rest"),
    ("random_forest", "classifier_chain"),
]


@pytest.fixture(scope="module")
def tickets(tmp_path_factory: pytest.TempPathFactory) -> Split:
    return SupportTickets().load(Dataset(name="support_tickets"), tmp_path_factory.mktemp("none")).train


class Fitted:
    """A model that was fitted on the first 200 tickets; one label carries all rows, another none."""

    def __init__(self, task: TrainingTask, volumes: Volumes, tickets: Split, *, constant: bool) -> None:
        texts, labels = list(tickets.texts[:200]), tickets.labels[:200].copy()
        if constant:
            labels[:, 1], labels[:, 3] = 1, 0
        self.tfidf = Tfidf(task.spec, volumes)
        self.tfidf.fit(texts)
        features = self.tfidf.transform(texts)
        self.model: Classical = registry.load("models", task.spec.model.name)(task.spec, volumes)
        names = [str(index) for index in range(labels.shape[1])]
        self.model.fit(TrainingRows(features, labels, features[:100], labels[:100], names), self.tfidf, _ignore, None)


def _ignore(step: object) -> None:
    del step


def fit(
    make_task: Make, volumes: Volumes, tickets: Split, model: str, strategy: str, *, constant: bool = False, **spec: Any
) -> Fitted:
    training = {"training": {"trees": 5} if model == "random_forest" else {}}
    task = make_task(changed(CLASSICAL, model__name=model, model__strategy=strategy, **training | spec))
    return Fitted(task, volumes, tickets, constant=constant)


def assert_same_probabilities(fitted: Fitted, texts: list[str], folder: Path) -> None:
    """Assert that the exported model gives the probabilities of the trained one."""
    expected = fitted.model.predict(fitted.tfidf.transform(texts))
    fitted.model.export(folder, fitted.tfidf)
    exported = OnnxModel(folder, Format.ONNX, 1).predict_probabilities(texts)
    np.testing.assert_allclose(exported, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize(("model", "strategy"), KINDS)
def test_probabilities_are_those_of_the_trained_model(
    make_task: Make, volumes: Volumes, tickets: Split, tmp_path: Path, model: str, strategy: str, constant: bool
) -> None:
    fitted = fit(make_task, volumes, tickets, model, strategy, constant=constant)
    texts = ["", "unknownword", "İstanbul ẞ 😀 !", *tickets.texts[200:400]]
    assert_same_probabilities(fitted, texts, tmp_path)


def test_a_forest_gives_no_probability_above_1(make_task: Make, volumes: Volumes, tmp_path: Path) -> None:
    """The trees' shares are added with 32 bits: 103 times a 103rd is more than 1."""
    rows = Split(
        [f"word{row % 2}" for row in range(200)], np.array([[row % 2, 1 - row % 2] for row in range(200)], np.uint8)
    )
    fitted = fit(make_task, volumes, rows, "random_forest", "native", training={"trees": 103})
    fitted.model.export(tmp_path, fitted.tfidf)
    found = OnnxModel(tmp_path, Format.ONNX, 1).predict_probabilities(rows.texts)
    assert found.max() == 1


def test_character_terms_are_those_of_scikit_learn(
    make_task: Make, volumes: Volumes, tickets: Split, tmp_path: Path
) -> None:
    characters = {"name": "tfidf", "characterNgramMax": 4}
    fitted = fit(make_task, volumes, tickets, "logistic_regression", "one_vs_rest", preprocessor=characters)
    texts = ["", "Straße, ǅ and ﬁ", "a\u00a0b\tc", *tickets.texts[200:250]]
    assert_same_probabilities(fitted, texts, tmp_path)


def test_nearest_neighbours_have_no_onnx_form(
    make_task: Make, volumes: Volumes, tickets: Split, tmp_path: Path
) -> None:
    fitted = fit(make_task, volumes, tickets, "knn", "native")
    with pytest.raises(NotExportableError, match="the model is its training rows"):
        fitted.model.export(tmp_path, fitted.tfidf)


def test_a_vectorizer_of_other_settings_is_not_exported(
    make_task: Make, volumes: Volumes, tickets: Split, tmp_path: Path
) -> None:
    fitted = fit(make_task, volumes, tickets, "logistic_regression", "one_vs_rest")
    fitted.tfidf.vectorizer.set_params(lowercase=False)
    with pytest.raises(NotExportableError, match="of other settings than preprocessor"):
        fitted.model.export(tmp_path, fitted.tfidf)
