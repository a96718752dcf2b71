"""Classical models of scikit-learn, applied to many labels. Kept as one skops file: no pickle."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import sklearn.linear_model
from scipy.sparse import issparse
from scipy.special import expit
from sklearn.ensemble import RandomForestClassifier
from sklearn.svm import LinearSVC
from sklearn.utils.class_weight import compute_sample_weight
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from trainingtask_api.model import Strategy
from trainingtask_api.spec import TrainingTaskSpec
from trainingtask_api.status import Scalar
from trainingtask_trainer import registry
from trainingtask_trainer.errors import Fault, UserError
from trainingtask_trainer.evaluation.metrics import LabelMatrix, Probabilities, binary_cross_entropy
from trainingtask_trainer.models.base import Fitted, Predictor, TrainingRows, label_prior
from trainingtask_trainer.models.classical import neighbors, per_label, skops_files
from trainingtask_trainer.preprocessors.base import Preprocessor, Saving, Vectorizing
from trainingtask_trainer.reporting.progress import Progress, Step
from trainingtask_trainer.runtime.cgroup import cpu_limit
from trainingtask_trainer.volumes import Volumes

MODEL_FILE = "model.skops"
# The training loss is a mean over rows, of which this many say enough; nearest neighbours of all of them take minutes.
_LOSS_ROWS = 1000

State = dict[str, Any]
"""What a fitted model is made of: what skops can write."""
Tell = Callable[[int, int], None]
"""Is told how many parts of the work are done, and how many there are."""


class Classical(ABC):
    """What all classical models have in common; a constant label gets its smoothed share of the rows."""

    preprocessor: ClassVar[str] = "tfidf"
    packages: ClassVar[tuple[str, ...]] = ("scipy", "skops")
    default_strategy: ClassVar[Strategy] = Strategy.ONE_VS_REST

    def __init__(self, spec: TrainingTaskSpec, places: Volumes) -> None:
        del places
        self._training = spec.training
        self._strategy = spec.model.strategy or self.default_strategy
        self._preprocessor = (spec.preprocessor and spec.preprocessor.name) or self.preprocessor
        self._state: State = {}

    @property
    def _chain(self) -> bool:
        return self._strategy == Strategy.CLASSIFIER_CHAIN

    def arguments(self) -> dict[str, Scalar]:
        """Return the arguments after all defaults."""
        chain: dict[str, Scalar] = {"model.chainOrder": "as the data set names the labels"} if self._chain else {}
        return {"model.strategy": self._strategy.value, **chain, **self._arguments()}

    def fit(
        self, rows: TrainingRows, preprocessor: Preprocessor, progress: Progress, checkpoints: Path | None
    ) -> Fitted:
        """Learn the labels that vary; tell progress by label, and within a native forest by trees."""
        del preprocessor, checkpoints
        labels = rows.labels
        varying = np.flatnonzero(labels.any(axis=0) & ~labels.all(axis=0))
        self._state = {"varying": varying, "prior": label_prior(labels)}
        if varying.size:
            # The solvers' vectors are short: threads of the linear algebra would mostly wait for each other.
            with threadpool_limits(1, user_api="blas"):
                self._state["fitted"] = self._fit(rows, varying, _teller(progress, len(labels)))
        sample = np.random.default_rng(self._training.seed).permutation(len(labels))[:_LOSS_ROWS]
        return Fitted(
            global_step=self._steps(self._state["fitted"]) if varying.size else 0,
            training_loss=binary_cross_entropy(labels[sample], self.predict(rows.features[sample])),
            rows_seen=len(labels),
            warnings=(*self._warnings(), *_constant_warnings(labels.shape[1] - varying.size)),
        )

    def predict(self, features: Any) -> Probabilities:
        """Return probabilities of shape [rows, labels]."""
        return self._predict_all(self._state, features)

    def save(self, folder: Path, preprocessor: Preprocessor) -> None:
        """Write the model, and what makes its features, into one file; an encoder has files of its own."""
        state = self._state | {"preprocessor": self._preprocessor}
        if isinstance(preprocessor, Vectorizing):
            state["vectorizer"] = preprocessor.vectorizer
        elif isinstance(preprocessor, Saving):
            preprocessor.save(folder)
        else:
            raise Fault(
                "TrainerCrashed",
                f"preprocessor.name '{self._preprocessor}' cannot be saved with a classical model: its class "
                f"{type(preprocessor).__name__} has neither a `vectorizer` nor `save` and `load`",
            )
        skops_files.dump(state, folder / MODEL_FILE)

    @classmethod
    def load(cls, folder: Path) -> Predictor:
        """Return the predictor of a saved model; a file with unexpected types is refused before it is built."""
        state = skops_files.load(folder / MODEL_FILE)
        transform: Callable[[Sequence[str]], Any]
        if "vectorizer" in state:
            transform = state["vectorizer"].transform
        else:
            transform = registry.load_saved("preprocessors", str(state["preprocessor"])).load(folder)
        return lambda texts: cls._predict_all(state, transform(texts))

    @classmethod
    def _predict_all(cls, state: State, features: Any) -> Probabilities:
        result: Probabilities = np.tile(state["prior"], (features.shape[0], 1))
        if "fitted" in state:
            result[:, state["varying"]] = cls._predict(state["fitted"], features)
        return result

    @abstractmethod
    def _arguments(self) -> dict[str, Scalar]: ...

    @abstractmethod
    def _fit(self, rows: TrainingRows, varying: Any, tell: Tell) -> State:
        """Learn the columns `varying` of the labels."""

    @staticmethod
    @abstractmethod
    def _predict(fitted: State, features: Any) -> Probabilities:
        """Return the probabilities of the labels that vary."""

    def _steps(self, fitted: State) -> int:
        """Return the optimiser's iterations, all labels together."""
        return int(sum(np.sum(estimator.n_iter_) for estimator in fitted["estimators"]))

    def _warnings(self) -> Iterable[str]:
        return ()

    def _fit_each(self, estimator: Any, rows: TrainingRows, varying: Any, tell: Tell) -> State:
        estimators: list[Any] = []
        tell(0, varying.size)
        for fitted in per_label.fit_each(estimator, rows.features, rows.labels[:, varying], chain=self._chain):
            estimators.append(fitted)
            tell(len(estimators), varying.size)
        return {"estimators": estimators, "chain": self._chain}


