"""The search among training rows: products of queries with all of them, by cosine similarity.

It imports no scikit-learn, which a worker that searches does without.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse

# Rows among which the neighbours of a query in a chain are searched first.
_CANDIDATES = 256

Similarities = NDArray[np.floating[Any]]
Shares = NDArray[np.float64]


class Index(NamedTuple):
    """Training rows, prepared for the search."""

    transposed: Any
    """Their features, shape [features, training rows], float32, sparse by row or dense; of length 1 but in a chain."""
    squares: NDArray[np.float32]
    """Their squared lengths."""
    labels: NDArray[np.uint8]
    """0/1, shape [training rows, labels]."""
    k: int
    """The number of neighbours."""
    chain: bool
    """Whether the labels before a label are features of it."""


def search(index: Index, queries: Any) -> Shares:
    """Return the share of each query's neighbours that carry a label, shape [queries, labels].

    A training row without a feature of the query is no neighbour of it: in its place counts the share of all rows.
    """
    products = queries.astype(np.float32) @ index.transposed
    products = products.toarray() if issparse(products) else products
    if index.chain:
        return _search_chained(index, products)
    nearest = _select_top_k(products, index.k)
    result = index.labels[nearest].mean(axis=1)
    is_neighbour = np.take_along_axis(products, nearest, axis=1) != 0
    prior = index.labels.mean(axis=0)
    for query in np.flatnonzero(~is_neighbour.all(axis=1)):
        found = is_neighbour[query, :, np.newaxis]
        result[query] = np.where(found, index.labels[nearest[query]], prior).mean(axis=0)
    return result  # type: ignore[no-any-return]


def _search_chained(index: Index, products: Similarities) -> Shares:
    """Return the shares in a chain; changes `products`.

    A query's neighbours are searched among the rows with the highest inner products. The cosine of any other row is at
    most the least of those products by the shortest length: where that is not below the found ones, all rows are
    compared.
    """
    squares = index.squares.copy()
    result = np.empty((len(products), index.labels.shape[1]))
    count = min(len(index.labels), _CANDIDATES + index.k)
    candidates = _select_top_k(products, count)
    for label, column in enumerate(index.labels.T):
        lengths = np.sqrt(np.where(squares == 0, np.float32(1), squares))
        known = np.take_along_axis(products, candidates, axis=1)
        cosines = known / lengths[candidates]
        best = _select_top_k(cosines, index.k)
        nearest = np.take_along_axis(candidates, best, axis=1)
        others = np.maximum(known.min(axis=1), 0) / lengths.min()
        is_uncertain = np.take_along_axis(cosines, best, axis=1).min(axis=1) < others
        nearest[is_uncertain] = _select_top_k(products[is_uncertain] / lengths, index.k)
        is_neighbour = np.take_along_axis(products, nearest, axis=1) != 0
        result[:, label] = np.where(is_neighbour, column[nearest], column.mean()).mean(axis=1)
        # The label is the next feature: squared lengths grow by it, and products where the query has it.
        decided = result[:, label] > 0.5
        products[decided] += column
        candidates[decided] = _select_top_k(products[decided], count)
        squares += column
    return result


def _select_top_k(cosines: Similarities, k: int) -> NDArray[np.intp]:
    """Return the training rows with the highest cosine, shape [queries, k]."""
    return np.argpartition(cosines, -k, axis=1)[:, -k:]
