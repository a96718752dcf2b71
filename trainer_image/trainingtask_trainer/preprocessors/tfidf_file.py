"""A fitted tf-idf as JSON: its terms and their inverse document frequencies; reading it runs no code from it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from scipy.sparse import csr_matrix, hstack
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import FeatureUnion

from trainingtask_trainer.preprocessors.tfidf import create_vectorizer

MAX_BYTES: Final = 1 << 30
# What `fit` alone reads.
_FIT_PARAMETERS = {"min_df", "max_df", "max_features", "vocabulary"}

_Length = Annotated[int, Field(ge=1, le=20)]
_Idf = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Terms(BaseModel):
    """The terms of one kind, numbered by their place."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    analyzer: Literal["word", "char_wb"]
    ngram_range: tuple[_Length, _Length]
    terms: Annotated[list[str], Field(min_length=1)]
    idf: list[_Idf]


class _TermsFile(BaseModel):
    """The features of a text: those of each part, side by side."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    parts: Annotated[list[_Terms], Field(min_length=1, max_length=2)]


def write_terms(path: Path, vectorizer: Any) -> None:
    """Write a fitted vectorizer of `Tfidf`.

    Raises
    ------
    ValueError
        When it is another one, whose features `read_terms` would not give.
    """
    parts = []
    for part in _list_parts(vectorizer):
        own = create_vectorizer(part.analyzer, part.ngram_range) if type(part) is TfidfVectorizer else None
        if own is None or _get_parameters(part) != _get_parameters(own):
            raise ValueError(f"a {type(part).__name__} of other settings than preprocessor.name 'tfidf' has")
        terms = part.get_feature_names_out().tolist()
        parts.append(_Terms(analyzer=part.analyzer, ngram_range=part.ngram_range, terms=terms, idf=part.idf_.tolist()))
    path.write_text(_TermsFile(parts=parts).model_dump_json(), encoding="utf-8")


def read_terms(path: Path) -> Callable[[Sequence[str]], csr_matrix]:
    """Return the function from texts to features of shape [texts, terms]: that of the vectorizer that was written.

    Raises
    ------
    ValueError
        When the file is too large, or holds anything else.
    """
    if (size := path.stat().st_size) > MAX_BYTES:
        raise ValueError(f"{path.name} has {size} bytes, at most {MAX_BYTES} are allowed")
    vectorizers = []
    for part in _TermsFile.model_validate_json(path.read_bytes()).parts:
        vectorizer = create_vectorizer(part.analyzer, part.ngram_range, vocabulary=part.terms)
        vectorizer.idf_ = np.array(part.idf)
        vectorizers.append(vectorizer)
    return lambda texts: hstack([vectorizer.transform(texts) for vectorizer in vectorizers], format="csr")


def _list_parts(vectorizer: Any) -> list[Any]:
    return [part for _, part in vectorizer.transformer_list] if type(vectorizer) is FeatureUnion else [vectorizer]


def _get_parameters(vectorizer: TfidfVectorizer) -> dict[str, Any]:
    return {name: value for name, value in vectorizer.get_params().items() if name not in _FIT_PARAMETERS}
