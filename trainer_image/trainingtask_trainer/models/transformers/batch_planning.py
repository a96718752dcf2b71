"""The rows of each optimizer step: which share a batch, and how a batch is split by length into micro-batches."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from trainingtask_api.training import Batching
from trainingtask_trainer.models.transformers.settings import Settings
from trainingtask_trainer.runtime.processes import Processes

# Rows are grouped by length within this many batches: little padding, and each epoch still mixes its batches anew.
_POOL_BATCHES = 50
# The cost of one more micro-batch on a CPU, in tokens: its weights are read and their gradients added once more. On one core
# 38 to 110 tokens with DistilBERT's and MiniLM's sizes, in fp32 and bf16. That of a GPU is measured (`step_cost`).
CPU_OVERHEAD_TOKENS = 50

StepRows = list[list[int]]
"""The rows of one optimizer step, batch by batch."""
SplitBatch = Callable[[Sequence[int], Sequence[int], int | None], list[list[int]]]
"""Rows of a batch, tokens of each row of the data set and most tokens of a micro-batch, to the rows of micro-batches."""
ShardRows = Callable[[Sequence[int], Sequence[int], int], list[list[int]]]
"""Rows of a step, tokens of each row of the data set and the number of ranks, to the rows of each rank."""


class BatchPlan:
    """The rows of each optimizer step, the same for both loops; an epoch's need no plan of the epochs before."""

    def __init__(
        self,
        lengths: Sequence[int],
        settings: Settings,
        split_batch: SplitBatch,
        max_tokens: int | None,
        *,
        shard_rows: ShardRows,
        processes: Processes,
    ) -> None:
        """Plan for rows of these lengths in tokens; no micro-batch has more than `max_tokens`, padding counted.

        The steps are the same on all ranks; the micro-batches of a step are those of this process's rank.
        """
        self._lengths = lengths
        self._settings = settings
        self._split_batch = split_batch
        self.max_tokens = max_tokens
        self._shard_rows = shard_rows
        self._processes = processes
        rows_per_step = settings.batch_size * settings.gradient_accumulation_steps
        self.steps_per_epoch = -(-len(lengths) // rows_per_step)
        self.total_steps = self.steps_per_epoch * settings.epochs

    def plan_epoch(self, epoch: int) -> list[StepRows]:
        """Return the rows of each step of an epoch, counted from 0."""
        settings = self._settings
        seed = int(np.random.SeedSequence([settings.seed, epoch]).generate_state(1)[0])
        batches = plan_batches(self._lengths, settings.batch_size, seed, settings.batching)
        size = settings.gradient_accumulation_steps
        return [batches[start : start + size] for start in range(0, len(batches), size)]

    def split_step(self, step: StepRows) -> list[list[int]]:
        """Return the rows of each of this rank's micro-batches of a step: none where the step has too few rows."""
        return [
            rows for batch in self._shard(step) for rows in self._split_batch(batch, self._lengths, self.max_tokens)
        ]

    def count_rows_and_tokens(self, step: StepRows) -> tuple[int, int]:
        """Return the rows and the tokens of a step on all ranks, padding not counted."""
        return sum(map(len, step)), sum(self._lengths[row] for batch in step for row in batch)

    def iter_remaining_steps(self, step: int) -> Iterator[StepRows]:
        """Yield the rows of each step of the running epoch from `step` on, which counts all epochs."""
        epoch, done = divmod(step, self.steps_per_epoch)
        yield from self.plan_epoch(epoch)[done:]

    def _shard(self, step: StepRows) -> StepRows:
        """Return this rank's rows of a step, in batches of at most the batch size."""
        if self._processes.world_size == 1:
            return step
        rows = [row for batch in step for row in batch]
        share = self._shard_rows(rows, self._lengths, self._processes.world_size)[self._processes.rank]
        return _chunk(np.asarray(share, dtype=np.int64), self._settings.batch_size)


def plan_batches(lengths: Sequence[int], batch_size: int, epoch_seed: int, batching: Batching) -> list[list[int]]:
    """Return the rows of each batch of one epoch; every row is in one of them, once.

    Parameters
    ----------
    lengths
        Tokens of each row.
    batch_size
        Rows per batch; the batch with the remainder has fewer.
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
    """Split one batch into micro-batches of like length; every row is in one of them, once.

    Of all splits of the rows sorted by length this has the least cost: tokens with their padding, plus
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
        Cost of one more micro-batch, in tokens.

    Returns
    -------
    Micro-batches from the longest to the shortest, so that one that does not fit into memory fails first.
    """
    in_order = sorted(rows, key=lambda row: lengths[row])
    tokens = np.array([lengths[row] for row in in_order], dtype=np.int64)
    count = len(in_order)
    cost: NDArray[np.int64] = np.zeros(count + 1, dtype=np.int64)  # of the shortest rows, in their best split
    start = np.zeros(count + 1, dtype=np.int64)  # of the last micro-batch among them
    for end in range(1, count + 1):
        longest = int(tokens[end - 1])
        first = 0 if max_tokens is None else end - max(1, min(end, max_tokens // max(1, longest)))
        candidates = cost[first:end] + np.arange(end - first, 0, -1) * longest
        best = int(candidates.argmin())
        start[end] = first + best
        cost[end] = candidates[best] + overhead_tokens
    parts = []
    end = count
    while end > 0:
        parts.append(in_order[start[end] : end])
        end = int(start[end])
    return parts


def split_for_packing(
    rows: Sequence[int], lengths: Sequence[int], *, max_tokens: int | None = None, is_padding_counted: bool = False
) -> list[list[int]]:
    """Split one batch into micro-batches that are packed (see `packed_attention`): as few as `max_tokens` allows.

    Parameters and returned micro-batches are those of `split_for_padding`; `is_padding_counted` where `max_tokens` holds for
    the tokens of a micro-batch that is padded to its longest row.
    """
    parts: list[list[int]] = []
    tokens = 0
    for row in sorted(rows, key=lambda row: lengths[row], reverse=True):
        tokens += lengths[parts[-1][0] if parts and is_padding_counted else row]
        if not parts or (max_tokens is not None and tokens > max_tokens):
            parts.append([])
            tokens = lengths[row]
        parts[-1].append(row)
    return parts


def _chunk(rows: NDArray[np.int64], size: int) -> list[list[int]]:
    return [rows[begin : begin + size].tolist() for begin in range(0, len(rows), size)]
