import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.linear_model
import skops.io
from scipy.sparse import csr_matrix
from sklearn.base import ClassifierMixin
from sklearn.ensemble import RandomForestClassifier
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import ClassifierChain, MultiOutputClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import FunctionTransformer
from sklearn.svm import LinearSVC

from support.specs import CLASSICAL, changed
from trainingtask_api.capabilities import CLASSICAL_MODELS, MODELS
from trainingtask_api.dataset import Dataset
from trainingtask_api.task import TrainingTask
from trainingtask_trainer import registry
from trainingtask_trainer.datasets.base import LabelMatrix, Split
from trainingtask_trainer.datasets.support_tickets import SupportTickets
from trainingtask_trainer.errors import Fault, Interrupted, UserError
from trainingtask_trainer.evaluation.metrics import Probabilities
from trainingtask_trainer.models.base import FitResult, TrainingRows
from trainingtask_trainer.models.classical import estimators, neighbors
from trainingtask_trainer.models.classical.base import MODEL_FILE, Classical
from trainingtask_trainer.models.classical.estimators import LogisticRegression
from trainingtask_trainer.preprocessors.tfidf import Tfidf
from trainingtask_trainer.reporting.progress import Step
from trainingtask_trainer.runtime import workers
from trainingtask_trainer.runtime.cgroup import get_cpu_limit
from trainingtask_trainer.runtime.signals import InterruptHandler
from trainingtask_trainer.volumes import Volumes

Make = Callable[..., TrainingTask]
WRAPPERS = {
    "one_vs_rest": OneVsRestClassifier,
    "multi_output": MultiOutputClassifier,
    "classifier_chain": ClassifierChain,
}
KINDS = [
    (model, strategy)
    for model in CLASSICAL_MODELS
    for strategy in (["native"] if MODELS[model].is_native_multi_label else []) + list(WRAPPERS)
]
TEXTS = ["apple pear", "pear plum", "plum apple", "apple apple", "pear pear", "plum plum"] * 3


@pytest.fixture(scope="module")
def tickets(tmp_path_factory: pytest.TempPathFactory) -> Split:
    return SupportTickets().load(Dataset(name="support_tickets"), tmp_path_factory.mktemp("none")).train


def spec_of(model: str, strategy: str | None = None, **training: Any) -> dict[str, Any]:
    forest = {"trees": 20} if model == "random_forest" else {}
    chosen = {"model__strategy": strategy} if strategy else {}
    return changed(CLASSICAL, model__name=model, training=forest | training, **chosen)


class Run:
    """A model that was fitted on texts, as a run does it; the first 100 rows are its validation rows."""

    def __init__(self, task: TrainingTask, volumes: Volumes, texts: list[str], labels: LabelMatrix) -> None:
        self.steps: list[Step] = []
        self.tfidf = Tfidf(task.spec, volumes)
        self.tfidf.fit(texts)
        self.features = self.tfidf.transform(texts)
        self.model: Classical = registry.load("models", task.spec.model.name)(task.spec, volumes)
        names = [str(index) for index in range(labels.shape[1])]
        rows = TrainingRows(self.features, labels, self.features[:100], labels[:100], names)
        self.fitted: FitResult = self.model.fit(rows, self.tfidf, self.steps.append, None)

    def predict(self, texts: list[str]) -> Probabilities:
        return self.model.predict(self.tfidf.transform(texts))


def best_f1(truth: LabelMatrix, probabilities: Probabilities) -> float:
    """Return the highest micro-F1 over thresholds."""
    wanted = [probabilities >= value for value in np.unique(probabilities.round(3))]
    return max(float(2 * (truth * found).sum() / (truth.sum() + found.sum())) for found in wanted if found.any())


@pytest.mark.parametrize(("model", "strategy"), KINDS)
def test_learns_saves_and_predicts_the_same(
    make_task: Make, volumes: Volumes, tmp_path: Path, tickets: Split, model: str, strategy: str
) -> None:
    run = Run(make_task(spec_of(model, strategy)), volumes, tickets.texts[:1000], tickets.labels[:1000])
    unseen = tickets.texts[1000:]
    probabilities = run.predict(unseen)
    assert 0 <= probabilities.min() < probabilities.max() <= 1
    # Learnable, and not a toy that anything solves; never a label, always one or all score at most 0.33.
    assert 0.65 < best_f1(tickets.labels[1000:], probabilities) < 0.97
    assert 0 < run.fitted.training_loss < 0.35
    assert run.model.arguments()["model.strategy"] == strategy

    run.model.save(tmp_path, run.tfidf)
    assert [path.name for path in tmp_path.iterdir()] == [MODEL_FILE]
    np.testing.assert_allclose(type(run.model).load(tmp_path)(unseen), probabilities, rtol=1e-7)


