"""The state that both loops share around their steps: progress, validation, the best epoch's weights, checkpoints."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model
from transformers import PreTrainedModel

from trainingtask_api.reasons import Reason
from trainingtask_trainer.datasets.base import LabelMatrix
from trainingtask_trainer.errors import Interrupted, UserError
from trainingtask_trainer.evaluation.metrics import Probabilities, binary_cross_entropy, mean_average_precision
from trainingtask_trainer.models.transformers.batch_planning import BatchPlan
from trainingtask_trainer.models.transformers.best_weights import BestWeights
from trainingtask_trainer.models.transformers.checkpointing import Checkpoint, CheckpointStore
from trainingtask_trainer.models.transformers.collation import MicroBatchDataset
from trainingtask_trainer.models.transformers.losses import LossFunction
from trainingtask_trainer.models.transformers.optimization import create_learning_rate_function
from trainingtask_trainer.models.transformers.settings import Settings
from trainingtask_trainer.reporting.progress import CurvePoint, Progress, Step
from trainingtask_trainer.runtime.collectives import (
    broadcast_tensors,
    broadcast_value,
    min_over_ranks,
    share_interruption,
    sum_over_ranks,
)
from trainingtask_trainer.runtime.process_group import meet_ranks
from trainingtask_trainer.runtime.processes import Processes

WEIGHTS_FILE = "model.safetensors"
"""Of a checkpoint; accelerate and transformers both load this name."""
_BEST_WEIGHTS_FILE = "best.safetensors"
_LOSS_INTERVAL = 10  # steps; reading a loss waits for the GPU
_MAX_LOSS_POINTS, _MAX_EPOCH_POINTS = 400, 100  # at most about as many points

Validate = Callable[[Callable[[], None]], Probabilities]
"""Returns the probabilities of the validation rows with the present weights; calls its argument before each batch."""
SaveState = Callable[[Path], None]
"""Writes the model (`WEIGHTS_FILE`), the optimizer and the random numbers' state into a folder."""


@dataclass
class TrainingState:
    """The part of a checkpoint that is neither weights, optimizer nor random numbers. The field names are its format."""

    step: int = 0
    rows: int = 0
    loss_sum: float = 0.0
    """Of the steps' mean losses, each times its rows."""
    epochs_validated: int = 0
    overhead_tokens: int | None = None
    """By which batches are split, as measured at the start: a resumed training splits them as before."""
    max_tokens: int | None = None
    """Of a micro-batch, as the memory allowed at the start: more memory later does not change how batches are split."""
    best_epoch: int | None = None
    best_score: float = -math.inf
    curve: list[CurvePoint] = field(default_factory=list)
    curve_losses: list[float] = field(default_factory=list)
    """Losses since the curve's last point."""

    @classmethod
    def from_checkpoint(cls, stored: dict[str, Any]) -> "TrainingState":
        """Return the state in a checkpoint."""
        return cls(**stored | {"curve": [CurvePoint(**point) for point in stored["curve"]]})


