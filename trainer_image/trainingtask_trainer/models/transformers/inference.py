"""Probabilities from a transformer, rows sorted by length, which saves most of the padding."""

from collections.abc import Callable
from contextlib import nullcontext

import numpy as np
import torch
from transformers import PreTrainedModel

from trainingtask_trainer.evaluation.metrics import Probabilities
from trainingtask_trainer.models.transformers.collation import Collator
from trainingtask_trainer.preprocessors.tokenizer import TokenIds
from trainingtask_trainer.runtime.collectives import merge_rows, share_interruption
from trainingtask_trainer.runtime.processes import Processes

_BATCH_ROWS = 64  # per batch


def predict_probabilities(
    model: PreTrainedModel,
    collator: Collator,
    token_ids: TokenIds,
    *,
    dtype: torch.dtype | None = None,
    max_tokens: int | None = None,
    before_batch: Callable[[], None] = lambda: None,
    processes: Processes | None = None,
) -> Probabilities:
    """Return probabilities of shape [rows, labels] in the order of the rows.

    Parameters
    ----------
    model, collator
        The collator is made for the model.
    token_ids
        The rows.
    dtype
        Number format of the matrix multiplications under autocast, None for that of the weights.
    max_tokens
        Most tokens of a batch, padding counted; None: no limit.
    before_batch
        Called before each batch; what it raises as `Interrupted` is raised on all ranks.
    processes
        The processes that call this together: each predicts a share of the rows, and all return those of all.
        None: this process alone.
    """
    processes = processes or Processes()
    result: Probabilities = np.zeros((len(token_ids), int(model.config.num_labels or 0)))
    order = sorted(range(len(token_ids)), key=lambda row: len(token_ids[row]), reverse=True)
    order = order[processes.rank :: processes.world_size]
    device = model.device
    model.train(False)
    with (
        nullcontext() if processes.world_size == 1 else share_interruption(),
        torch.inference_mode(),
        torch.autocast(device.type, dtype, enabled=dtype is not None),
    ):
        start = 0
        while start < len(order):
            before_batch()
            longest = len(token_ids[order[start]])
            size = _BATCH_ROWS if max_tokens is None else max(1, min(_BATCH_ROWS, max_tokens // max(1, longest)))
            rows = order[start : start + size]
            batch = collator.collate([token_ids[row] for row in rows])
            logits = model(**{name: tensor.to(device) for name, tensor in batch.items()}).logits
            result[rows] = torch.sigmoid(logits.double()).cpu().numpy()
            start += size
    if processes.world_size > 1:
        merge_rows(result)
    return result