@pytest.mark.parametrize(("model", "strategy"), KINDS)
@pytest.mark.parametrize("varying", [0, 1, 2])
def test_constant_labels_do_not_crash(
    make_task: Make, volumes: Volumes, model: str, strategy: str, varying: int
) -> None:
    columns = [["apple" in text for text in TEXTS], ["plum" in text for text in TEXTS]][:varying]
    labels = np.column_stack([*columns, np.zeros(len(TEXTS)), np.ones(len(TEXTS))]).astype(np.uint8)
    run = Run(make_task(spec_of(model, strategy)), volumes, TEXTS, labels)
    probabilities = run.predict(TEXTS)
    assert ((probabilities > 0.4) == labels).all()
    assert np.isfinite(run.fitted.training_loss)
    assert run.fitted.warnings == ("2 labels are the same in all training rows: their probability is constant",)


def plain(model: str, strategy: str) -> ClassifierMixin:
    """Return what a person would write with scikit-learn alone."""
    estimator = {
        "random_forest": RandomForestClassifier(20, min_samples_leaf=2, random_state=42),
        "knn": KNeighborsClassifier(5, metric="cosine"),
        "linear_svc": LinearSVC(random_state=42),
        "logistic_regression": sklearn.linear_model.LogisticRegression(C=10, max_iter=1000, tol=1e-7),
    }[model]
    return estimator if strategy == "native" else WRAPPERS[strategy](estimator)


def plain_values(classifier: Any, features: Any) -> Any:
    if hasattr(classifier, "predict_proba"):
        predicted = classifier.predict_proba(features)
        return np.column_stack([part[:, 1] for part in predicted]) if isinstance(predicted, list) else predicted
    if hasattr(classifier, "decision_function"):
        return classifier.decision_function(features)
    return np.column_stack([estimator.decision_function(features) for estimator in classifier.estimators_])


@pytest.mark.parametrize(("model", "strategy"), KINDS)
def test_is_the_model_of_plain_scikit_learn(
    make_task: Make, volumes: Volumes, tickets: Split, model: str, strategy: str
) -> None:
    labels = tickets.labels[:600]
    run = Run(make_task(spec_of(model, strategy)), volumes, tickets.texts[:600], labels)
    unseen = run.tfidf.transform(tickets.texts[600:800])
    expected = plain_values(plain(model, strategy).fit(run.features, labels), unseen)
    found = run.model.predict(unseen)
    if model == "linear_svc":
        # Any two decision values keep their order, so that every F1 at a tuned threshold does.
        order = np.argsort(expected, axis=None)
        gaps = np.diff(expected.ravel()[order]) > 1e-6
        assert (np.diff(found.ravel()[order])[gaps] > 0).all()
    elif model == "knn":
        # Of neighbours that are equally far either may be the fifth.
        assert np.mean(np.abs(found - expected) < 1e-6) > 0.99
    else:
        np.testing.assert_allclose(found, expected, atol=1e-3 if model == "logistic_regression" else 1e-9)


@pytest.mark.parametrize(("model", "strategy"), KINDS)
def test_tells_how_far_it_is(make_task: Make, volumes: Volumes, tickets: Split, model: str, strategy: str) -> None:
    run = Run(make_task(spec_of(model, strategy)), volumes, tickets.texts[:200], tickets.labels[:200])
    if model == "knn":
        assert run.steps == []  # nothing to wait for
        return
    parts = 20 if strategy == "native" else tickets.labels.shape[1]
    per_step = min(20, 2 * get_cpu_limit()) if strategy == "native" else 1
    assert [step.step for step in run.steps] == [0, *range(per_step, parts, per_step), parts]
    assert {step.total_steps for step in run.steps} == {parts}
    assert (run.steps[0].rows, run.steps[-1].rows) == (0, 200)