class TrainingSession:
    """One training, from its start or from a checkpoint.

    A loop drives it::

        while not session.is_finished:
            for step in session.plan.iter_remaining_steps(session.state.step):
                ...  # one optimizer step
                session.record_step(loss, rows, tokens)
                if session.end_step():
                    session.write_checkpoint(save_state)
            if session.end_epoch():
                session.write_checkpoint(save_state)

    Of several processes each has a session; all of them take the same decisions. Rank 0's alone reads and writes
    checkpoints, and keeps the weights of the best epoch.
    """

    def __init__(
        self,
        *,
        model: PreTrainedModel,
        settings: Settings,
        plan: BatchPlan,
        dataset: MicroBatchDataset,
        loss_function: LossFunction,
        validation_labels: LabelMatrix,
        validate: Validate,
        progress: Progress,
        checkpoints: CheckpointStore | None,
        scratch: Path,
        processes: Processes,
        is_best_on_disk: bool = False,
    ) -> None:
        self.settings = settings
        self.plan = plan
        self.dataset = dataset
        self.loss_function = loss_function
        self.scratch = scratch
        self.processes = processes
        self.state = TrainingState()
        self.resumed_from: Checkpoint | None = None
        self.resumed_step: int | None = None
        self.rows_seen = 0
        self.tokens_seen = 0
        self.scaling_efficiency: float | None = None
        self._model = model
        self._validation_labels = validation_labels
        self._validate = validate
        self._progress = progress
        self._checkpoints = checkpoints
        self._pending_losses: list[tuple[int, torch.Tensor]] = []  # rows and loss of the latest steps
        self._get_learning_rate = create_learning_rate_function(settings, plan.total_steps)
        self._loss: float | None = None
        self._best_weights = BestWeights(scratch if is_best_on_disk else None)
        self._interruption: Interrupted | None = None
        self._checkpoint_count = 0

    @property
    def is_finished(self) -> bool:
        """Whether all epochs are done, or as many as the patience allows did not improve."""
        done, patience = self.state.epochs_validated, self.settings.early_stopping_patience
        return done == self.settings.epochs or (
            patience is not None and self.state.best_epoch is not None and done - self.state.best_epoch >= patience
        )

    @property
    def epoch(self) -> int:
        """The running epoch, from 0."""
        return self.state.step // self.plan.steps_per_epoch

    @property
    def training_loss(self) -> float:
        """The mean over all rows so far, each with the weights of its step."""
        return self.state.loss_sum / max(1, self.state.rows)

    def start(self) -> None:
        """Load weights and state of the last checkpoint, where there is one, and report the progress.

        A loop loads the rest (optimizer, random numbers) itself, on rank 0 from `resumed_from`. Micro-batches are bounded
        as on the rank, and in the attempt, that had the least memory.
        """
        if self._checkpoints is not None and self.processes.is_main:
            self.resumed_from = self._checkpoints.find_last()
        if self.resumed_from is not None:
            load_model(self._model, self.resumed_from.folder / WEIGHTS_FILE)  # where a tied weight stands once
            best = self.resumed_from.folder / _BEST_WEIGHTS_FILE
            if best.exists():
                self._best_weights.read(best)
        stored = broadcast_value(self.resumed_from and self.resumed_from.state)
        if stored is not None:
            self.state = TrainingState.from_checkpoint(stored)
            self.resumed_step = self.state.step
        limits = [limit for limit in (self.state.max_tokens, self.plan.max_tokens) if limit is not None]
        least = min_over_ranks(min(limits, default=math.inf))
        self.plan.max_tokens = self.state.max_tokens = None if math.isinf(least) else int(least)
        broadcast_tensors(self._model.state_dict().values())  # without a checkpoint they are the same already
        self._report_progress()
        if self.state.step == self.plan.steps_per_epoch * (self.state.epochs_validated + 1):
            self._validate_epoch()  # the training was interrupted between an epoch and its validation

    def get_overhead_tokens(self, measure: Callable[[], int]) -> int:
        """Return the cost of a micro-batch by which this training splits batches, measured once and on all ranks alike."""
        if self.state.overhead_tokens is None:
            self.state.overhead_tokens = int(broadcast_value(measure()))
        return self.state.overhead_tokens

    def record_step(self, loss: torch.Tensor, rows: int, tokens: int) -> None:
        """Record what an optimizer step read, and its mean loss, which is not read yet."""
        self.state.rows += rows
        self.rows_seen += rows
        self.tokens_seen += tokens
        self._pending_losses.append((rows, loss))

    def end_step(self) -> bool:
        """Report the progress after an optimizer step; return whether to write a checkpoint.

        Raises
        ------
        UserError
            When a loss is not a finite number.
        """
        state = self.state
        state.step += 1
        if not self.settings.on_gpu or state.step % _LOSS_INTERVAL == 0 or self._loss is None:
            self._collect_losses()
        every = self.settings.checkpoint_steps
        return self._is_interrupted_by(self._report_progress) or (
            self._checkpoints is not None and every is not None and state.step % every == 0
        )

    def end_epoch(self) -> bool:
        """Validate, keep the weights if they are the best so far; return whether to write a checkpoint."""
        self._collect_losses()
        return self._is_interrupted_by(self._validate_epoch) or (
            self._checkpoints is not None and self.settings.checkpoint_steps is None
        )

    def write_checkpoint(self, save_state: SaveState) -> None:
        """Write a checkpoint of the training; ranks other than 0 wait for it.

        Raises
        ------
        Interrupted
            Once the checkpoint is written, where an interruption was the reason for it.
        """
        assert self._checkpoints is not None  # noqa: S101 - `end_step` and `end_epoch` return False without them
        self._collect_losses()
        if self.processes.is_main:
            with self._checkpoints.write(self.state.step, asdict(self.state)) as folder:
                save_state(folder)
                if not self._best_weights.is_empty:
                    self._best_weights.write(folder / _BEST_WEIGHTS_FILE)
        self._checkpoint_count += 1
        meet_ranks(self.processes, f"checkpoint {self._checkpoint_count}")  # a store may take longer than a collective
        sum_over_ranks(0)  # none leaves while another still asks whether all are there
        if self._interruption is not None:
            raise self._interruption

    def restore_best(self) -> None:
        """Give the model the weights of its best epoch."""
        self._best_weights.restore(self._model)
        broadcast_tensors(self._model.state_dict().values())

    def _is_interrupted_by(self, action: Callable[[], None]) -> bool:
        """Run `action`; return whether it was interrupted, which `write_checkpoint` raises again."""
        try:
            action()
        except Interrupted as interruption:
            if self._checkpoints is None:
                raise
            self._interruption = interruption
            return True
        return False

    def _validate_epoch(self) -> None:
        probabilities = self._validate(self._send_progress)
        state, labels = self.state, self._validation_labels
        loss, precision = binary_cross_entropy(labels, probabilities), mean_average_precision(labels, probabilities)
        state.epochs_validated += 1
        score = -loss if precision is None else precision  # None: no validation row carries any label
        if score > state.best_score:
            state.best_score, state.best_epoch = score, state.epochs_validated
            if state.epochs_validated == self.settings.epochs:
                self._best_weights.clear()
            elif self.processes.is_main:  # the next epoch changes the model's own
                self._best_weights.keep(self._model)
        if state.epochs_validated % math.ceil(self.settings.epochs / _MAX_EPOCH_POINTS) == 0:
            state.curve.append(CurvePoint(state.step, validation_loss=loss, mean_average_precision=precision))

    def _collect_losses(self) -> None:
        state = self.state
        pending, self._pending_losses = self._pending_losses, []
        for step, (rows, loss) in enumerate(pending, start=state.step - len(pending) + 1):
            self._loss = loss.item()
            if not math.isfinite(self._loss):
                raise UserError(
                    Reason.NON_FINITE_LOSS,
                    f"the loss is {self._loss} at step {step}: lower training.learningRate or look at the data",
                )
            state.loss_sum += self._loss * rows
            state.curve_losses.append(self._loss)
            if step % math.ceil(self.plan.total_steps / _MAX_LOSS_POINTS) == 0:
                mean = sum(state.curve_losses) / len(state.curve_losses)
                state.curve.append(CurvePoint(step, training_loss=mean, learning_rate=self._get_learning_rate(step)))
                state.curve_losses.clear()

    def _report_progress(self) -> None:
        with share_interruption():
            self._send_progress()

    def _send_progress(self) -> None:
        step = self.state.step
        self._progress(
            Step(
                epoch=1 + max(0, step - 1) // self.plan.steps_per_epoch,
                epochs=self.settings.epochs,
                step=step,
                total_steps=self.plan.total_steps,
                rows=self.state.rows,
                loss=self._loss,
                resumed_from=self.resumed_step,
                curve=self.state.curve,
            )
        )
