"""The hyperparameters of a transformer's training, after all defaults."""

from dataclasses import dataclass

import torch

from trainingtask_api.status import Scalar
from trainingtask_api.training import Batching, Loop, Loss, PosWeight, Precision, Scheduler, Training

DEFAULT_EPOCHS = 3
DEFAULT_BATCH_SIZE = 32
DEFAULT_LEARNING_RATE = 5e-5
DEFAULT_WEIGHT_DECAY = 0.01
DEFAULT_MAX_GRADIENT_NORM = 1.0


@dataclass(frozen=True)
class Settings:
    """The hyperparameters of a loop; the names are those of the spec's `training` section."""

    on_gpu: bool
    epochs: int
    batch_size: int
    gradient_accumulation_steps: int
    learning_rate: float
    scheduler: Scheduler
    warmup_fraction: float
    layer_decay: float
    weight_decay: float
    max_gradient_norm: float
    """0: gradients are not clipped."""
    loss: Loss
    pos_weight: PosWeight | None
    loop: Loop
    precision: Precision
    """Never `auto`: see `from_spec`."""
    batching: Batching
    early_stopping_patience: int | None
    checkpoint_steps: int | None
    """None: after each epoch."""
    seed: int

    @classmethod
    def from_spec(cls, training: Training, on_gpu: bool) -> "Settings":
        """Return the settings of a task, with its defaults and `auto` resolved for this machine."""
        decay, norm = training.weight_decay, training.max_gradient_norm
        return cls(
            on_gpu=on_gpu,
            epochs=training.epochs or DEFAULT_EPOCHS,
            batch_size=training.batch_size or DEFAULT_BATCH_SIZE,
            gradient_accumulation_steps=training.gradient_accumulation_steps or 1,
            learning_rate=training.learning_rate or DEFAULT_LEARNING_RATE,
            scheduler=training.scheduler or Scheduler.LINEAR,
            warmup_fraction=training.warmup_fraction or 0.0,
            layer_decay=training.layer_decay or 1.0,
            weight_decay=DEFAULT_WEIGHT_DECAY if decay is None else decay,
            max_gradient_norm=DEFAULT_MAX_GRADIENT_NORM if norm is None else norm,
            loss=training.loss or Loss.BCE,
            pos_weight=training.pos_weight,
            loop=training.loop or Loop.ACCELERATE,
            precision=_resolve_precision(training.precision or Precision.AUTO, on_gpu),
            batching=training.batching or Batching.LENGTH_SPLIT,
            early_stopping_patience=training.early_stopping_patience,
            checkpoint_steps=training.checkpoint_steps,
            seed=training.seed,
        )

    @property
    def device(self) -> torch.device:
        """The device of model and batches: of several GPUs the one of this process (see `prepare_torch`)."""
        return torch.device("cuda", torch.cuda.current_device()) if self.on_gpu else torch.device("cpu")

    @property
    def autocast_dtype(self) -> torch.dtype | None:
        """Number format of the matrix multiplications, None for fp32 throughout."""
        return {Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16}.get(self.precision)

    def arguments(self) -> dict[str, Scalar]:
        """Return the settings by their path in the spec, without the seed, which always stands in the spec."""
        named: dict[str, Scalar] = {
            "epochs": self.epochs,
            "batchSize": self.batch_size,
            "gradientAccumulationSteps": self.gradient_accumulation_steps,
            "learningRate": self.learning_rate,
            "scheduler": self.scheduler.value,
            "warmupFraction": self.warmup_fraction,
            "layerDecay": self.layer_decay,
            "weightDecay": self.weight_decay,
            "maxGradientNorm": self.max_gradient_norm,
            "loss": self.loss.value,
            "loop": self.loop.value,
            "precision": self.precision.value,
            "batching": self.batching.value,
        }
        return {f"training.{name}": value for name, value in named.items()}


def _resolve_precision(precision: Precision, on_gpu: bool) -> Precision:
    if precision != Precision.AUTO:
        return precision
    return Precision.BF16 if on_gpu and torch.cuda.is_bf16_supported(including_emulation=False) else Precision.FP32
