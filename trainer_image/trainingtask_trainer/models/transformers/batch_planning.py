"""Which rows share a batch, and how a batch is cut by length so that little of it is padding."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from trainingtask_api.training import Batching

# Rows of like length are looked for among this many batches of random rows: enough to leave little padding, and few
# enough that each epoch mixes its batches anew.
_POOL_BATCHES = 50
# What one more micro-batch costs, in tokens. On one core its weights are read and their gradients added once more:
# 38 to 110 tokens with DistilBERT's and MiniLM's sizes, in fp32 and bf16. On a GPU it is some hundred kernel launches, in
# which an H100 reads 4,000 tokens with DistilBERT's and BERT's sizes in fp32, 32,000 to 43,000 in bf16; others read fewer.
CPU_OVERHEAD_TOKENS = 50
GPU_OVERHEAD_TOKENS = 8192


def plan_batches(lengths: Sequence[int], batch_size: int, epoch_seed: int, batching: Batching) -> list[list[int]]:
    """Return the rows of each batch of one epoch; every row is in one of them, once.

    Parameters
    ----------
    lengths
        Tokens of each row.
    batch_size
        Rows per batch; the batch with what is left over has fewer.
    epoch_seed
        The same seed gives the same batches, with every version of numpy (`RandomState` is frozen, NEP 19).
    batching
        `length_split`: rows at random. `length_grouped`: rows of like length share a batch.
    """
    random = np.random.RandomState(epoch_seed)
    order = random.permutation(len(lengths))
    if batching == Batching.LENGTH_SPLIT:
        return _chunk(order, batch_size)
    tokens = np.asarray(lengths)
    grouped: list[list[int]] = []
    for pool in _chunk(order, batch_size * _POOL_BATCHES):
        by_length = np.argsort(tokens[pool], kind="stable")
        grouped.extend(_chunk(np.asarray(pool)[by_length], batch_size))
    return [grouped[index] for index in random.permutation(len(grouped))]


def split_for_padding(
    rows: Sequence[int],
    lengths: Sequence[int],
    *,
    max_tokens: int | None = None,
    overhead_tokens: int = CPU_OVERHEAD_TOKENS,
) -> list[list[int]]:
    """Cut one batch into micro-batches of like length; every row is in one of them, once.

    Of all ways to cut the rows sorted by length this is the one with the least cost: tokens with their padding, plus
    `overhead_tokens` for each micro-batch. (Dynamic programming over the sorted rows, quadratic in their number.)

    Parameters
    ----------
    rows
        The rows of the batch.
    lengths
        Tokens of each row of the data set, not of the batch.
    max_tokens
        Most tokens of a micro-batch, padding counted; a row that is longer is a micro-batch of its own.
    overhead_tokens
        What one more micro-batch costs, in tokens.

    Returns
    -------
    Micro-batches from the longest to the shortest: what does not fit into memory shows at once.
    """
    in_order = sorted(rows, key=lambda row: lengths[row])
    tokens = np.array([lengths[row] for row in in_order], dtype=np.int64)
    count = len(in_order)
    cost: NDArray[np.int64] = np.zeros(count + 1, dtype=np.int64)  # of the shortest rows, cut at best
    start = np.zeros(count + 1, dtype=np.int64)  # of the last micro-batch among them
    for end in range(1, count + 1):
        longest = int(tokens[end - 1])
        first = 0 if max_tokens is None else end - max(1, min(end, max_tokens // longest))
        candidates = cost[first:end] + np.arange(end - first, 0, -1) * longest
        best = int(candidates.argmin())
        start[end] = first + best
        cost[end] = candidates[best] + overhead_tokens
    cuts = []
    end = count
    while end > 0:
        cuts.append(in_order[start[end] : end])
        end = int(start[end])
    return cuts


def split_for_packing(rows: Sequence[int], lengths: Sequence[int], *, max_tokens: int | None = None) -> list[list[int]]:
    """Cut one batch into micro-batches that are packed, not padded (see `packing`): as few as `max_tokens` allows.

    Parameters and micro-batches are those of `micro_batches`.
    """
    cuts: list[list[int]] = []
    tokens = 0
    for row in sorted(rows, key=lambda row: lengths[row], reverse=True):
        tokens += lengths[row]
        if not cuts or (max_tokens is not None and tokens > max_tokens):
            cuts.append([])
            tokens = lengths[row]
        cuts[-1].append(row)
    return cuts


def _chunk(rows: NDArray[np.int64], size: int) -> list[list[int]]:
    return [rows[begin : begin + size].tolist() for begin in range(0, len(rows), size)]
