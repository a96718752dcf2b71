"""Padding of token ids to the longest row of a batch."""

from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from trainingtask_trainer.pretrained.families import get_segments


def pad(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
    """Return a model's arguments, each of shape [rows, tokens of the longest row], padded on the tokenizer's side."""
    longest = max(map(len, token_ids))
    ids = np.full((len(token_ids), longest), tokenizer.pad_token_id, dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, tokens in enumerate(token_ids):
        columns = slice(longest - len(tokens), None) if tokenizer.padding_side == "left" else slice(len(tokens))
        ids[row, columns] = tokens
        mask[row, columns] = 1
    batch = {"input_ids": ids, "attention_mask": mask}
    if (segments := get_segments(tokenizer)) is not None:
        types = np.where(ids == tokenizer.cls_token_id, segments.classification, 0)
        batch["token_type_ids"] = np.where(mask == 0, segments.padding, types)
    return {name: torch.from_numpy(values) for name, values in batch.items()}
