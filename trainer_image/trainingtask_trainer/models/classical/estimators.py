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
from trainingtask_api.reasons import Reason
from trainingtask_api.spec import TrainingTaskSpec
from trainingtask_api.status import Scalar
from trainingtask_trainer import registry
from trainingtask_trainer.datasets.base import LabelMatrix
from trainingtask_trainer.errors import Fault, UserError
from trainingtask_trainer.evaluation.metrics import Probabilities, binary_cross_entropy, estimate_label_prior
from trainingtask_trainer.models.base import FitResult, Predictor, TrainingRows
from trainingtask_trainer.models.classical import neighbors, per_label, skops_files
from trainingtask_trainer.preprocessors.base import HasVectorizer, Preprocessor, Saveable
from trainingtask_trainer.reporting.progress import Progress, Step
from trainingtask_trainer.runtime.cgroup import get_cpu_limit
from trainingtask_trainer.volumes import Volumes

MODEL_FILE = "model.skops"
# The training loss is a mean over rows, of which this many say enough; nearest neighbours of all of them take minutes.
_LOSS_ROWS = 1000

FittedState = dict[str, Any]
"""What a fitted model is made of: what skops can write."""
PartReporter = Callable[[int, int], None]
"""Is told how many parts of the work are done, and how many there are."""


