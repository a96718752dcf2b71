"""The common part of the classical models of scikit-learn. A saved one is a single skops file, without pickle."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from trainingtask_api.model import Strategy
from trainingtask_api.reasons import Reason
from trainingtask_api.spec import TrainingTaskSpec
from trainingtask_api.status import Scalar
from trainingtask_trainer import registry
from trainingtask_trainer.errors import Fault
from trainingtask_trainer.evaluation.metrics import Probabilities, binary_cross_entropy, estimate_label_prior
from trainingtask_trainer.models.base import FitResult, Predictor, TrainingRows
from trainingtask_trainer.models.classical import per_label, skops_files
from trainingtask_trainer.preprocessors.base import HasVectorizer, Preprocessor, Saveable
from trainingtask_trainer.reporting.progress import Progress, Step
from trainingtask_trainer.storage.folder_store import FolderStore
from trainingtask_trainer.volumes import Volumes

MODEL_FILE = "model.skops"
# The training loss is a mean over this many rows; nearest neighbours of all of them take minutes.
_LOSS_ROWS = 1000

FittedState = dict[str, Any]
"""A fitted model, of types that skops can write; the keys are part of the file format."""
PartReporter = Callable[[int, int], None]
"""Takes the number of parts of the work that are done, and of all parts."""


class Classical(ABC):
    """The common part of all classical models; a constant label gets its smoothed share of the rows."""

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
        self, rows: TrainingRows, preprocessor: Preprocessor, progress: Progress, checkpoints: FolderStore | None
    ) -> FitResult:
        """Learn the labels that vary; report progress by label, and within a native forest by trees."""
        del preprocessor, checkpoints
        labels = rows.labels
        varying = np.flatnonzero(labels.any(axis=0) & ~labels.all(axis=0))
        self._state = {"varying": varying, "prior": estimate_label_prior(labels)}
        if varying.size:
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
        """Write the model and its vectorizer into one file; an encoder writes files of its own."""
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

    def export(self, folder: Path, preprocessor: Preprocessor) -> None:
        """Write the ONNX file, and the terms or the tokenizer of its inputs.

        Raises
        ------
        NotExportableError
            When the features are neither tf-idf nor an encoder's, the model is its training rows, or it is too large.
        """
        from trainingtask_trainer.models.classical.onnx_export import write_model  # noqa: PLC0415 - the extra `onnx`

        write_model(self._state, preprocessor, folder)

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
        varying: Probabilities | None = cls._predict(state["fitted"], features) if "fitted" in state else None
        if varying is not None and varying.shape[1] == len(state["prior"]):
            return varying  # the usual case, without a second matrix of rows x labels
        result: Probabilities = np.tile(state["prior"], (features.shape[0], 1))
        if varying is not None:
            result[:, state["varying"]] = varying
        return result

    @abstractmethod
    def _own_arguments(self) -> dict[str, Scalar]: ...

    @abstractmethod
    def _fit(self, rows: TrainingRows, varying: Any, report_part: PartReporter) -> FittedState:
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

    def _fit_per_label(
        self, estimator: Any, rows: TrainingRows, varying: Any, report_part: PartReporter, workers: int = 1
    ) -> FittedState:
        estimators: list[Any] = []
        report_part(0, varying.size)
        # One copy, with the rows of a label side by side in memory: a worker reads those of one label alone.
        labels = rows.labels.T[varying].T
        fits = per_label.fit_per_label(estimator, rows.features, labels, chain=self._is_chain, workers=workers)
        with closing(fits):
            for fitted in fits:
                estimators.append(fitted)
                report_part(len(estimators), varying.size)
        return {"estimators": estimators, "chain": self._is_chain}


def _create_part_reporter(progress: Progress, rows: int) -> PartReporter:
    """Return the function that reports parts as steps of a single epoch."""

    def report_part(done: int, parts: int) -> None:
        progress(Step(epoch=1, epochs=1, step=done, total_steps=parts, rows=rows * done // parts, loss=None))

    return report_part


def _describe_constant_labels(constant: int) -> list[str]:
    if not constant:
        return []
    return [f"{constant} labels are the same in all training rows: their probability is constant"]
