"""The one seam through which a model tells how far it is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class CurvePoint:
    """How far a training was at one optimiser step. The names are those of the history's curves."""

    step: int
    training_loss: float | None = None
    """Mean since the point before."""
    learning_rate: float | None = None
    """Of this step."""
    validation_loss: float | None = None
    mean_average_precision: float | None = None
    """On the validation rows."""


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
    curve: Sequence[CurvePoint] = ()
    """The curve so far; it only ever grows at its end."""


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
