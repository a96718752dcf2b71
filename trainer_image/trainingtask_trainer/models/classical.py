"""Classical models of scikit-learn, made for one label and applied to many. Kept as one skops file: no pickle."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import sklearn.linear_model
from sklearn.base import ClassifierMixin
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import ClassifierChain, MultiOutputClassifier

from trainingtask_api.spec import Strategy, TrainingTaskSpec
from trainingtask_api.status import Scalar
from trainingtask_trainer.errors import Fault
from trainingtask_trainer.metrics import LabelMatrix, Probabilities, binary_cross_entropy
from trainingtask_trainer.models import skops_files
from trainingtask_trainer.models.base import Fitted, Predictor, label_prior
from trainingtask_trainer.places import Places
from trainingtask_trainer.preprocessors.base import Preprocessor
from trainingtask_trainer.preprocessors.tfidf import Tfidf
from trainingtask_trainer.progress import Progress

MODEL_FILE = "model.skops"
_WRAPPERS = {
    Strategy.ONE_VS_REST: OneVsRestClassifier,
    Strategy.MULTI_OUTPUT: MultiOutputClassifier,
    Strategy.CLASSIFIER_CHAIN: ClassifierChain,
}


class LogisticRegression:
    """Logistic regression per label, with L2 penalty."""

    preprocessor: ClassVar[str] = "tfidf"
    packages: ClassVar[tuple[str, ...]] = ("scipy", "skops")

    def __init__(self, spec: TrainingTaskSpec, places: Places) -> None:
        del places
        self._strategy = spec.model.strategy or Strategy.ONE_VS_REST
        # Weak penalty: tf-idf rows have length 1, so that weights have to be large to say anything.
        self._estimator = sklearn.linear_model.LogisticRegression(
            C=10.0, max_iter=1000, random_state=spec.training.seed % 2**32
        )
        self._state: dict[str, Any] = {}

    def arguments(self) -> dict[str, Scalar]:
        """Return the arguments after all defaults."""
        return {
            "model.strategy": self._strategy.value,
            "model.inverseRegularization": self._estimator.C,
            "model.maxIterations": self._estimator.max_iter,
        }

    def fit(
        self,
        features: Any,
        labels: LabelMatrix,
        label_names: Sequence[str],
        preprocessor: Preprocessor,
        progress: Progress,
    ) -> Fitted:
        """Fit one classifier per label that varies; a constant label gets its smoothed share of the rows."""
        del label_names, preprocessor, progress
        varying = np.flatnonzero(labels.any(axis=0) & ~labels.all(axis=0))
        wrapper: ClassifierMixin | None = None
        if varying.size:
            wrapper = _WRAPPERS[self._strategy](self._estimator)
            wrapper.fit(features, labels[:, varying])
        self._state = {"classifier": wrapper, "varying": varying, "prior": label_prior(labels)}
        return Fitted(
            global_step=_iterations(wrapper),
            training_loss=binary_cross_entropy(labels, self.predict(features)),
            rows_seen=len(labels),
            warnings=tuple(_constant_warnings(labels.shape[1] - varying.size)),
        )

    def predict(self, features: Any) -> Probabilities:
        """Return probabilities of shape [rows, labels]."""
        return _probabilities(self._state, features)

    def save(self, folder: Path, preprocessor: Preprocessor) -> None:
        """Write vectorizer and classifiers into one file."""
        if not isinstance(preprocessor, Tfidf):
            raise Fault("TrainerCrashed", f"{type(preprocessor).__name__} cannot be saved with a classical model")
        skops_files.dump(self._state | {"vectorizer": preprocessor.vectorizer}, folder / MODEL_FILE)

    @staticmethod
    def load(folder: Path) -> Predictor:
        """Return the predictor of a saved model; a file with unexpected types is refused before it is built."""
        state = skops_files.load(folder / MODEL_FILE)

        def predict(texts: Sequence[str]) -> Probabilities:
            return _probabilities(state, state["vectorizer"].transform(texts))

        return predict


def _probabilities(state: dict[str, Any], features: Any) -> Probabilities:
    result: Probabilities = np.tile(state["prior"], (features.shape[0], 1))
    varying = state["varying"]
    if varying.size:
        predicted = state["classifier"].predict_proba(features)
        if isinstance(predicted, list):  # MultiOutputClassifier: per label a matrix [rows, 2] for absent and present
            predicted = np.column_stack([part[:, 1] for part in predicted])
        # With a single label OneVsRestClassifier answers [rows, 2] as well.
        result[:, varying] = predicted[:, -varying.size :]
    return result


def _iterations(wrapper: Any) -> int:
    """Return the solver's iterations, all labels together."""
    return int(sum(np.sum(estimator.n_iter_) for estimator in getattr(wrapper, "estimators_", ())))


def _constant_warnings(constant: int) -> list[str]:
    if not constant:
        return []
    return [f"{constant} labels are the same in all training rows: their probability is constant"]
