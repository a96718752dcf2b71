"""The one seam through which a model tells how far it is."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Step:
    """A point in a training."""

    epoch: int
    """Current epoch, from 1."""
    epochs: int
    step: int
    """Optimiser steps done."""
    total_steps: int
    rows: int
    """Training rows read so far, all epochs together."""
    loss: float | None
    """Latest training loss."""


class Progress(Protocol):
    """Called by a model after each optimiser step."""

    def __call__(self, step: Step) -> None:
        """Take the newest step and return at once."""
        ...
