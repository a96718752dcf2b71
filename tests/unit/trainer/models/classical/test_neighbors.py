import numpy as np
import pytest
from scipy import sparse

from trainingtask_trainer.models.classical import neighbors
from trainingtask_trainer.models.classical.neighbors import Neighbors, compute_label_shares

RANDOM = np.random.default_rng(0)
FEATURES = sparse.csr_matrix(np.where((VALUES := RANDOM.random((400, 60))) > 0.8, VALUES, 0).astype(np.float32))
LABELS = (RANDOM.random((400, 6)) < 0.4).astype(np.uint8)


@pytest.mark.parametrize("chain", [False, True])
def test_workers_find_the_same_neighbours(monkeypatch: pytest.MonkeyPatch, chain: bool) -> None:
    monkeypatch.setattr(neighbors, "_BLOCK_BYTES", 4 * 400 * 30)  # blocks of 30 queries
    fitted = Neighbors(FEATURES[:300], LABELS[:300], 5, chain)
    here = compute_label_shares(fitted, FEATURES[300:])
    monkeypatch.setattr(neighbors, "_count_workers", lambda index, queries, most: 2)
    np.testing.assert_array_equal(here, compute_label_shares(fitted, FEATURES[300:]))


def test_workers_search_for_long_searches_in_sparse_rows_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[float] = []
    monkeypatch.setattr(neighbors, "count_workers", lambda seconds, own, most: counted.append(seconds) or most)
    ones = sparse.csr_matrix(np.ones((50, 3), dtype=np.float32))
    transposed = ones.T.tocsr()
    index = neighbors.Index(transposed, np.ones(50, dtype=np.float32), LABELS[:50], 5, False)
    assert neighbors._count_workers(index, ones, 4) == 4
    assert neighbors._count_workers(index, ones.toarray(), 4) == 1
    products, similarities = 50 * 3 * 50, 50 * 50
    assert counted == [pytest.approx(products * 8e-9 + similarities * 6e-9)]


@pytest.mark.parametrize("chain", [False, True])
def test_a_row_that_shares_no_feature_with_a_query_is_no_neighbour(chain: bool) -> None:
    features = np.zeros((8, 3), dtype=np.float32)
    features[:, 0], features[7] = 1, [0, 1, 0]
    labels = np.array([[1, 0]] * 2 + [[0, 1]] * 6, dtype=np.uint8)
    queries = np.array([[0, 0, 1], [0, 1, 0]], dtype=np.float32)  # of no row; of the last one alone
    shares = [
        compute_label_shares(Neighbors(sparse.csr_matrix(features[order]), labels[order], 4, chain), queries)[:, 0]
        for order in (np.arange(8), np.arange(8)[::-1])
    ]
    np.testing.assert_allclose(shares, [[2 / 8, 3 / 4 * 2 / 8]] * 2)
