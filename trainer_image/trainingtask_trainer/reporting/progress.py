"""The interface through which a model reports its progress."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class CurvePoint:
    """Losses and scores at one optimizer step; the fields' names are those of the history's curves."""

    step: int
    training_loss: float | None = None
    """Mean since the last point."""
    learning_rate: float | None = None
    """Of this step."""
    validation_loss: float | None = None
    mean_average_precision: float | None = None
    """On the validation rows."""


@dataclass(frozen=True)
class Step:
    """The progress of a training."""

    epoch: int
    """Current epoch, from 1."""
    epochs: int
    step: int
    """Optimizer steps done. Rate and time left count from the first report on, without the loading of weights."""
    total_steps: int
    rows: int
    """Training rows read so far, all epochs together."""
    loss: float | None
    """Latest training loss."""
    resumed_from: int | None = None
    """Optimizer step of the checkpoint that this attempt resumed from."""
    curve: Sequence[CurvePoint] = ()
    """The curve so far; points are only ever appended."""


class Progress(Protocol):
    """Called by a model before its first optimizer step, after each, and before each batch of a validation."""

    def __call__(self, step: Step) -> None:
        """Take the newest step, without blocking.

        Raises
        ------
        Interrupted
            When the process was asked to stop.
        """
        ...
