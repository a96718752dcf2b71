"""Classical models of scikit-learn, applied to many labels."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import sklearn.linear_model
from scipy.sparse import issparse
from scipy.special import expit
from sklearn.ensemble import RandomForestClassifier
from sklearn.svm import LinearSVC
from sklearn.utils import gen_batches
from sklearn.utils.class_weight import compute_sample_weight

from trainingtask_api.model import Strategy
from trainingtask_api.reasons import Reason
from trainingtask_api.spec import TrainingTaskSpec
from trainingtask_api.status import Scalar
from trainingtask_trainer.datasets.base import LabelMatrix
from trainingtask_trainer.errors import UserError
from trainingtask_trainer.evaluation.metrics import Probabilities
from trainingtask_trainer.models.base import TrainingRows
from trainingtask_trainer.models.classical import linear, neighbors, per_label
from trainingtask_trainer.models.classical.base import Classical, FittedState, PartReporter
from trainingtask_trainer.runtime.cgroup import get_cpu_limit
from trainingtask_trainer.volumes import Volumes

# Probabilities of a block of rows, absent and present, that a forest returns beside the result.
_BLOCK_BYTES = 64 << 20


class LogisticRegression(Classical):
    """Logistic regression per label, with L2 penalty."""

    def __init__(self, spec: TrainingTaskSpec, volumes: Volumes) -> None:
        super().__init__(spec, volumes)
        # A weak penalty: tf-idf rows have length 1, so that useful weights are large. Newton's method reaches the optimum
        # of the default solver with a fraction of its passes over the rows.
        self._estimator = sklearn.linear_model.LogisticRegression(
            C=spec.training.inverse_regularization or 10.0,
            solver="newton-cg",
            tol=1e-5,
            max_iter=1000,
            class_weight=spec.training.pos_weight and spec.training.pos_weight.value,
        )

    def _own_arguments(self) -> dict[str, Scalar]:
        return {"training.inverseRegularization": self._estimator.C}

    def _fit(self, rows: TrainingRows, varying: Any, report_part: PartReporter) -> FittedState:
        workers = linear.count_fit_workers(rows.features, varying.size, get_cpu_limit())
        return self._fit_per_label(self._estimator, rows, varying, report_part, workers)

    @staticmethod
    def _predict(fitted: FittedState, features: Any) -> Probabilities:
        decisions = linear.compute_decisions(fitted["estimators"], features, chain=fitted["chain"])
        result: Probabilities = expit(decisions, out=decisions)
        return result


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

    def _fit(self, rows: TrainingRows, varying: Any, report_part: PartReporter) -> FittedState:
        workers = linear.count_fit_workers(rows.features, varying.size, get_cpu_limit())
        fitted = self._fit_per_label(self._estimator, rows, varying, report_part, workers)
        decisions = linear.compute_decisions(fitted["estimators"], rows.validation_features, chain=self._is_chain)
        slope, intercept = linear.fit_sigmoid(decisions, rows.validation_labels[:, varying])
        return fitted | {"slope": slope, "intercept": intercept}

    @staticmethod
    def _predict(fitted: FittedState, features: Any) -> Probabilities:
        decisions = linear.compute_decisions(fitted["estimators"], features, chain=fitted["chain"])
        decisions *= fitted["slope"]
        decisions += fitted["intercept"]
        result: Probabilities = expit(decisions, out=decisions)
        return result


class RandomForest(Classical):
    """Random forest, by default one whose trees learn all labels at once."""

    default_strategy = Strategy.NATIVE

    def __init__(self, spec: TrainingTaskSpec, volumes: Volumes) -> None:
        super().__init__(spec, volumes)
        self._balanced = spec.training.pos_weight is not None
        self._trees = spec.training.trees or 100
        self._parameters = {
            # A leaf of one row predicts 0 or 1. Leaves of two on 10,000 rows of GoEmotions: a sixth of the nodes, a third
            # of the time, micro-F1 higher and macro-F1 0.287 instead of 0.292.
            "min_samples_leaf": 2,
            "n_jobs": get_cpu_limit(),
            "random_state": spec.training.seed,
        }

    def _own_arguments(self) -> dict[str, Scalar]:
        return {"training.trees": self._trees, "model.minSamplesLeaf": self._parameters["min_samples_leaf"]}

    def _fit(self, rows: TrainingRows, varying: Any, report_part: PartReporter) -> FittedState:
        # Trees read features by column, in 32 bits: converted once, not for each forest.
        features = (rows.features.tocsc() if issparse(rows.features) else rows.features).astype(np.float32)
        if self._strategy == Strategy.NATIVE:
            return {"forest": self._fit_forest(features, rows.labels[:, varying], report_part)}
        weight = "balanced" if self._balanced else None
        forest = RandomForestClassifier(self._trees, class_weight=weight, **self._parameters)
        return self._fit_per_label(forest, replace(rows, features=features), varying, report_part)

    def _fit_forest(self, features: Any, labels: LabelMatrix, report_part: PartReporter) -> RandomForestClassifier:
        """Grow a forest a few trees at a time, which gives the same trees, to report progress."""
        labels = labels.ravel() if labels.shape[1] == 1 else labels
        weights = compute_sample_weight("balanced", labels) if self._balanced else None
        forest = RandomForestClassifier(warm_start=True, **self._parameters)
        batch = 2 * get_cpu_limit()
        report_part(0, self._trees)
        for done in range(0, self._trees, batch):
            trees = min(done + batch, self._trees)
            with per_label.restore_warning_filters():
                forest.set_params(n_estimators=trees).fit(features, labels, sample_weight=weights)
            report_part(trees, self._trees)
        return forest

    @staticmethod
    def _predict(fitted: FittedState, features: Any) -> Probabilities:
        features = features.astype(np.float32)  # once, not for each forest
        if "estimators" in fitted:
            return per_label.predict_per_label(fitted["estimators"], features, chain=fitted["chain"])
        forest = fitted["forest"]
        result = np.empty((features.shape[0], forest.n_outputs_))
        with per_label.restore_warning_filters():
            for block in gen_batches(len(result), max(1, _BLOCK_BYTES // (16 * forest.n_outputs_))):
                matrices = forest.predict_proba(features[block])
                # Several labels: a list of matrices, absent and present.
                for label, matrix in enumerate(matrices if isinstance(matrices, list) else [matrices]):
                    result[block, label] = matrix[:, 1]
        return result

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

    def _fit(self, rows: TrainingRows, varying: Any, report_part: PartReporter) -> FittedState:
        """Keep the rows; all strategies but the chain use the same neighbours for every label."""
        if self._neighbors > len(rows.labels):
            raise UserError(
                Reason.INVALID_SPEC,
                f"training.neighbors {self._neighbors} is more than the {len(rows.labels)} training rows",
            )
        del report_part  # nothing to wait for
        features = rows.features.astype(np.float32)
        return neighbors.Neighbors(features, rows.labels[:, varying], self._neighbors, self._is_chain)._asdict()

    @staticmethod
    def _predict(fitted: FittedState, features: Any) -> Probabilities:
        return neighbors.compute_label_shares(neighbors.Neighbors(**fitted), features)

    def _count_steps(self, fitted: FittedState) -> int:
        """Return 0: nothing is optimised."""
        del fitted
        return 0