class LogisticRegression(Classical):
    """Logistic regression per label, with L2 penalty."""

    def __init__(self, spec: TrainingTaskSpec, places: Volumes) -> None:
        super().__init__(spec, places)
        # Weak penalty: tf-idf rows have length 1, so that weights have to be large to say anything. Newton's method
        # reaches the optimum of the default solver with a fraction of its passes over the rows.
        self._estimator = sklearn.linear_model.LogisticRegression(
            C=spec.training.inverse_regularization or 10.0,
            solver="newton-cg",
            tol=1e-5,
            max_iter=1000,
            class_weight=spec.training.pos_weight and spec.training.pos_weight.value,
        )

    def _arguments(self) -> dict[str, Scalar]:
        return {"training.inverseRegularization": self._estimator.C}

    def _fit(self, rows: TrainingRows, varying: Any, tell: Tell) -> State:
        return self._fit_each(self._estimator, rows, varying, tell)

    @staticmethod
    def _predict(fitted: State, features: Any) -> Probabilities:
        return per_label.values(fitted["estimators"], features, chain=fitted["chain"])


class LinearSvc(Classical):
    """Linear support vector machine per label; a sigmoid makes probabilities of its decision values."""

    def __init__(self, spec: TrainingTaskSpec, places: Volumes) -> None:
        super().__init__(spec, places)
        self._estimator = LinearSVC(
            C=spec.training.inverse_regularization or 1.0,
            class_weight=spec.training.pos_weight and spec.training.pos_weight.value,
            random_state=spec.training.seed,
        )

    def _arguments(self) -> dict[str, Scalar]:
        return {
            "training.inverseRegularization": self._estimator.C,
            "model.calibration": "one sigmoid, from the validation rows",
        }

    def _fit(self, rows: TrainingRows, varying: Any, tell: Tell) -> State:
        fitted = self._fit_each(self._estimator, rows, varying, tell)
        decisions = per_label.values(fitted["estimators"], rows.validation_features, chain=self._chain)
        slope, intercept = per_label.sigmoid(decisions, rows.validation_labels[:, varying])
        return fitted | {"slope": slope, "intercept": intercept}

    @staticmethod
    def _predict(fitted: State, features: Any) -> Probabilities:
        decisions = per_label.values(fitted["estimators"], features, chain=fitted["chain"])
        result: Probabilities = expit(fitted["slope"] * decisions + fitted["intercept"])
        return result


