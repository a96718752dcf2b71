"""Term frequency times inverse document frequency over word n-grams, for classical models."""

from collections.abc import Sequence

from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import TfidfVectorizer

from trainingtask_api.spec import Preprocessor as PreprocessorSpec
from trainingtask_api.spec import TrainingTaskSpec
from trainingtask_api.status import Scalar
from trainingtask_trainer.errors import UserError
from trainingtask_trainer.places import Places


class Tfidf:
    """scikit-learn's `TfidfVectorizer` with sublinear term frequency; features are a matrix [texts, terms]."""

    def __init__(self, spec: TrainingTaskSpec, places: Places) -> None:
        del places
        wanted = spec.preprocessor or PreprocessorSpec()
        self.vectorizer = TfidfVectorizer(
            sublinear_tf=True,
            ngram_range=(1, wanted.ngram_max or 2),
            min_df=wanted.min_document_frequency or 2,
            max_features=wanted.max_features,
        )

    def fit(self, texts: Sequence[str]) -> None:
        """Learn terms and their document frequencies.

        Raises
        ------
        UserError
            When no term is left.
        """
        try:
            self.vectorizer.fit(texts)
        except ValueError as error:
            raise UserError(
                "InvalidData",
                f"no term stands in {self.vectorizer.min_df} of the {len(texts)} training texts ({error}): "
                "lower preprocessor.minDocumentFrequency or give more text",
            ) from error

    def transform(self, texts: Sequence[str]) -> csr_matrix:
        """Return the features as a sparse matrix of shape [texts, terms]."""
        return self.vectorizer.transform(texts)

    def arguments(self) -> dict[str, Scalar]:
        """Return the arguments after all defaults."""
        maximum = self.vectorizer.max_features
        return {
            "ngramMax": self.vectorizer.ngram_range[1],
            "minDocumentFrequency": self.vectorizer.min_df,
            "maxFeatures": "all" if maximum is None else maximum,
        }