@pytest.mark.parametrize("model", ["linear_svc", "knn"])
def test_workers_train_and_predict_the_same(
    make_task: Make, volumes: Volumes, tickets: Split, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    task, texts, labels = make_task(spec_of(model)), tickets.texts[:300], tickets.labels[:300]
    here = Run(task, volumes, texts, labels).predict(texts)
    monkeypatch.setattr(workers, "_MIN_SECONDS", 0)
    monkeypatch.setattr(neighbors, "_BLOCK_BYTES", 4 * 300 * 100)  # three blocks
    for module in (estimators, neighbors):
        monkeypatch.setattr(module, "get_cpu_limit", lambda: 2)
    np.testing.assert_array_equal(Run(task, volumes, texts, labels).predict(texts), here)


def test_a_long_fit_stops_when_told(make_task: Make, volumes: Volumes, tickets: Split) -> None:
    steps: list[Step] = []

    def progress(step: Step) -> None:
        steps.append(step)
        if len(steps) == 2:
            threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM)).start()

    spec = make_task(spec_of("random_forest", trees=10_000)).spec
    tfidf, model = Tfidf(spec, volumes), registry.load("models", "random_forest")(spec, volumes)
    tfidf.fit(tickets.texts)
    features = tfidf.transform(tickets.texts)
    rows = TrainingRows(features, tickets.labels, features, tickets.labels, [])
    with InterruptHandler(), pytest.raises(Interrupted):
        model.fit(rows, tfidf, progress, None)
    assert len(steps) > 1
    assert steps[-1].step < 5000


def test_balanced_weights_find_more_of_a_rare_label(make_task: Make, volumes: Volumes, tickets: Split) -> None:
    texts = tickets.texts[:400]
    labels = tickets.labels[:400, :2].copy()
    labels[np.flatnonzero(labels[:, 0])[5:], 0] = 0  # rare
    for model, strategy in [kind for kind in KINDS if kind[0] != "knn"]:
        usual = Run(make_task(spec_of(model, strategy)), volumes, texts, labels)
        balanced = Run(make_task(spec_of(model, strategy, posWeight="balanced")), volumes, texts, labels)
        found = [(run.predict(texts)[:, 0] > 0.2).sum() for run in (usual, balanced)]
        assert found[0] < found[1], (model, strategy)
        native_forest = (model, strategy) == ("random_forest", "native")
        assert any("'one_vs_rest'" in warning for warning in balanced.fitted.warnings) == native_forest


def test_hyperparameters_come_from_the_spec(make_task: Make, volumes: Volumes) -> None:
    labels = np.array([["apple" in text, "plum" in text] for text in TEXTS], dtype=np.uint8)
    wanted = {
        "random_forest": ({"trees": 7}, "training.trees", 7),
        "knn": ({"neighbors": 3}, "training.neighbors", 3),
        "linear_svc": ({"inverseRegularization": 0.25}, "training.inverseRegularization", 0.25),
        "logistic_regression": ({"inverseRegularization": 2.5}, "training.inverseRegularization", 2.5),
    }
    for model, (training, path, value) in wanted.items():
        run = Run(make_task(spec_of(model, **training)), volumes, TEXTS, labels)
        assert run.model.arguments()[path] == value
        usual = Run(make_task(spec_of(model)), volumes, TEXTS, labels)
        assert not np.allclose(run.predict(TEXTS), usual.predict(TEXTS)), model


def test_more_neighbours_than_rows_are_refused(make_task: Make, volumes: Volumes) -> None:
    labels = np.array([["apple" in text] for text in TEXTS], dtype=np.uint8)
    with pytest.raises(UserError, match="neighbors 19 is more than the 18 training rows"):
        Run(make_task(spec_of("knn", neighbors=19)), volumes, TEXTS, labels)


def test_decision_values_become_probabilities_that_fit(make_task: Make, volumes: Volumes, tickets: Split) -> None:
    run = Run(make_task(spec_of("linear_svc")), volumes, tickets.texts[:800], tickets.labels[:800])
    probabilities, truth = run.predict(tickets.texts[800:]), tickets.labels[800:]
    for low in (0.0, 0.2, 0.8):
        inside = (probabilities >= low) & (probabilities < low + 0.2)
        # Of the decisions that are said to be right in 20 % of cases, about 20 % are.
        assert abs(truth[inside].mean() - probabilities[inside].mean()) < 0.12


