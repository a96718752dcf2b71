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
    """Optimiser steps done. The first one told starts the clock of rate and time left: loading weights is no training."""
    total_steps: int
    rows: int
    """Training rows read so far, all epochs together."""
    loss: float | None
    """Latest training loss."""
    resumed_from: int | None = None
    """Optimiser step of the checkpoint that this attempt went on from."""


class Progress(Protocol):
    """Called by a model before its first optimiser step, after each, and now and then while it validates."""

    def __call__(self, step: Step) -> None:
        """Take the newest step and return at once.

        Raises
        ------
        Interrupted
            When the process was asked to stop.
        """
        ...
