"""The `training` and `evaluation` sections of a task: hyperparameters, and how probabilities become scores."""

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field
from pydantic.alias_generators import to_snake

from trainingtask_api.capabilities import MODELS, group_by_field
from trainingtask_api.fields import Fraction, Seed
from trainingtask_api.rules import Contract, Rule


class Loop(StrEnum):
    """The loop that drives the optimizer."""

    TRAINER = "trainer"
    ACCELERATE = "accelerate"


class Loss(StrEnum):
    """The loss."""

    BCE = "bce"
    FOCAL = "focal"


class PosWeight(StrEnum):
    """The weight of a positive decision in the loss, relative to a negative one."""

    BALANCED = "balanced"


class Precision(StrEnum):
    """Number format of the forward and backward pass; weights and optimiser states stay in fp32."""

    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


class Batching(StrEnum):
    """How rows are batched to reduce padding."""

    LENGTH_SPLIT = "length_split"
    LENGTH_GROUPED = "length_grouped"


class Scheduler(StrEnum):
    """Schedule of the learning rate after the warm-up."""

    LINEAR = "linear"
    COSINE = "cosine"
    CONSTANT = "constant"


class ThresholdTuning(StrEnum):
    """The thresholds that are tuned on rows held out from training."""

    GLOBAL = "global"
    PER_LABEL = "per_label"


class Objective(StrEnum):
    """What tuned thresholds are best for, on the rows that they are tuned on."""

    MICRO_F1 = "micro_f1"
    MACRO_F1 = "macro_f1"
    F_BETA = "f_beta"
    MIN_PRECISION = "min_precision"


class Calibration(StrEnum):
    """How probabilities are corrected, by the rows that thresholds are tuned on."""

    NONE = "none"
    TEMPERATURE = "temperature"


# Hyperparameter -> the built-in models that read it.
HYPERPARAMETER_MODELS = group_by_field({name: model.hyperparameters for name, model in MODELS.items()})


class Training(Contract):
    """Hyperparameters. One that the chosen model does not use is refused."""

    epochs: Annotated[int, Field(ge=1, le=1000)] | None = Field(
        None, description="Passes over the training rows. Transformers only. Default: 3."
    )
    batch_size: Annotated[int, Field(ge=1, le=4096)] | None = Field(
        None,
        description="Rows per batch. It is cut into smaller ones where that saves padding or memory, with the same gradients. Transformers only. Default: 32.",
    )
    gradient_accumulation_steps: Annotated[int, Field(ge=1, le=1024)] | None = Field(
        None,
        description="Batches per optimiser step: each step learns from batchSize times this many rows. Transformers only. Default: 1.",
    )
    learning_rate: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="Peak learning rate. Transformers only. Default: 5e-5."
    )
    scheduler: Scheduler | None = Field(
        None,
        description="How the learning rate moves after the warm-up: 'linear' or 'cosine' down to 0, or 'constant'. Transformers only. Default: linear.",
    )
    warmup_fraction: Annotated[float, Field(ge=0, lt=1)] | None = Field(
        None,
        description="Fraction of the optimiser steps in which the learning rate rises from 0 to its peak. Transformers only. Default: 0.",
    )
    layer_decay: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None,
        description="Layer-wise learning-rate decay: each layer learns at this many times the rate of the one above it, the embeddings slowest, and the head at learningRate. Transformers only. Default: 1, all at the same rate.",
    )
    weight_decay: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None, description="Weight decay of AdamW. Transformers only. Default: 0.01."
    )
    max_gradient_norm: Annotated[float, Field(ge=0, le=1_000_000)] | None = Field(
        None,
        description="Gradients are scaled down to this L2 norm; 0 leaves them alone. Transformers only. Default: 1.0.",
    )
    loss: Loss | None = Field(
        None,
        description="'bce' (binary cross-entropy) or 'focal' (Lin et al., 2017, gamma 2). Transformers only. Default: bce.",
    )
    pos_weight: PosWeight | None = Field(
        None,
        description="'balanced': a label's positives weigh as much as its negatives; for rare labels. In classical models this is scikit-learn's class_weight; knn has none. Default: every decision weighs the same.",
    )
    loop: Loop | None = Field(
        None,
        description="'accelerate' (a plain loop to read and to change) or 'trainer' (Hugging Face's Trainer). Both give the same losses. Transformers only. Default: accelerate.",
    )
    precision: Precision | None = Field(
        None,
        description="Arithmetic of the model: 'fp32', 'bf16', 'fp16' (GPU only), or 'auto' (bf16 on a GPU that has it, else fp32); the results say what was chosen. Transformers only. Default: auto.",
    )
    batching: Batching | None = Field(
        None,
        description="'length_split': random batches, each cut by length into micro-batches, with the same gradients. 'length_grouped': rows of like length share a batch: less padding, less random batches; measure before you prefer it. Transformers only. Default: length_split.",
    )
    early_stopping_patience: Annotated[int, Field(ge=1, le=1000)] | None = Field(
        None,
        description="Stop after this many epochs without a better mean average precision on the validation rows. Either way the best epoch's weights are kept. Transformers only. Default: train all epochs.",
    )
    checkpoint_steps: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        None,
        description="Write a checkpoint to the output every so many optimiser steps, and when told to stop; a retry resumes from it. Transformers only. Default: after each epoch.",
    )
    inverse_regularization: Annotated[float, Field(gt=0, le=1_000_000)] | None = Field(
        None,
        description="C of logistic_regression and linear_svc: larger fits closer. Default: 10 for logistic_regression, 1 for linear_svc.",
    )
    trees: Annotated[int, Field(ge=1, le=10_000)] | None = Field(
        None, description="Trees of a random_forest. Default: 100."
    )
    neighbors: Annotated[int, Field(ge=1, le=1000)] | None = Field(
        None, description="Neighbours that knn asks. Default: 5."
    )
    seed: Seed = Field(42, description="Seed of initial weights, dropout and the order of the rows.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!(has(self.loss) && self.loss == 'focal' && has(self.posWeight))",
            "training.posWeight weights the 'bce' loss: remove it, or remove training.loss 'focal'",
            lambda training: training.loss != Loss.FOCAL or training.pos_weight is None,
        ),
    )


