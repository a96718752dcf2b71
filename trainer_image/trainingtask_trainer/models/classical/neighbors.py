"""The k nearest neighbours of texts by cosine similarity, for many labels at once or in a chain.

scikit-learn's `KNeighborsClassifier` finds the same neighbours, but its wrappers search anew for each label. Here one
search serves all labels, and a chain adds each label to similarities that are computed once.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse
from sklearn.preprocessing import normalize
from sklearn.utils import gen_batches
from sklearn.utils.extmath import row_norms

from trainingtask_trainer.datasets.base import LabelMatrix
from trainingtask_trainer.evaluation.metrics import Probabilities
from trainingtask_trainer.runtime.cgroup import get_cpu_limit

# Similarities of a block of queries with all training rows; small enough for several threads and their copies.
_BLOCK_BYTES = 32 * 2**20
# Rows among which the neighbours of a query in a chain are searched first.
_CANDIDATES = 256

Similarities = NDArray[np.floating[Any]]


class Neighbors(NamedTuple):
    """The fitted model: the training rows themselves. The field names are part of the file format."""

    features: Any
    """Shape [training rows, features], float32, sparse or dense."""
    labels: LabelMatrix
    """0/1, shape [training rows, labels]."""
    k: int
    """The number of neighbours."""
    chain: bool
    """Whether the labels before a label are features of it."""


def compute_label_shares(neighbors: Neighbors, queries: Any) -> Probabilities:
    """Return the share of each query's neighbours that carry a label, shape [queries, labels].

    In a chain, the features of label i include the labels before it: the true ones of the training rows, and those
    decided by majority for the query.
    """
    features = neighbors.features if neighbors.chain else normalize(neighbors.features)
    transposed = features.T.tocsr() if issparse(features) else features.T
    squares = row_norms(features, squared=True).astype(np.float32)
    rows = max(1, _BLOCK_BYTES // (4 * len(neighbors.labels)))

    def search(block: slice) -> Probabilities:
        return _compute_block(neighbors, queries[block].astype(np.float32) @ transposed, squares)

    with ThreadPoolExecutor(get_cpu_limit()) as pool:  # numpy releases the interpreter lock meanwhile
        blocks = list(pool.map(search, gen_batches(queries.shape[0], rows)))
    result: Probabilities = np.concatenate(blocks)
    return result


def _compute_block(neighbors: Neighbors, products: Any, squares: NDArray[np.float32]) -> Probabilities:
    """Return the shares of a block of queries, from their inner products with the training rows."""
    products = products.toarray() if issparse(products) else products
    if neighbors.chain:
        return _compute_chained_block(neighbors, products, squares.copy())
    return neighbors.labels[_select_top_k(products, neighbors.k)].mean(axis=1)  # type: ignore[no-any-return]


def _compute_chained_block(neighbors: Neighbors, products: Similarities, squares: NDArray[np.float32]) -> Probabilities:
    """Return the shares in a chain; changes `products` and the training rows' squared lengths, `squares`.

    A query's neighbours are searched among the rows with the highest inner products. The cosine of any other row is at
    most the least of those products by the shortest length: where that is not below the found ones, all rows are
    compared.
    """
    result = np.empty((len(products), neighbors.labels.shape[1]))
    count = min(len(neighbors.labels), _CANDIDATES + neighbors.k)
    candidates = _select_top_k(products, count)
    for label, column in enumerate(neighbors.labels.T):
        lengths = np.sqrt(np.where(squares == 0, np.float32(1), squares))
        known = np.take_along_axis(products, candidates, axis=1)
        cosines = known / lengths[candidates]
        best = _select_top_k(cosines, neighbors.k)
        nearest = np.take_along_axis(candidates, best, axis=1)
        others = np.maximum(known.min(axis=1), 0) / lengths.min()
        is_uncertain = np.take_along_axis(cosines, best, axis=1).min(axis=1) < others
        nearest[is_uncertain] = _select_top_k(products[is_uncertain] / lengths, neighbors.k)
        result[:, label] = column[nearest].mean(axis=1)
        # The label is the next feature: squared lengths grow by it, and products where the query has it.
        decided = result[:, label] > 0.5
        products[decided] += column
        candidates[decided] = _select_top_k(products[decided], count)
        squares += column
    return result


def _select_top_k(cosines: Similarities, k: int) -> NDArray[np.intp]:
    """Return the training rows with the highest cosine, shape [queries, k]."""
    return np.argpartition(cosines, -k, axis=1)[:, -k:]
