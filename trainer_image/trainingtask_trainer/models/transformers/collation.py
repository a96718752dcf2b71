"""From token ids to what a model reads: batches that are packed, or padded to their longest row."""

from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trainingtask_trainer.datasets.base import LabelMatrix
from trainingtask_trainer.models.transformers import packed_attention
from trainingtask_trainer.models.transformers.batch_planning import (
    CPU_OVERHEAD_TOKENS,
    split_for_packing,
    split_for_padding,
)
from trainingtask_trainer.models.transformers.sharding import shard_for_packing, shard_for_padding
from trainingtask_trainer.preprocessors.padding import pad
from trainingtask_trainer.preprocessors.tokenizer import TokenIds

Batch = dict[str, torch.Tensor]
"""Arguments of a model's `forward`, and in training `labels` of shape [rows, labels]."""


class Collator:
    """Makes batches for one model: packed where the family and the device allow it (see `packed_attention`), else padded.

    On a GPU only those of the training are packed, whose steps are launched as graphs (`step_graphs`): elsewhere the launches
    that packing adds take longer than the padding.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Prepare `model`, on the device where it will stay; once for each model."""
        self._config = model.config
        self._tokenizer = tokenizer
        self._is_on_cpu = model.device.type == "cpu"
        self.overhead_tokens = CPU_OVERHEAD_TOKENS
        """The cost of one more padded micro-batch; to be set where `is_overhead_unknown`."""
        is_used = self._is_on_cpu or packed_attention.IS_USED_ON_GPUS
        self._is_packing = is_used and packed_attention.can_pack(model.config)
        if self._is_packing:
            packed_attention.enable_packing(model)

    @property
    def is_overhead_unknown(self) -> bool:
        """Whether batches are split by a cost that has to be measured."""
        return not self._is_on_cpu and not self._is_packing

    def collate(self, token_ids: Sequence[Sequence[int]], *, is_training: bool = False) -> Batch:
        """Return the model's arguments; its logits will be in the order of the rows."""
        if self._is_packing and self._is_on_cpu:
            return packed_attention.pack(token_ids, self._config)
        if self._is_packing and is_training:
            return packed_attention.pack_with_slots(token_ids, self._config)
        return pad(self._tokenizer, token_ids)

    def split(self, rows: Sequence[int], lengths: Sequence[int], max_tokens: int | None) -> list[list[int]]:
        """Split a batch into the micro-batches that cost the least; see `split_for_padding`."""
        if self._is_packing and not self._is_on_cpu and max_tokens is not None:
            max_tokens = int(max_tokens / packed_attention.MAX_ROUNDING)
        if self._is_packing:
            return split_for_packing(rows, lengths, max_tokens=max_tokens, is_padding_counted=not self._is_on_cpu)
        return split_for_padding(rows, lengths, max_tokens=max_tokens, overhead_tokens=self.overhead_tokens)

    def shard(self, rows: Sequence[int], lengths: Sequence[int], world_size: int) -> list[list[int]]:
        """Return the rows of each rank; see `shard_for_padding`."""
        return (shard_for_packing if self._is_packing else shard_for_padding)(rows, lengths, world_size)


class MicroBatchDataset(torch.utils.data.Dataset[Batch]):
    """The training rows; an item is a micro-batch, and its index the rows in it."""

    def __init__(self, collator: Collator, token_ids: TokenIds, labels: LabelMatrix) -> None:
        self._collator = collator
        self._token_ids = token_ids
        self._labels = labels

    def __len__(self) -> int:
        return len(self._token_ids)

    def __getitem__(self, rows: list[int]) -> Batch:
        labels = torch.from_numpy(self._labels[rows].astype(np.float32))
        token_ids = [self._token_ids[row] for row in rows]
        return self._collator.collate(token_ids, is_training=True) | {"labels": labels}


def move_to_device(batches: list[Batch], device: torch.device) -> list[Batch]:
    """Return the batches with their tensors on a device; a copy to a GPU is not waited for."""
    if device.type == "cpu":
        return batches
    # A copy from memory that is not pinned waits for all that the GPU still computes.
    return [
        {name: tensor.pin_memory().to(device, non_blocking=True) for name, tensor in batch.items()} for batch in batches
    ]


def slice_batch(batch: Batch, rows: slice) -> Batch:
    """Return some of a batch's rows."""
    if "token_of_slot" in batch:
        return packed_attention.slice_packed(batch, rows)
    return {name: tensor[rows] for name, tensor in batch.items()}


def count_rows_and_tokens(batches: list[Batch]) -> tuple[int, int]:
    """Return the rows and the tokens in batches, padding not counted."""
    rows = sum(len(batch["labels"]) for batch in batches)
    return rows, sum(int(batch.get("attention_mask", torch.ones_like(batch["input_ids"])).sum()) for batch in batches)