def test_validation_rows_without_any_label_calibrate_too(make_task: Make, volumes: Volumes, tickets: Split) -> None:
    task = make_task(spec_of("linear_svc"))
    tfidf, model = Tfidf(task.spec, volumes), registry.load("models", "linear_svc")(task.spec, volumes)
    tfidf.fit(tickets.texts[:300])
    features, labels = tfidf.transform(tickets.texts[:300]), tickets.labels[:300]
    nothing = np.zeros_like(labels[:10])
    model.fit(TrainingRows(features, labels, features[:10], nothing, ["a"] * 8), tfidf, lambda step: None, None)
    probabilities = model.predict(features)
    # The order of the decision values is that of the labels still.
    assert probabilities[labels == 1].mean() > probabilities[labels == 0].mean()


def test_a_model_file_with_foreign_types_is_refused(tmp_path: Path) -> None:
    skops.io.dump(FunctionTransformer(func=print), tmp_path / MODEL_FILE)
    with pytest.raises(skops.io.exceptions.UntrustedTypesFoundException):
        LogisticRegression.load(tmp_path)


def test_a_preprocessor_that_cannot_be_saved_is_named(make_task: Make, volumes: Volumes, tmp_path: Path) -> None:
    class Lengths:
        def transform(self, texts: list[str]) -> Any:
            return csr_matrix([[len(text)] for text in texts])

    model = LogisticRegression(make_task(CLASSICAL).spec, volumes)
    with pytest.raises(Fault, match="Lengths has neither a `vectorizer` nor `save` and `load`"):
        model.save(tmp_path, Lengths())  # type: ignore[arg-type]


def test_texts_without_a_shared_term_are_refused(make_task: Make, volumes: Volumes) -> None:
    tfidf = Tfidf(make_task(CLASSICAL).spec, volumes)
    with pytest.raises(UserError, match="no term stands in 2 of the 2 training texts"):
        tfidf.fit(["apple", "plum"])


def test_tfidf_follows_the_spec(make_task: Make, volumes: Volumes) -> None:
    task = make_task(
        changed(CLASSICAL, preprocessor__ngramMax=1, preprocessor__minDocumentFrequency=1, preprocessor__maxFeatures=10)
    )
    tfidf = Tfidf(task.spec, volumes)
    tfidf.fit(TEXTS)
    assert sorted(tfidf.vectorizer.vocabulary_) == ["apple", "pear", "plum"]
    assert json.loads(json.dumps(tfidf.arguments())) == {
        "ngramMax": 1,
        "characterNgramMax": "none",
        "minDocumentFrequency": 1,
        "maxFeatures": 10,
    }


def test_tfidf_keeps_what_is_no_long_word(make_task: Make, volumes: Volumes) -> None:
    tfidf = Tfidf(make_task(changed(CLASSICAL, preprocessor__ngramMax=1)).spec, volumes)
    tfidf.fit(["I am :( 😀", "I am :( 😀"])
    assert sorted(tfidf.vectorizer.vocabulary_) == ["(", ":", "am", "i", "😀"]


def test_character_ngrams_stand_beside_words(make_task: Make, volumes: Volumes, tmp_path: Path) -> None:
    spec = changed(CLASSICAL, preprocessor__characterNgramMax=3)
    labels = np.array([["apple" in text, "plum" in text] for text in TEXTS], dtype=np.uint8)
    run = Run(make_task(spec), volumes, TEXTS, labels)
    names = set(run.tfidf.vectorizer.get_feature_names_out())
    assert {"words__apple", "words__apple pear", "characters__pp", "characters__app"} <= names
    assert not any(name.startswith("characters__appl") for name in names)
    # A word that was never seen, with parts that were.
    probabilities = run.predict(["applepie"])[0]
    assert probabilities[0] > 0.6 > probabilities[1]
    run.model.save(tmp_path, run.tfidf)
    np.testing.assert_allclose(LogisticRegression.load(tmp_path)(["applepie"])[0], probabilities)


def test_the_training_texts_are_cut_into_terms_once(
    make_task: Make, volumes: Volumes, monkeypatch: pytest.MonkeyPatch
) -> None:
    tfidf = Tfidf(make_task(CLASSICAL).spec, volumes)
    tfidf.fit(TEXTS)
    again = tfidf.vectorizer.transform(TEXTS)
    monkeypatch.setattr(tfidf.vectorizer, "transform", None)
    np.testing.assert_allclose(tfidf.transform(TEXTS).toarray(), again.toarray())
