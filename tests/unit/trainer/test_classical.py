from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skops.io
from sklearn.preprocessing import FunctionTransformer

from specs import CLASSICAL, changed
from trainingtask_api.dataset import Dataset
from trainingtask_api.task import TrainingTask
from trainingtask_trainer.datasets.support_tickets import SupportTickets
from trainingtask_trainer.errors import UserError
from trainingtask_trainer.metrics import score
from trainingtask_trainer.models.classical import MODEL_FILE, LogisticRegression
from trainingtask_trainer.places import Places
from trainingtask_trainer.preprocessors.tfidf import Tfidf

Make = Callable[..., TrainingTask]
STRATEGIES = ["one_vs_rest", "multi_output", "classifier_chain"]
TEXTS = ["apple pear", "pear plum", "plum apple", "apple apple", "pear pear", "plum plum"] * 3


def fit(
    task: TrainingTask, places: Places, texts: list[str], labels: np.ndarray[Any, Any]
) -> tuple[LogisticRegression, Tfidf, Any]:
    model, tfidf = LogisticRegression(task.spec, places), Tfidf(task.spec, places)
    tfidf.fit(texts)
    names = [str(index) for index in range(labels.shape[1])]
    return model, tfidf, model.fit(tfidf.transform(texts), labels, names, tfidf, lambda step: None)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_learns_saves_and_predicts_the_same(make_task: Make, places: Places, tmp_path: Path, strategy: str) -> None:
    tickets = SupportTickets().load(Dataset(name="support_tickets"), tmp_path).train
    task = make_task(changed(CLASSICAL, model__strategy=strategy))
    model, tfidf, fitted = fit(task, places, tickets.texts[:1000], tickets.labels[:1000])
    unseen = tickets.texts[1000:]
    probabilities = model.predict(tfidf.transform(unseen))
    f1 = score(tickets.labels[1000:], (probabilities > 0.4).astype(np.uint8)).micro.f1
    assert 0.8 < f1 < 0.97  # learnable, and not a toy that anything solves
    assert 0 < fitted.training_loss < 0.3
    assert fitted.global_step > 0

    model.save(tmp_path, tfidf)
    assert [path.name for path in tmp_path.iterdir()] == [MODEL_FILE]
    np.testing.assert_allclose(LogisticRegression.load(tmp_path)(unseen), probabilities)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("varying", [0, 1, 2])
def test_constant_labels_do_not_crash(make_task: Make, places: Places, strategy: str, varying: int) -> None:
    columns = [["apple" in text for text in TEXTS], ["plum" in text for text in TEXTS]][:varying]
    labels = np.column_stack([*columns, np.zeros(len(TEXTS)), np.ones(len(TEXTS))]).astype(np.uint8)
    model, tfidf, fitted = fit(make_task(changed(CLASSICAL, model__strategy=strategy)), places, TEXTS, labels)
    probabilities = model.predict(tfidf.transform(TEXTS))
    assert ((probabilities > 0.5) == labels).all()
    assert np.isfinite(fitted.training_loss)
    assert fitted.warnings == ("2 labels are the same in all training rows: their probability is constant",)


def test_a_model_file_with_foreign_types_is_refused(tmp_path: Path) -> None:
    skops.io.dump(FunctionTransformer(func=print), tmp_path / MODEL_FILE)
    with pytest.raises(skops.io.exceptions.UntrustedTypesFoundException):
        LogisticRegression.load(tmp_path)


def test_texts_without_a_shared_term_are_refused(make_task: Make, places: Places) -> None:
    tfidf = Tfidf(make_task(CLASSICAL).spec, places)
    with pytest.raises(UserError, match="no term stands in 2 of the 2 training texts"):
        tfidf.fit(["apple", "plum"])


def test_tfidf_follows_the_spec(make_task: Make, places: Places) -> None:
    task = make_task(
        changed(CLASSICAL, preprocessor__ngramMax=1, preprocessor__minDocumentFrequency=1, preprocessor__maxFeatures=10)
    )
    tfidf = Tfidf(task.spec, places)
    tfidf.fit(TEXTS)
    assert sorted(tfidf.vectorizer.vocabulary_) == ["apple", "pear", "plum"]
    assert tfidf.arguments() == {"ngramMax": 1, "minDocumentFrequency": 1, "maxFeatures": 10}