# Field -> the objective that needs it; no other reads it.
_OBJECTIVE_FIELDS = {"beta": Objective.F_BETA, "minPrecision": Objective.MIN_PRECISION}


def _exclude_threshold(field: str) -> Rule:
    """Return the rule that a fixed threshold is not tuned."""
    attribute = to_snake(field)
    return Rule(
        f"!(has(self.threshold) && has(self.{field}))",
        f"evaluation.threshold and evaluation.{field} exclude each other: fix the threshold, or have it tuned",
        lambda evaluation: evaluation.threshold is None or getattr(evaluation, attribute) is None,
    )


def _pair_with_objective(field: str, objective: Objective) -> Rule:
    """Return the rule that a field is given with this objective and with no other."""
    attribute = to_snake(field)
    return Rule(
        f"has(self.{field}) == (has(self.objective) && self.objective == '{objective}')",
        f"evaluation.{field} and evaluation.objective '{objective}' go together: give both or neither",
        lambda evaluation: (getattr(evaluation, attribute) is not None) == (evaluation.objective == objective),
    )


class Evaluation(Contract):
    """How probabilities become labels and scores."""

    threshold: Fraction | None = Field(
        None,
        description="A label is predicted when its probability reaches this. Default: tuned on the validation rows (see also folds), never on the test rows.",
    )
    threshold_tuning: ThresholdTuning | None = Field(
        None,
        description="'global': one threshold for all labels. 'per_label': one for each label, drawn towards the global one where few of the rows that they are tuned on carry the label. Default: global.",
    )
    objective: Objective | None = Field(
        None,
        description="What the thresholds are best for on the rows that they are tuned on: 'micro_f1', 'macro_f1', 'f_beta' (see beta), or 'min_precision' (the most recall with at least minPrecision). Default: micro_f1 for one threshold, macro_f1 for one per label.",
    )
    beta: Annotated[float, Field(gt=0, le=10)] | None = Field(
        None,
        description="Weight of recall against precision in objective 'f_beta': 2 for recall, 0.5 for precision. Micro-averaged over all labels for one threshold, each label's own for one per label.",
    )
    min_precision: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="Precision that objective 'min_precision' keeps on the rows that thresholds are tuned on."
    )
    at_least_one: bool = Field(
        False, description="Predict the most probable label where no label reaches its threshold."
    )
    max_labels: Annotated[int, Field(ge=1, le=1000)] | None = Field(
        None, description="Predict at most this many labels of a text, the most probable ones. Default: no limit."
    )
    calibration: Calibration | None = Field(
        None,
        description="'temperature': divide the logits by one number, chosen on the rows that thresholds are tuned on, so that of the decisions with a probability of 0.8 about 80 % are right. 'none': leave the probabilities alone. Default: none.",
    )
    folds: Annotated[int, Field(ge=2, le=20)] | None = Field(
        None,
        description="Train this many more times, each time without a part of the training rows, and predict that part. Thresholds and temperature are then chosen on the training rows as well as on the validation rows, and wrong labels are looked for among them. Classical models and models of your own. Default: no folds.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        *(_exclude_threshold(field) for field in ("thresholdTuning", "objective")),
        *(_pair_with_objective(field, objective) for field, objective in _OBJECTIVE_FIELDS.items()),
    )
