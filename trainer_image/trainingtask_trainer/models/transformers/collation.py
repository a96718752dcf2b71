"""What a transformer reads: the rows of each optimiser step, cut into micro-batches of like length."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trainingtask_trainer.evaluation.metrics import LabelMatrix
from trainingtask_trainer.models.transformers import packed_attention
from trainingtask_trainer.models.transformers.batch_planning import (
    CPU_OVERHEAD_TOKENS,
    GPU_OVERHEAD_TOKENS,
    plan_batches,
    split_for_packing,
    split_for_padding,
)
from trainingtask_trainer.models.transformers.optimization import Settings
from trainingtask_trainer.preprocessors.tokenizer import TokenIds

Batch = dict[str, torch.Tensor]
"""Arguments of a model's `forward`, and perhaps `labels` of shape [rows, labels]."""
StepRows = list[list[int]]
"""The rows of one optimiser step, batch by batch."""

# XLNet learned with segment numbers of their own for its closing token and for padding.
_XLNET_CLS_SEGMENT, _XLNET_PAD_SEGMENT = 2, 3


class Collator:
    """Token ids as a model reads them: packed where it can (see `packing`), else padded to the longest row."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Prepare `model`, on the device where it will stay; once for each model."""
        self._config = model.config
        self._tokenizer = tokenizer
        on_cpu = model.device.type == "cpu"
        self._overhead_tokens = CPU_OVERHEAD_TOKENS if on_cpu else GPU_OVERHEAD_TOKENS
        self._is_packing = on_cpu and packed_attention.can_pack(model.config)
        if self._is_packing:
            packed_attention.enable_packing(model)

    def collate(self, token_ids: Sequence[Sequence[int]]) -> Batch:
        """Return the model's arguments; its logits will be in the order of the rows."""
        return packed_attention.pack(token_ids, self._config) if self._is_packing else pad(self._tokenizer, token_ids)

    def split(self, rows: Sequence[int], lengths: Sequence[int], max_tokens: int | None) -> list[list[int]]:
        """Cut a batch into the micro-batches that cost the least."""
        if self._is_packing:
            return split_for_packing(rows, lengths, max_tokens=max_tokens)
        return split_for_padding(rows, lengths, max_tokens=max_tokens, overhead_tokens=self._overhead_tokens)


class BatchPlan:
    """Which rows each optimiser step reads: the same for both loops, and known for any epoch without the ones before."""

    def __init__(self, lengths: Sequence[int], settings: Settings, collator: Collator, max_tokens: int | None) -> None:
        """Plan for rows of these lengths in tokens; no micro-batch has more than `max_tokens`, padding counted."""
        self._lengths = lengths
        self._settings = settings
        self._collator = collator
        self._max_tokens = max_tokens
        rows_per_step = settings.batch_size * settings.gradient_accumulation_steps
        self.steps_per_epoch = -(-len(lengths) // rows_per_step)
        self.total_steps = self.steps_per_epoch * settings.epochs

    def plan_epoch(self, epoch: int) -> list[StepRows]:
        """Return the rows of each step of an epoch, the first of which is 0."""
        settings = self._settings
        seed = int(np.random.SeedSequence([settings.seed, epoch]).generate_state(1)[0])
        cut = plan_batches(self._lengths, settings.batch_size, seed, settings.batching)
        size = settings.gradient_accumulation_steps
        return [cut[start : start + size] for start in range(0, len(cut), size)]

    def split_step(self, step: StepRows) -> list[list[int]]:
        """Return the rows of each micro-batch of a step."""
        return [rows for batch in step for rows in self._collator.split(batch, self._lengths, self._max_tokens)]

    def iter_remaining_steps(self, step: int) -> Iterator[list[list[int]]]:
        """Yield the micro-batches of each step of the running epoch from `step` on, which counts all epochs."""
        epoch, done = divmod(step, self.steps_per_epoch)
        for rows in self.plan_epoch(epoch)[done:]:
            yield self.split_step(rows)


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
        return self._collator.collate([self._token_ids[row] for row in rows]) | {"labels": labels}


def move_to_device(batches: list[Batch], device: torch.device) -> list[Batch]:
    """Return the batches as they are on a device."""
    return [{name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()} for batch in batches]


def count_rows_and_tokens(batches: list[Batch]) -> tuple[int, int]:
    """Return the rows and the tokens in batches, the padding not counted."""
    rows = sum(len(batch["labels"]) for batch in batches)
    return rows, sum(int(batch.get("attention_mask", torch.ones_like(batch["input_ids"])).sum()) for batch in batches)


def pad(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[Sequence[int]]) -> Batch:
    """Return arguments of shape [rows, tokens of the longest row]."""
    longest = max(map(len, token_ids))
    ids = np.full((len(token_ids), longest), tokenizer.pad_token_id, dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, tokens in enumerate(token_ids):
        place = slice(longest - len(tokens), None) if tokenizer.padding_side == "left" else slice(len(tokens))
        ids[row, place] = tokens
        mask[row, place] = 1
    batch = {"input_ids": ids, "attention_mask": mask}
    if "XLNet" in type(tokenizer).__name__:
        segments = np.where(ids == tokenizer.cls_token_id, _XLNET_CLS_SEGMENT, 0)
        batch["token_type_ids"] = np.where(mask == 0, _XLNET_PAD_SEGMENT, segments)
    return {name: torch.from_numpy(values) for name, values in batch.items()}
