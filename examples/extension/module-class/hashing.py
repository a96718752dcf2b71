"""A preprocessor: words by their hash instead of by a vocabulary, so that its memory does not grow with the texts."""

from collections.abc import Sequence

from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import HashingVectorizer

from trainingtask_api.spec import TrainingTaskSpec
from trainingtask_api.status import Scalar
from trainingtask_trainer.volumes import Volumes


class Hashing:
    """Counts of hashed word n-grams, as rows of length 1."""

    def __init__(self, spec: TrainingTaskSpec, volumes: Volumes) -> None:
        # A class of one's own may read any field of the spec.
        ngram_max = (spec.preprocessor and spec.preprocessor.ngram_max) or 2
        # Classical models keep this attribute beside themselves, so that `predict` has it too.
        self.vectorizer = HashingVectorizer(n_features=2**16, ngram_range=(1, ngram_max))

    def fit(self, texts: Sequence[str]) -> None:
        """Learn nothing: a hash needs no vocabulary."""

    def transform(self, texts: Sequence[str]) -> csr_matrix:
        """Return the features as a sparse matrix of shape [texts, hashes]."""
        return self.vectorizer.transform(texts)

    def arguments(self) -> dict[str, Scalar]:
        """Return the arguments after all defaults; they go into the results."""
        return {"ngramMax": self.vectorizer.ngram_range[1], "features": self.vectorizer.n_features}
