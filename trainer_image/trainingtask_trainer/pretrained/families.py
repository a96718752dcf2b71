"""The table of transformer families: what the code must know of one beyond what its checkpoint's configuration holds."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class SegmentIds:
    """Token types that a family learned for its classification token and for padding; every other token has 0."""

    classification: int
    padding: int


@dataclass(frozen=True)
class Family:
    """A family of encoders. The defaults are those of a family that is not in the table: its batches are padded."""

    default_checkpoint: str | None = None
    """The hub's id of the checkpoint that `model.name` stands for; None where the task must name one."""
    has_padding_offset: bool = False
    """Whether positions start after the padding token's: of 514 positions texts use 512."""
    packing_encoder: str | None = None
    """The attribute of the base model that returns the last hidden states, for batches that are packed; None: padded.

    The classification head must read the first token alone.
    """
    packing_projections: tuple[str, str] = ("key", "value")
    """The attributes of an attention module that project hidden states to keys and values."""
    has_shared_layers: bool = False
    """Whether one module is several layers, so that no hook tells the last layer from the others."""
    segments: SegmentIds | None = None
    tokenizer_class: str = ""
    """A part of the name of the tokenizer's classes, where `segments` are needed."""


FAMILIES = {
    "albert": Family("albert/albert-base-v2", packing_encoder="encoder", has_shared_layers=True),
    "bert": Family("google-bert/bert-base-uncased", packing_encoder="encoder"),
    "camembert": Family(has_padding_offset=True),
    "distilbert": Family(
        "distilbert/distilbert-base-uncased", packing_encoder="transformer", packing_projections=("k_lin", "v_lin")
    ),
    "longformer": Family(has_padding_offset=True),
    "mpnet": Family(has_padding_offset=True),
    "roberta": Family("FacebookAI/roberta-base", has_padding_offset=True, packing_encoder="encoder"),
    "xlm-roberta": Family(has_padding_offset=True),
    "xlnet": Family("xlnet/xlnet-base-cased", segments=SegmentIds(2, 3), tokenizer_class="XLNet"),
}
"""Families by `model_type` in config.json. Those with a default checkpoint are values of `model.name`."""


def get_family(model_type: str | None) -> Family:
    """Return the family of a `model_type`; the defaults for one that is not in the table."""
    return FAMILIES.get(model_type or "", Family())


def get_segments(tokenizer: Any) -> SegmentIds | None:
    """Return the segment ids that a tokenizer's family needs, None where all are 0."""
    name = type(tokenizer).__name__
    return next(
        (family.segments for family in FAMILIES.values() if family.segments and family.tokenizer_class in name), None
    )
