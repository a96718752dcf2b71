"""The rows of a batch end to end in one sequence: no padding at all, and one pass over the weights.

Every layer of an encoder but attention reads its tokens one by one and does not care whose they are. So the model gets
one long row, with positions that start anew at each of its texts; attention is cut at the texts' borders; and the
classification head gets the first token of each text. Numbers are those of a padded batch up to rounding.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PretrainedConfig, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

_ATTENTION = "sdpa_within_texts"
# Families whose head reads each text's first token, and the part of theirs that ends in the last hidden states.
_ENCODERS = {"albert": "encoder", "bert": "encoder", "distilbert": "transformer", "roberta": "encoder"}


def can_pack(config: PretrainedConfig) -> bool:
    """Return whether models of this configuration can read packed batches."""
    return config.model_type in _ENCODERS and getattr(config, "position_embedding_type", "absolute") == "absolute"


def enable(model: PreTrainedModel) -> None:
    """Make a sequence classifier that `can_pack` read packed batches, beside padded ones."""
    AttentionInterface.register(_ATTENTION, _attention)
    AttentionMaskInterface.register(_ATTENTION, sdpa_mask)
    model.set_attn_implementation(_ATTENTION)
    encoder = getattr(model.base_model, _ENCODERS[model.config.model_type])
    encoder.register_forward_hook(_keep_first_tokens, with_kwargs=True)


def pack(token_ids: Sequence[Sequence[int]], config: PretrainedConfig) -> dict[str, torch.Tensor]:
    """Return the model's inputs for these texts; its logits are of shape [texts, labels], in their order.

    Attention is fastest when texts of equal length follow each other.
    """
    # RoBERTa keeps the positions up to that of its padding token for padding.
    first = config.pad_token_id + 1 if config.model_type == "roberta" else 0
    lengths = [len(ids) for ids in token_ids]
    return {
        "input_ids": torch.tensor([[token for ids in token_ids for token in ids]]),
        "position_ids": torch.cat([torch.arange(first, first + length) for length in lengths])[None],
        "cu_seq_lens_q": torch.tensor([0, *lengths]).cumsum(0),
    }


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend within each text; `query`, `key` and `value` are of shape [1, heads, tokens, head size]."""
    if cu_seq_lens_q is None:  # a padded batch
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    runs = [(length, len(list(texts))) for length, texts in groupby(cu_seq_lens_q.diff().tolist())]
    tokens = [length * texts for length, texts in runs]
    by_run = (torch.split(part[0].transpose(0, 1), tokens) for part in (query, key, value))
    outputs = []
    for (length, texts), *run in zip(runs, *by_run, strict=True):
        q, k, v = (part.unflatten(0, (texts, length)).transpose(1, 2) for part in run)
        if dropout == 0:
            output = scaled_dot_product_attention(q, k, v, scale=scaling)
        else:  # no kernel on a CPU has dropout, and what torch does then passes over the scores more often than this
            scores = (q * (scaling or q.shape[-1] ** -0.5)) @ k.transpose(-1, -2)
            output = torch.nn.functional.dropout(scores.softmax(-1), dropout) @ v
        outputs.append(output.transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs)[None], None


def _keep_first_tokens(module: torch.nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
    """Turn [1, tokens, hidden] into [texts, 1, hidden], which is all that the head reads."""
    borders = kwargs.get("cu_seq_lens_q")
    if borders is not None:
        output.last_hidden_state = output.last_hidden_state[0, borders[:-1]].unsqueeze(1)
    return output