class Classical(ABC):
    """What all classical models have in common; a constant label gets its smoothed share of the rows."""

    preprocessor: ClassVar[str] = "tfidf"
    packages: ClassVar[tuple[str, ...]] = ("scipy", "skops")
    default_strategy: ClassVar[Strategy] = Strategy.ONE_VS_REST

    def __init__(self, spec: TrainingTaskSpec, volumes: Volumes) -> None:
        del volumes
        self._training = spec.training
        self._strategy = spec.model.strategy or self.default_strategy
        self._preprocessor = (spec.preprocessor and spec.preprocessor.name) or self.preprocessor
        self._state: FittedState = {}

    @property
    def _is_chain(self) -> bool:
        return self._strategy == Strategy.CLASSIFIER_CHAIN

    def arguments(self) -> dict[str, Scalar]:
        """Return the arguments after all defaults."""
        chain: dict[str, Scalar] = {"model.chainOrder": "as the data set names the labels"} if self._is_chain else {}
        return {"model.strategy": self._strategy.value, **chain, **self._own_arguments()}

    def fit(
        self, rows: TrainingRows, preprocessor: Preprocessor, progress: Progress, checkpoints: Path | None
    ) -> FitResult:
        """Learn the labels that vary; tell progress by label, and within a native forest by trees."""
        del preprocessor, checkpoints
        labels = rows.labels
        varying = np.flatnonzero(labels.any(axis=0) & ~labels.all(axis=0))
        self._state = {"varying": varying, "prior": estimate_label_prior(labels)}
        if varying.size:
            # The solvers' vectors are short: threads of the linear algebra would mostly wait for each other.
            with threadpool_limits(1, user_api="blas"):
                self._state["fitted"] = self._fit(rows, varying, _create_part_reporter(progress, len(labels)))
        sample = np.random.default_rng(self._training.seed).permutation(len(labels))[:_LOSS_ROWS]
        return FitResult(
            global_step=self._count_steps(self._state["fitted"]) if varying.size else 0,
            training_loss=binary_cross_entropy(labels[sample], self.predict(rows.features[sample])),
            rows_seen=len(labels),
            warnings=(*self._list_warnings(), *_describe_constant_labels(labels.shape[1] - varying.size)),
        )

    def predict(self, features: Any) -> Probabilities:
        """Return probabilities of shape [rows, labels]."""
        return self._predict_all_labels(self._state, features)

    def save(self, folder: Path, preprocessor: Preprocessor) -> None:
        """Write the model, and what makes its features, into one file; an encoder has files of its own."""
        state = self._state | {"preprocessor": self._preprocessor}
        if isinstance(preprocessor, HasVectorizer):
            state["vectorizer"] = preprocessor.vectorizer
        elif isinstance(preprocessor, Saveable):
            preprocessor.save(folder)
        else:
            raise Fault(
                Reason.TRAINER_CRASHED,
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
            transform = registry.load_for_saved_model("preprocessors", str(state["preprocessor"])).load(folder)
        return lambda texts: cls._predict_all_labels(state, transform(texts))

    @classmethod
    def _predict_all_labels(cls, state: FittedState, features: Any) -> Probabilities:
        result: Probabilities = np.tile(state["prior"], (features.shape[0], 1))
        if "fitted" in state:
            result[:, state["varying"]] = cls._predict(state["fitted"], features)
        return result

    @abstractmethod
    def _own_arguments(self) -> dict[str, Scalar]: ...

    @abstractmethod
    def _fit(self, rows: TrainingRows, varying: Any, tell: PartReporter) -> FittedState:
        """Learn the columns `varying` of the labels."""

    @staticmethod
    @abstractmethod
    def _predict(fitted: FittedState, features: Any) -> Probabilities:
        """Return the probabilities of the labels that vary."""

    def _count_steps(self, fitted: FittedState) -> int:
        """Return the optimiser's iterations, all labels together."""
        return int(sum(np.sum(estimator.n_iter_) for estimator in fitted["estimators"]))

    def _list_warnings(self) -> Iterable[str]:
        return ()

    def _fit_per_label(self, estimator: Any, rows: TrainingRows, varying: Any, tell: PartReporter) -> FittedState:
        estimators: list[Any] = []
        tell(0, varying.size)
        for fitted in per_label.fit_per_label(estimator, rows.features, rows.labels[:, varying], chain=self._is_chain):
            estimators.append(fitted)
            tell(len(estimators), varying.size)
        return {"estimators": estimators, "chain": self._is_chain}


class LogisticRegression(Classical):
    """Logistic regression per label, with L2 penalty."""

    def __init__(self, spec: TrainingTaskSpec, volumes: Volumes) -> None:
        super().__init__(spec, volumes)
        # Weak penalty: tf-idf rows have length 1, so that weights have to be large to say anything. Newton's method
        # reaches the optimum of the default solver with a fraction of its passes over the rows.
        self._estimator = sklearn.linear_model.LogisticRegression(
            C=spec.training.inverse_regularization or 10.0,
            solver="newton-cg",
            tol=1e-5,
            max_iter=1000,
            class_weight=spec.training.pos_weight and spec.training.pos_weight.value,
        )

    def _own_arguments(self) -> dict[str, Scalar]:
        return {"training.inverseRegularization": self._estimator.C}

    def _fit(self, rows: TrainingRows, varying: Any, tell: PartReporter) -> FittedState:
        return self._fit_per_label(self._estimator, rows, varying, tell)

    @staticmethod
    def _predict(fitted: FittedState, features: Any) -> Probabilities:
        return per_label.predict_per_label(fitted["estimators"], features, chain=fitted["chain"])


class LinearSvc(Classical):
    """Linear support vector machine per label; a sigmoid makes probabilities of its decision values."""

    def __init__(self, spec: TrainingTaskSpec, volumes: Volumes) -> None:
        super().__init__(spec, volumes)
        self._estimator = LinearSVC(
            C=spec.training.inverse_regularization or 1.0,
            class_weight=spec.training.pos_weight and spec.training.pos_weight.value,
            random_state=spec.training.seed,
        )

    def _own_arguments(self) -> dict[str, Scalar]:
        return {
            "training.inverseRegularization": self._estimator.C,
            "model.calibration": "one sigmoid, from the validation rows",
        }

    def _fit(self, rows: TrainingRows, varying: Any, tell: PartReporter) -> FittedState:
        fitted = self._fit_per_label(self._estimator, rows, varying, tell)
        decisions = per_label.predict_per_label(fitted["estimators"], rows.validation_features, chain=self._is_chain)
        slope, intercept = per_label.fit_sigmoid(decisions, rows.validation_labels[:, varying])
        return fitted | {"slope": slope, "intercept": intercept}

    @staticmethod
    def _predict(fitted: FittedState, features: Any) -> Probabilities:
        decisions = per_label.predict_per_label(fitted["estimators"], features, chain=fitted["chain"])
        result: Probabilities = expit(fitted["slope"] * decisions + fitted["intercept"])
        return result


class RandomForest(Classical):
    """Random forest, by default one whose trees learn all labels at once."""

    default_strategy = Strategy.NATIVE

    def __init__(self, spec: TrainingTaskSpec, volumes: Volumes) -> None:
        super().__init__(spec, volumes)
        self._balanced = spec.training.pos_weight is not None
        self._trees = spec.training.trees or 100
        self._parameters = {
            # A leaf of one row answers 0 or 1. Leaves of two on 10,000 rows of GoEmotions: a sixth of the nodes, a third
            # of the time, micro-F1 higher and macro-F1 0.287 instead of 0.292.
            "min_samples_leaf": 2,
            "n_jobs": get_cpu_limit(),
            "random_state": spec.training.seed,
        }

    def _own_arguments(self) -> dict[str, Scalar]:
        return {"training.trees": self._trees, "model.minSamplesLeaf": self._parameters["min_samples_leaf"]}

    def _fit(self, rows: TrainingRows, varying: Any, tell: PartReporter) -> FittedState:
        # Trees look features up by column, in 32 bits: converted once, not for each forest.
        features = (rows.features.tocsc() if issparse(rows.features) else rows.features).astype(np.float32)
        if self._strategy == Strategy.NATIVE:
            return {"forest": self._fit_forest(features, rows.labels[:, varying], tell)}
        weight = "balanced" if self._balanced else None
        forest = RandomForestClassifier(self._trees, class_weight=weight, **self._parameters)
        return self._fit_per_label(forest, replace(rows, features=features), varying, tell)

    def _fit_forest(self, features: Any, labels: LabelMatrix, tell: PartReporter) -> RandomForestClassifier:
        """Grow a forest a few trees at a time: the same trees as at once, in steps that can be told."""
        labels = labels.ravel() if labels.shape[1] == 1 else labels
        weights = compute_sample_weight("balanced", labels) if self._balanced else None
        forest = RandomForestClassifier(warm_start=True, **self._parameters)
        batch = 2 * get_cpu_limit()
        tell(0, self._trees)
        for done in range(0, self._trees, batch):
            trees = min(done + batch, self._trees)
            with per_label.restore_warning_filters():
                forest.set_params(n_estimators=trees).fit(features, labels, sample_weight=weights)
            tell(trees, self._trees)
        return forest

    @staticmethod
    def _predict(fitted: FittedState, features: Any) -> Probabilities:
        if "estimators" in fitted:
            return per_label.predict_per_label(fitted["estimators"], features, chain=fitted["chain"])
        with per_label.restore_warning_filters():
            answers = fitted["forest"].predict_proba(features)  # several labels: a list of matrices, absent and present
        answers = answers if isinstance(answers, list) else [answers]
        return np.column_stack([answer[:, 1] for answer in answers])

    def _count_steps(self, fitted: FittedState) -> int:
        """Return the number of trees, all labels together."""
        return self._trees * len(fitted.get("estimators", [None]))

    def _list_warnings(self) -> Iterable[str]:
        if self._balanced and self._strategy == Strategy.NATIVE:
            yield (
                "training.posWeight 'balanced' gives a row of a native random_forest one weight, the product over its "
                "labels: with model.strategy 'one_vs_rest' each label is balanced by itself"
            )


class Knn(Classical):
    """The share of the nearest training texts, by cosine similarity, that carry a label."""

    default_strategy = Strategy.NATIVE

    def __init__(self, spec: TrainingTaskSpec, volumes: Volumes) -> None:
        super().__init__(spec, volumes)
        self._neighbors = spec.training.neighbors or 5

    def _own_arguments(self) -> dict[str, Scalar]:
        return {"training.neighbors": self._neighbors, "model.metric": "cosine"}

    def _fit(self, rows: TrainingRows, varying: Any, tell: PartReporter) -> FittedState:
        """Keep the rows; side by side or at once, labels are looked up among the same neighbours."""
        if self._neighbors > len(rows.labels):
            raise UserError(
                Reason.INVALID_SPEC,
                f"training.neighbors {self._neighbors} is more than the {len(rows.labels)} training rows",
            )
        del tell  # at once
        features = rows.features.astype(np.float32)
        return neighbors.Neighbors(features, rows.labels[:, varying], self._neighbors, self._is_chain)._asdict()

    @staticmethod
    def _predict(fitted: FittedState, features: Any) -> Probabilities:
        return neighbors.compute_label_shares(neighbors.Neighbors(**fitted), features)

    def _count_steps(self, fitted: FittedState) -> int:
        """Return 0: nothing is optimised."""
        del fitted
        return 0


def _create_part_reporter(progress: Progress, rows: int) -> PartReporter:
    """Return what turns parts done into steps of a single epoch."""

    def tell(done: int, parts: int) -> None:
        progress(Step(epoch=1, epochs=1, step=done, total_steps=parts, rows=rows * done // parts, loss=None))

    return tell


def _describe_constant_labels(constant: int) -> list[str]:
    if not constant:
        return []
    return [f"{constant} labels are the same in all training rows: their probability is constant"]