class RandomForest(Classical):
    """Random forest, by default one whose trees learn all labels at once."""

    default_strategy = Strategy.NATIVE

    def __init__(self, spec: TrainingTaskSpec, places: Volumes) -> None:
        super().__init__(spec, places)
        self._balanced = spec.training.pos_weight is not None
        self._trees = spec.training.trees or 100
        self._parameters = {
            # A leaf of one row answers 0 or 1. Leaves of two on 10,000 rows of GoEmotions: a sixth of the nodes, a third
            # of the time, micro-F1 higher and macro-F1 0.287 instead of 0.292.
            "min_samples_leaf": 2,
            "n_jobs": cpu_limit(),
            "random_state": spec.training.seed,
        }

    def _arguments(self) -> dict[str, Scalar]:
        return {"training.trees": self._trees, "model.minSamplesLeaf": self._parameters["min_samples_leaf"]}

    def _fit(self, rows: TrainingRows, varying: Any, tell: Tell) -> State:
        # Trees look features up by column, in 32 bits: converted once, not for each forest.
        features = (rows.features.tocsc() if issparse(rows.features) else rows.features).astype(np.float32)
        if self._strategy == Strategy.NATIVE:
            return {"forest": self._grow(features, rows.labels[:, varying], tell)}
        weight = "balanced" if self._balanced else None
        forest = RandomForestClassifier(self._trees, class_weight=weight, **self._parameters)
        return self._fit_each(forest, replace(rows, features=features), varying, tell)

    def _grow(self, features: Any, labels: LabelMatrix, tell: Tell) -> RandomForestClassifier:
        """Grow a forest a few trees at a time: the same trees as at once, in steps that can be told."""
        labels = labels.ravel() if labels.shape[1] == 1 else labels
        weights = compute_sample_weight("balanced", labels) if self._balanced else None
        forest = RandomForestClassifier(warm_start=True, **self._parameters)
        batch = 2 * cpu_limit()
        tell(0, self._trees)
        for done in range(0, self._trees, batch):
            trees = min(done + batch, self._trees)
            with per_label.warning_filters_kept():
                forest.set_params(n_estimators=trees).fit(features, labels, sample_weight=weights)
            tell(trees, self._trees)
        return forest

    @staticmethod
    def _predict(fitted: State, features: Any) -> Probabilities:
        if "estimators" in fitted:
            return per_label.values(fitted["estimators"], features, chain=fitted["chain"])
        with per_label.warning_filters_kept():
            answers = fitted["forest"].predict_proba(features)  # several labels: a list of matrices, absent and present
        answers = answers if isinstance(answers, list) else [answers]
        return np.column_stack([answer[:, 1] for answer in answers])

    def _steps(self, fitted: State) -> int:
        """Return the number of trees, all labels together."""
        return self._trees * len(fitted.get("estimators", [None]))

    def _warnings(self) -> Iterable[str]:
        if self._balanced and self._strategy == Strategy.NATIVE:
            yield (
                "training.posWeight 'balanced' gives a row of a native random_forest one weight, the product over its "
                "labels: with model.strategy 'one_vs_rest' each label is balanced by itself"
            )


class Knn(Classical):
    """The share of the nearest training texts, by cosine similarity, that carry a label."""

    default_strategy = Strategy.NATIVE

    def __init__(self, spec: TrainingTaskSpec, places: Volumes) -> None:
        super().__init__(spec, places)
        self._neighbors = spec.training.neighbors or 5

    def _arguments(self) -> dict[str, Scalar]:
        return {"training.neighbors": self._neighbors, "model.metric": "cosine"}

    def _fit(self, rows: TrainingRows, varying: Any, tell: Tell) -> State:
        """Keep the rows; side by side or at once, labels are looked up among the same neighbours."""
        if self._neighbors > len(rows.labels):
            raise UserError(
                "InvalidSpec", f"training.neighbors {self._neighbors} is more than the {len(rows.labels)} training rows"
            )
        del tell  # at once
        features = rows.features.astype(np.float32)
        return neighbors.Neighbors(features, rows.labels[:, varying], self._neighbors, self._chain)._asdict()

    @staticmethod
    def _predict(fitted: State, features: Any) -> Probabilities:
        return neighbors.shares(neighbors.Neighbors(**fitted), features)

    def _steps(self, fitted: State) -> int:
        """Return 0: nothing is optimised."""
        del fitted
        return 0


def _teller(progress: Progress, rows: int) -> Tell:
    """Return what turns parts done into steps of a single epoch."""

    def tell(done: int, parts: int) -> None:
        progress(Step(epoch=1, epochs=1, step=done, total_steps=parts, rows=rows * done // parts, loss=None))

    return tell


def _constant_warnings(constant: int) -> list[str]:
    if not constant:
        return []
    return [f"{constant} labels are the same in all training rows: their probability is constant"]
