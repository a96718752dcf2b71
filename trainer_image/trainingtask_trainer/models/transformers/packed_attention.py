"""The rows of a batch end to end in one sequence: next to no padding, and one pass over the weights.

Every layer of an encoder but attention works on single tokens, whichever row they are of. So the model gets one long
row, with positions that restart at each sequence in it; attention is computed within each sequence; and the
classification head gets the first token of each. The head reads no other token, so the last layer computes no other
either: of its weights, only those of keys and values are multiplied with the other tokens. Numbers are those of a
padded batch up to rounding.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PretrainedConfig, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from trainingtask_trainer.pretrained.families import get_family

_ATTENTION_NAME = "sdpa_within_sequences"
# Tokens. Attention takes 10 % of a step when sequences share a call only at equal lengths, and 7 % within 8 tokens.
_LENGTH_BUCKET = 8
# Parts of a power of two to which shapes are rounded: a batch of slots has at most an eighth more tokens, and its attention
# at most half as many slots more than the longest sequence needs.
_TOKEN_PARTS, _SLOT_PARTS = 8, 2
MAX_ROUNDING = 1 + 1 / _SLOT_PARTS
"""At most so many times as many slots has a batch as its sequences padded to the longest."""
_MIN_TOKENS, _MIN_SLOTS = 64, 32
IS_USED_ON_GPUS = False
"""Whether a training on a GPU packs its batches and launches its steps as graphs: not before a GPU has shown the same
losses and the gain (docs/adr/0015-cuda-graphs.md). Benchmark and tests set it."""


def can_pack(config: PretrainedConfig) -> bool:
    """Return whether models of this configuration can read packed batches."""
    return (
        get_family(config.model_type).packing_encoder is not None
        and getattr(config, "position_embedding_type", "absolute") == "absolute"
        and not getattr(config, "is_decoder", False)
    )


def enable_packing(model: PreTrainedModel) -> None:
    """Make a sequence classifier that `can_pack` accept packed batches, beside padded ones."""
    AttentionInterface.register(_ATTENTION_NAME, _forward_attention)
    AttentionMaskInterface.register(_ATTENTION_NAME, sdpa_mask)
    model.set_attn_implementation(_ATTENTION_NAME)
    family = get_family(model.config.model_type)
    encoder = getattr(model.base_model, family.packing_encoder or "")
    if not family.has_shared_layers:
        encoder.layer[-1].register_forward_pre_hook(_select_first_tokens_hook, with_kwargs=True)
    encoder.register_forward_hook(_gather_first_tokens_hook, with_kwargs=True)


def pack(token_ids: Sequence[Sequence[int]], config: PretrainedConfig) -> dict[str, torch.Tensor]:
    """Return the model's arguments for these sequences; its logits are of shape [sequences, labels], in their order.

    Attention is fastest when sequences of like length follow each other.
    """
    first = config.pad_token_id + 1 if get_family(config.model_type).has_padding_offset else 0
    lengths = np.array([len(ids) for ids in token_ids])
    boundaries = np.concatenate([[0], lengths.cumsum()])
    positions = first + np.arange(boundaries[-1]) - boundaries[:-1].repeat(lengths)
    return {
        "input_ids": torch.from_numpy(np.concatenate(token_ids).astype(np.int64))[None],
        "position_ids": torch.from_numpy(positions)[None],
        "cu_seq_lens_q": torch.from_numpy(boundaries),
    }


def pack_with_slots(token_ids: Sequence[Sequence[int]], config: PretrainedConfig) -> dict[str, torch.Tensor]:
    """Return the model's arguments for these sequences, of shapes that repeat; see `pack`.

    Tokens are added after the last sequence, which no sequence attends to and no logit depends on.
    """
    batch = pack(token_ids, config)
    tokens = batch["input_ids"].shape[1]
    missing = (0, round_up(max(_MIN_TOKENS, tokens), _TOKEN_PARTS) - tokens)
    return {
        "input_ids": pad(batch["input_ids"], missing, value=config.pad_token_id),
        "position_ids": pad(batch["position_ids"], missing, value=int(batch["position_ids"][0, 0])),
        "cu_seq_lens_q": batch["cu_seq_lens_q"],
        **_assign_slots([len(ids) for ids in token_ids], tokens + missing[1]),
    }


def slice_packed(batch: dict[str, torch.Tensor], rows: slice) -> dict[str, torch.Tensor]:
    """Return some of the sequences of a batch that `pack_with_slots` made, with their labels."""
    boundaries = batch["cu_seq_lens_q"][rows.start : rows.stop + 1]
    first, last = int(boundaries[0]), int(boundaries[-1])
    slots = _assign_slots(boundaries.diff().tolist(), last - first)
    return {
        "input_ids": batch["input_ids"][:, first:last],
        "position_ids": batch["position_ids"][:, first:last],
        "cu_seq_lens_q": boundaries - first,
        **{name: tensor.to(boundaries.device) for name, tensor in slots.items()},
        "labels": batch["labels"][rows],
    }


def round_up(count: int, parts: int) -> int:
    """Return the next multiple of `parts` to a power of two: of 8 parts, 1024 to 2048 are in steps of 128."""
    step = max(1, (1 << (count.bit_length() - 1)) // parts)
    return -(-count // step) * step


def _assign_slots(lengths: Sequence[int], tokens: int) -> dict[str, torch.Tensor]:
    """Return the arguments of `_attend_in_slots`: of sequences of these lengths, of which slots there are, and for whom.

    Tokens after the last sequence get the output of any slot. A slot without a token gets any token, another one each time:
    on a GPU their gradients, which are 0, would wait for each other.
    """
    rows, width = len(lengths), round_up(max(_MIN_SLOTS, *lengths), _SLOT_PARTS)
    is_filled = torch.arange(width) < torch.tensor(lengths)[:, None]
    token_of_slot = torch.arange(rows * width).remainder(sum(lengths)).view(rows, width)
    token_of_slot[is_filled] = torch.arange(sum(lengths))
    slot_of_token = torch.zeros(tokens, dtype=torch.long)
    slot_of_token[: sum(lengths)] = is_filled.flatten().nonzero()[:, 0]
    return {
        "token_of_slot": token_of_slot,
        "slot_of_token": slot_of_token,
        "is_slot_filled": is_filled[:, None, None],
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
    all_hidden_states: torch.Tensor | None = None,
    token_of_slot: torch.Tensor | None = None,
    slot_of_token: torch.Tensor | None = None,
    is_slot_filled: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend within each sequence; the signature is that of transformers' attention functions.

    `cu_seq_lens_q` holds where each sequence begins and the last one ends, shape [sequences + 1]; None for a padded
    batch. `query`, `key` and `value` are of shape [1, heads, tokens, head size]; with `all_hidden_states`, shape
    [1, tokens, hidden], they are those of each sequence's first token alone, which attends to all of its tokens.
    """
    if cu_seq_lens_q is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    if all_hidden_states is not None:
        key, value = project_keys_and_values(module, all_hidden_states, query.shape[1])
    if token_of_slot is not None:
        assert slot_of_token is not None and is_slot_filled is not None  # noqa: S101, PT018 - they come together
        slots = _Slots(token_of_slot, slot_of_token, is_slot_filled)
        return _attend_in_slots(query, key, value, slots, scale=scaling, dropout=dropout), None
    lengths = cu_seq_lens_q.diff().tolist()
    scale = scaling or query.shape[-1] ** -0.5
    if dropout == 0:
        return _attend(query, key, value, lengths, scale=scale), None
    return _attend_with_dropout(query, key, value, lengths, scale=scale, dropout=dropout), None


