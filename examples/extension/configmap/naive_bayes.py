"""A model: multinomial naive Bayes, one classifier per label."""

from pathlib import Path
from typing import ClassVar

from scipy.sparse import csr_matrix
from sklearn.multiclass import OneVsRestClassifier
from sklearn.naive_bayes import MultinomialNB

from trainingtask_api.spec import TrainingTaskSpec
from trainingtask_api.status import Scalar
from trainingtask_trainer.evaluation.metrics import Probabilities, binary_cross_entropy
from trainingtask_trainer.models.base import FitResult, Predictor, TrainingRows
from trainingtask_trainer.models.classical import skops_files
from trainingtask_trainer.preprocessors.tfidf import Tfidf
from trainingtask_trainer.reporting.progress import Progress
from trainingtask_trainer.storage.folder_store import FolderStore
from trainingtask_trainer.volumes import Volumes

SMOOTHING = 0.1
MODEL_FILE = "model.skops"


class NaiveBayes:
    """Multinomial naive Bayes over tf-idf weights, one classifier per label."""

    # What feeds it when the task names no preprocessor, and distributions whose versions belong into the results.
    preprocessor: ClassVar[str] = "tfidf"
    packages: ClassVar[tuple[str, ...]] = ("skops",)

    def __init__(self, spec: TrainingTaskSpec, volumes: Volumes) -> None:
        self._classifier = OneVsRestClassifier(MultinomialNB(alpha=SMOOTHING))

    def arguments(self) -> dict[str, Scalar]:
        """Return the arguments after all defaults; they go into the results."""
        return {"model.smoothing": SMOOTHING}

    def fit(
        self, rows: TrainingRows, preprocessor: Tfidf, progress: Progress, checkpoints: FolderStore | None
    ) -> FitResult:
        """Fit one classifier per label."""
        self._classifier.fit(rows.features, rows.labels)
        loss = binary_cross_entropy(rows.labels, self.predict(rows.features))
        return FitResult(global_step=1, training_loss=loss, rows_seen=len(rows.labels))

    def predict(self, features: csr_matrix) -> Probabilities:
        """Return probabilities of shape [rows, labels]."""
        probabilities: Probabilities = self._classifier.predict_proba(features)
        return probabilities

    def save(self, folder: Path, preprocessor: Tfidf) -> None:
        """Write all that `load` needs. skops files run no code when they are read, pickles do."""
        state = {"vectorizer": preprocessor.vectorizer, "classifier": self._classifier}
        skops_files.dump(state, folder / MODEL_FILE)

    @staticmethod
    def load(folder: Path) -> Predictor:
        """Return the function from texts to probabilities that `predict` on the command line calls."""
        state = skops_files.load(folder / MODEL_FILE)
        return lambda texts: state["classifier"].predict_proba(state["vectorizer"].transform(texts))
