"""Rows like those of tf-idf: few stored values each, terms of very unequal frequency, labels that some terms announce."""

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.feature_extraction.text import TfidfTransformer

from trainingtask_trainer.models.base import TrainingRows

TERMS_PER_ROW = 20
TERMS_PER_LABEL = 3


def generate_rows(rows: int, labels: int, seed: int = 0) -> TrainingRows:
    """Return `rows` training rows, and a tenth as many validation rows."""
    generator = np.random.default_rng(seed)
    vocabulary = int(300 * rows**0.5)  # as many as GoEmotions has for its rows; more rows bring more terms (Heaps' law)
    terms = _draw_terms(generator, rows + rows // 10, vocabulary)
    features = TfidfTransformer(sublinear_tf=True).fit_transform(terms)
    truth = _draw_labels(generator, terms, labels)
    names = [str(label) for label in range(labels)]
    return TrainingRows(features[:rows], truth[:rows], features[rows:], truth[rows:], names)


def _draw_terms(generator: np.random.Generator, rows: int, vocabulary: int) -> sparse.csr_matrix:
    """Return counts of terms, whose frequency falls with their rank (Zipf's law)."""
    drawn = rows * TERMS_PER_ROW
    ranks = vocabulary ** generator.random(drawn, dtype=np.float32)
    columns = np.minimum(ranks.astype(np.int32), vocabulary) - 1
    starts = np.arange(0, drawn + 1, TERMS_PER_ROW, dtype=np.int32)
    terms = sparse.csr_matrix((np.ones(drawn), columns, starts), shape=(rows, vocabulary))
    terms.sum_duplicates()
    return terms


def _draw_labels(generator: np.random.Generator, terms: sparse.csr_matrix, labels: int) -> NDArray[np.uint8]:
    """Return labels that a row has for one of their terms in nine of ten cases, and by chance in one of 1,000."""
    announcing = generator.integers(100, 2000, labels * TERMS_PER_LABEL)
    columns = np.repeat(np.arange(labels), TERMS_PER_LABEL)
    links = sparse.csr_matrix((np.ones(len(columns)), (announcing, columns)), shape=(terms.shape[1], labels))
    announced = (terms @ links).tocsr()
    announced.data = (generator.random(announced.nnz) < 0.9).astype(np.float64)
    truth = announced.astype(np.uint8).toarray()
    by_chance = truth.size // 1000
    truth[generator.integers(0, len(truth), by_chance), generator.integers(0, labels, by_chance)] = 1
    return truth
