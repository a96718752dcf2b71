"""Term frequency times inverse document frequency over word and character n-grams, for classical models."""

from collections.abc import Sequence
from typing import Any

from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import FeatureUnion

from trainingtask_api.model import Preprocessor as PreprocessorSpec
from trainingtask_api.reasons import Reason
from trainingtask_api.spec import TrainingTaskSpec
from trainingtask_api.status import Scalar
from trainingtask_trainer.errors import UserError
from trainingtask_trainer.volumes import Volumes

# Words of any length, and each other character: scikit-learn's default drops "I", "!" and emoji, which are informative.
_TOKENS = r"\w+|[^\w\s]"


class Tfidf:
    """scikit-learn's `TfidfVectorizer` with sublinear term frequency; features are a matrix [texts, terms].

    Word n-grams, and on request character n-grams within words beside them. Rows of each of the two have length 1.
    """

    def __init__(self, spec: TrainingTaskSpec, volumes: Volumes) -> None:
        del volumes
        wanted = spec.preprocessor or PreprocessorSpec()
        self._minimum = wanted.min_document_frequency or 2
        limits = {"min_df": self._minimum, "max_features": wanted.max_features}
        words = create_vectorizer("word", (1, wanted.ngram_max or 2), **limits)
        self.vectorizer: TfidfVectorizer | FeatureUnion = words
        if wanted.character_ngram_max is not None:
            characters = create_vectorizer("char_wb", (2, wanted.character_ngram_max), **limits)
            self.vectorizer = FeatureUnion([("words", words), ("characters", characters)])
        self._arguments: dict[str, Scalar] = {
            "ngramMax": wanted.ngram_max or 2,
            "characterNgramMax": wanted.character_ngram_max or "none",
            "minDocumentFrequency": self._minimum,
            "maxFeatures": wanted.max_features or "all",
        }
        self._fitted: tuple[Sequence[str], csr_matrix] | None = None

    def fit(self, texts: Sequence[str]) -> None:
        """Learn terms and their document frequencies.

        Raises
        ------
        UserError
            When no term is left.
        """
        try:
            self._fitted = texts, self.vectorizer.fit_transform(texts)
        except ValueError as error:
            raise UserError(
                Reason.INVALID_DATA,
                f"no term stands in {self._minimum} of the {len(texts)} training texts ({error}): "
                "lower preprocessor.minDocumentFrequency or give more text",
            ) from error

    def transform(self, texts: Sequence[str]) -> csr_matrix:
        """Return the features as a sparse matrix of shape [texts, terms]."""
        if self._fitted is not None and texts is self._fitted[0]:  # `fit` has computed them
            return self._fitted[1]
        return self.vectorizer.transform(texts)

    def arguments(self) -> dict[str, Scalar]:
        """Return the arguments after all defaults."""
        return dict(self._arguments)


def create_vectorizer(analyzer: str, ngram_range: tuple[int, int], **parameters: Any) -> TfidfVectorizer:
    """Return the vectorizer of words ('word') or of characters within words ('char_wb')."""
    tokens = {"token_pattern": _TOKENS} if analyzer == "word" else {}
    return TfidfVectorizer(analyzer=analyzer, ngram_range=ngram_range, sublinear_tf=True, **tokens, **parameters)
