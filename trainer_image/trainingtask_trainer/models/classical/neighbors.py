"""The k nearest neighbours of texts by cosine similarity, for many labels at once or in a chain.

scikit-learn's `KNeighborsClassifier` finds the same neighbours, but its wrappers search anew for each label. Here one
search serves all labels, and a chain adds each label to similarities that are computed once.
"""

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import issparse
from sklearn.preprocessing import normalize
from sklearn.utils import gen_batches
from sklearn.utils.extmath import row_norms

from trainingtask_trainer.datasets.base import LabelMatrix
from trainingtask_trainer.evaluation.metrics import Probabilities
from trainingtask_trainer.models.classical.nearest import Index, search
from trainingtask_trainer.runtime.cgroup import get_cpu_limit
from trainingtask_trainer.runtime.workers import count_workers, run_calls

# Similarities of a block of queries with all training rows; small enough for several threads and their copies.
_BLOCK_BYTES = 32 * 2**20
# A product of two stored values takes 8 nanoseconds, and to select among similarities 6 for each.
_SECONDS_PER_PRODUCT, _SECONDS_PER_SIMILARITY = 8e-9, 6e-9


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
    index = Index(transposed, squares, *neighbors[1:])
    result = np.empty((queries.shape[0], neighbors.labels.shape[1]))
    blocks = list(gen_batches(queries.shape[0], max(1, _BLOCK_BYTES // (4 * len(neighbors.labels)))))
    with closing(_search_blocks(index, queries, blocks)) as found:
        for block, shares in zip(blocks, found, strict=True):
            result[block] = shares
    return result


def _search_blocks(index: Index, queries: Any, blocks: list[slice]) -> Generator[Probabilities]:
    cores = get_cpu_limit()
    workers = _count_workers(index, queries, min(cores, len(blocks)))
    if workers > 1:
        yield from run_calls(partial(search, index), (queries[block] for block in blocks), workers)
        return
    with ThreadPoolExecutor(cores) as pool:  # numpy releases the interpreter lock in all but sparse products
        yield from pool.map(lambda block: search(index, queries[block]), blocks)


def _count_workers(index: Index, queries: Any, most: int) -> int:
    """Return in how many processes to search; dense features need none, as their products release the lock."""
    if not issparse(queries):
        return 1
    products = np.diff(index.transposed.indptr)[queries.indices].sum(dtype=np.int64)
    similarities = queries.shape[0] * len(index.labels)
    seconds = products * _SECONDS_PER_PRODUCT + similarities * _SECONDS_PER_SIMILARITY
    return count_workers(float(seconds), 6 * _BLOCK_BYTES, most)
