"""The rows of a batch end to end in one sequence: next to no padding, and one pass over the weights.

Every layer of an encoder but attention reads its tokens one by one and does not care whose they are. So the model gets
one long row, with positions that start anew at each of its texts; attention is cut at the texts' borders; and the
classification head gets the first token of each text. As it reads no other, the last layer computes no other either: of
its weights, those of keys and values are all that the other tokens meet. Numbers are those of a padded batch up to
rounding.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PretrainedConfig, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

_ATTENTION_NAME = "sdpa_within_texts"
_LENGTH_BUCKET = 8  # tokens: with less short texts take many calls of attention, with more they take much padding
# Families whose head reads each text's first token, and the part of theirs that ends in the last hidden states.
_ENCODERS = {"albert": "encoder", "bert": "encoder", "distilbert": "transformer", "roberta": "encoder"}


def can_pack(config: PretrainedConfig) -> bool:
    """Return whether models of this configuration can read packed batches."""
    return (
        config.model_type in _ENCODERS
        and getattr(config, "position_embedding_type", "absolute") == "absolute"
        and not getattr(config, "is_decoder", False)
    )


def enable_packing(model: PreTrainedModel) -> None:
    """Make a sequence classifier that `can_pack` read packed batches, beside padded ones."""
    AttentionInterface.register(_ATTENTION_NAME, _forward_attention)
    AttentionMaskInterface.register(_ATTENTION_NAME, sdpa_mask)
    model.set_attn_implementation(_ATTENTION_NAME)
    encoder = getattr(model.base_model, _ENCODERS[model.config.model_type])
    if model.config.model_type != "albert":  # whose last layer may be its first one again
        encoder.layer[-1].register_forward_pre_hook(_select_first_tokens_hook, with_kwargs=True)
    encoder.register_forward_hook(_gather_first_tokens_hook, with_kwargs=True)


def pack(token_ids: Sequence[Sequence[int]], config: PretrainedConfig) -> dict[str, torch.Tensor]:
    """Return the model's inputs for these texts; its logits are of shape [texts, labels], in their order.

    Attention is fastest when texts of like length follow each other.
    """
    # RoBERTa keeps the positions up to that of its padding token for padding.
    first = config.pad_token_id + 1 if config.model_type == "roberta" else 0
    lengths = [len(ids) for ids in token_ids]
    return {
        "input_ids": torch.tensor([[token for ids in token_ids for token in ids]]),
        "position_ids": torch.cat([torch.arange(first, first + length) for length in lengths])[None],
        "cu_seq_lens_q": torch.tensor([0, *lengths]).cumsum(0),
    }


def _forward_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    all_tokens: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend within each text.

    `query`, `key` and `value` are of shape [1, heads, tokens, head size], or, with the hidden states of `all_tokens`,
    those of each text's first token: only these are asked for, and attend to all.
    """
    if cu_seq_lens_q is None:  # a padded batch
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    if all_tokens is not None:
        names = ("k_lin", "v_lin") if hasattr(module, "k_lin") else ("key", "value")
        states = (getattr(module, name)(all_tokens) for name in names)
        key, value = (state.unflatten(-1, (query.shape[1], -1)).transpose(1, 2) for state in states)
    lengths = cu_seq_lens_q.diff().tolist()
    scale = scaling or query.shape[-1] ** -0.5
    if dropout == 0:
        return _attend(query, key, value, lengths, scale=scale), None
    return _attend_with_dropout(query, key, value, lengths, scale=scale, dropout=dropout), None


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, lengths: Sequence[int], *, scale: float
) -> torch.Tensor:
    runs = [(length, len(list(texts))) for length, texts in groupby(lengths)]
    tokens = [length * texts for length, texts in runs]
    queries = [texts for _, texts in runs] if query.shape[2] == len(lengths) else tokens
    parts = ((query, queries), (key, tokens), (value, tokens))
    by_run = (torch.split(part[0].transpose(0, 1), sizes) for part, sizes in parts)
    outputs = []
    for (_, texts), *run in zip(runs, *by_run, strict=True):
        q, k, v = (part.unflatten(0, (texts, -1)).transpose(1, 2) for part in run)
        outputs.append(scaled_dot_product_attention(q, k, v, scale=scale).transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs)[None]


def _attend_with_dropout(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    lengths: Sequence[int],
    *,
    scale: float,
    dropout: float,
) -> torch.Tensor:
    """Attend as torch does where no kernel has dropout, as on a CPU, but in fewer passes over the scores.

    Texts of like length share a call: short ones take less time to compute than to call for, above all in bf16.
    """
    heads, size = query.shape[1], query.shape[-1]
    groups, places = _group_by_length(lengths, heads)
    sizes = [full.numel() * heads for full in groups]
    # The row of each place; that of an empty one is the zeros after the last.
    rows = torch.full((sum(sizes),), len(places)).index_copy(0, places, torch.arange(len(places)))

    def of_heads(part: torch.Tensor) -> torch.Tensor:
        return part.transpose(1, 2).reshape(-1, size)

    def by_group(part: torch.Tensor) -> Sequence[torch.Tensor]:
        return torch.split(torch.nn.functional.pad(of_heads(part), (0, 0, 0, 1)).index_select(0, rows), sizes)

    first_only = query.shape[2] == len(lengths)
    queries = torch.split(of_heads(query), [len(full) * heads for full in groups]) if first_only else by_group(query)
    outputs = []
    for full, *group in zip(groups, queries, by_group(key), by_group(value), strict=True):
        q, k, v = (part.view(len(full) * heads, -1, size) for part in group)
        empty = q.new_zeros(full.shape).masked_fill(~full, -torch.inf).repeat_interleave(heads, 0).unsqueeze(1)
        weights = torch.baddbmm(empty, q, k.transpose(1, 2), alpha=scale).softmax(-1)
        outputs.append((torch.nn.functional.dropout(weights, dropout) @ v).flatten(0, 1))
    output = torch.cat(outputs)
    return (output if first_only else output.index_select(0, places)).view(1, -1, heads, size)


def _group_by_length(lengths: Sequence[int], heads: int) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Put texts of like length, which follow each other, into a table, so that one call serves them all.

    Returns
    -------
    For each group which of its places [texts, places] have a token, and where each head of each token stands if the
    groups follow each other as [texts, heads, places].
    """
    groups: list[torch.Tensor] = []
    places: list[torch.Tensor] = []
    first = 0
    for _, texts in groupby(lengths, key=lambda length: -(-length // _LENGTH_BUCKET)):
        tokens = torch.tensor(list(texts))
        full = torch.arange(int(tokens.max())) < tokens[:, None]
        numbered = first + torch.arange(full.numel() * heads).view(len(tokens), heads, -1)
        first += numbered.numel()
        groups.append(full)
        places.append(numbered.transpose(1, 2)[full].flatten())
    return groups, torch.cat(places)


def _select_first_tokens_hook(module: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
    """Give a layer [1, texts, hidden] instead of [1, tokens, hidden], and its attention the rest."""
    borders = kwargs.get("cu_seq_lens_q")
    if borders is None:
        return None
    hidden, *others = args
    return (hidden[:, borders[:-1]], *others), kwargs | {"all_tokens": hidden}


def _gather_first_tokens_hook(module: torch.nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
    """Turn [1, tokens or texts, hidden] into [texts, 1, hidden], which is all that the head reads."""
    borders = kwargs.get("cu_seq_lens_q")
    if borders is not None:
        (states,) = output.last_hidden_state
        if len(states) > len(borders) - 1:
            states = states[borders[:-1]]
        output.last_hidden_state = states.unsqueeze(1)
    return output