def project_keys_and_values(
    module: torch.nn.Module, hidden_states: torch.Tensor, heads: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return an attention module's keys and values of hidden states, shape [rows, heads, tokens, head size] each."""
    config: Any = module.config
    key, value = (getattr(module, name)(hidden_states) for name in get_family(config.model_type).packing_projections)
    return key.unflatten(-1, (heads, -1)).transpose(1, 2), value.unflatten(-1, (heads, -1)).transpose(1, 2)


class _Slots(NamedTuple):
    """Where tokens stand when the sequences are padded to one width."""

    token_of_slot: torch.Tensor
    """Shape [sequences, width]."""
    slot_of_token: torch.Tensor
    """Shape [tokens], of the slots of all sequences."""
    is_filled: torch.Tensor
    """Shape [sequences, 1, 1, width]; each sequence fills a slot."""


def _attend_in_slots(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, slots: _Slots, *, scale: float | None, dropout: float
) -> torch.Tensor:
    """Attend in one call for all sequences: no step waits for the lengths, which are on the device."""
    rows, width = slots.token_of_slot.shape

    def fill(part: torch.Tensor) -> torch.Tensor:
        tokens = part[0].transpose(0, 1)
        filled = tokens.index_select(0, slots.token_of_slot.view(-1))
        return filled.view(rows, width, *tokens.shape[1:]).transpose(1, 2)

    is_first_only = query.shape[2] == rows
    queries = query.transpose(0, 2) if is_first_only else fill(query)
    output = scaled_dot_product_attention(
        queries, fill(key), fill(value), attn_mask=slots.is_filled, dropout_p=dropout, scale=scale
    )
    states = output.transpose(1, 2).flatten(0, 1)
    return (states if is_first_only else states.index_select(0, slots.slot_of_token))[None]


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, lengths: Sequence[int], *, scale: float
) -> torch.Tensor:
    """Attend in one call for each run of sequences of equal length."""
    runs = [(length, len(list(group))) for length, group in groupby(lengths)]
    tokens = [length * count for length, count in runs]
    queries = [count for _, count in runs] if query.shape[2] == len(lengths) else tokens
    parts = ((query, queries), (key, tokens), (value, tokens))
    by_run = (torch.split(part[0].transpose(0, 1), sizes) for part, sizes in parts)
    outputs = []
    for (_, count), *run in zip(runs, *by_run, strict=True):
        q, k, v = (part.unflatten(0, (count, -1)).transpose(1, 2) for part in run)
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

    Sequences of like length share a call: for short ones a call costs more than its arithmetic, above all in bf16.
    """
    heads, size = query.shape[1], query.shape[-1]
    masks, positions = _group_by_length(lengths, heads)
    sizes = [mask.numel() * heads for mask in masks]
    # The row of each position; that of a padded one is the row of zeros after the last.
    rows = torch.full((sum(sizes),), len(positions)).index_copy(0, positions, torch.arange(len(positions)))

    def flatten_heads(part: torch.Tensor) -> torch.Tensor:
        return part.transpose(1, 2).reshape(-1, size)

    def split_by_group(part: torch.Tensor) -> Sequence[torch.Tensor]:
        padded = torch.nn.functional.pad(flatten_heads(part), (0, 0, 0, 1))
        return torch.split(padded.index_select(0, rows), sizes)

    is_first_only = query.shape[2] == len(lengths)
    queries = (
        torch.split(flatten_heads(query), [len(mask) * heads for mask in masks])
        if is_first_only
        else split_by_group(query)
    )
    outputs = []
    for mask, *group in zip(masks, queries, split_by_group(key), split_by_group(value), strict=True):
        q, k, v = (part.view(len(mask) * heads, -1, size) for part in group)
        bias = q.new_zeros(mask.shape).masked_fill(~mask, -torch.inf).repeat_interleave(heads, 0).unsqueeze(1)
        weights = torch.baddbmm(bias, q, k.transpose(1, 2), alpha=scale).softmax(-1)
        outputs.append((torch.nn.functional.dropout(weights, dropout) @ v).flatten(0, 1))
    output = torch.cat(outputs)
    return (output if is_first_only else output.index_select(0, positions)).view(1, -1, heads, size)


def _group_by_length(lengths: Sequence[int], heads: int) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Pad sequences of like length, which follow each other, to one shape, so that one call serves them all.

    Returns
    -------
    The mask of each group's tokens, shape [sequences, longest], and the position of each head of each token when the
    groups follow each other as [sequences, heads, longest].
    """
    masks: list[torch.Tensor] = []
    positions: list[torch.Tensor] = []
    first = 0
    for _, group in groupby(lengths, key=lambda length: -(-length // _LENGTH_BUCKET)):
        tokens = torch.tensor(list(group))
        mask = torch.arange(int(tokens.max())) < tokens[:, None]
        numbered = first + torch.arange(mask.numel() * heads).view(len(tokens), heads, -1)
        first += numbered.numel()
        masks.append(mask)
        positions.append(numbered.transpose(1, 2)[mask].flatten())
    return masks, torch.cat(positions)


def _select_first_tokens_hook(module: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
    """Give a layer [1, sequences, hidden] instead of [1, tokens, hidden], and its attention the rest."""
    boundaries = kwargs.get("cu_seq_lens_q")
    if boundaries is None:
        return None
    hidden, *others = args
    return (hidden[:, boundaries[:-1]], *others), kwargs | {"all_hidden_states": hidden}


def _gather_first_tokens_hook(module: torch.nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
    """Turn [1, tokens or sequences, hidden] into [sequences, 1, hidden], which is all that the head reads."""
    boundaries = kwargs.get("cu_seq_lens_q")
    if boundaries is not None:
        (states,) = output.last_hidden_state
        if len(states) > len(boundaries) - 1:
            states = states[boundaries[:-1]]
        output.last_hidden_state = states.unsqueeze(1)
    return output
