"""The share of each rank in an optimizer step's rows. It follows from their lengths alone, so that all ranks agree."""

from bisect import bisect_left
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def shard_for_packing(rows: Sequence[int], lengths: Sequence[int], world_size: int) -> list[list[int]]:
    """Deal rows that will be packed: the longest first, each to the rank that has the fewest tokens so far.

    Parameters
    ----------
    rows
        The rows of the step.
    lengths
        Tokens of each row of the data set, not of the step.
    world_size
        The ranks.

    Returns
    -------
    The rows of each rank; a rank has none where there are fewer rows than ranks.
    """
    shares: list[list[int]] = [[] for _ in range(world_size)]
    tokens = [0] * world_size
    for row in sorted(rows, key=lambda row: lengths[row], reverse=True):
        rank = tokens.index(min(tokens))
        shares[rank].append(row)
        tokens[rank] += lengths[row]
    return shares


def shard_for_padding(rows: Sequence[int], lengths: Sequence[int], world_size: int) -> list[list[int]]:
    """Cut rows that will be padded, sorted by length, into one part for each rank.

    Of all such cuts this is one in which the most tokens of a rank, padding counted, are the fewest. Dealt row by row,
    as in `shard_for_packing`, each rank would pad its short rows to a long one.

    Parameters and returned rows are those of `shard_for_packing`.
    """
    in_order = sorted(rows, key=lambda row: lengths[row], reverse=True)
    tokens = np.array([max(1, lengths[row]) for row in in_order], dtype=np.int64)
    fewest = max(int(tokens[0]), -(-int(tokens.sum()) // world_size))
    candidates = range(fewest, int(tokens[0]) * len(rows) + 1)
    most = candidates[bisect_left(candidates, True, key=lambda most: len(_cut(tokens, most)) <= world_size)]
    ends = _cut(tokens, most)
    ends += [len(rows)] * (world_size - len(ends))
    return [in_order[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def _cut(tokens: NDArray[np.int64], most: int) -> list[int]:
    """Return the end of each part when a part takes as many rows as fit into `most` tokens, padded to its first."""
    ends: list[int] = []
    start = 0
    while start < len(tokens):
        start = min(len(tokens), start + max(1, most // int(tokens[start])))
        ends.append(start)
    return ends
