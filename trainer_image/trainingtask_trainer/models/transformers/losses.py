"""The losses of transformers, summed over rows and labels.

Sums, because the mean is over the whole optimizer step: the step divides by its decisions once, so that its gradients
are those of one large batch, however it was split.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from trainingtask_api.training import Loss
from trainingtask_trainer.datasets.base import LabelMatrix
from trainingtask_trainer.evaluation.metrics import Floats, estimate_label_prior
from trainingtask_trainer.models.transformers.settings import Settings

FOCAL_GAMMA = 2.0

LossFunction = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Logits and 0/1 labels, both of shape [rows, labels], to the sum of the losses."""


def create_loss_function(settings: Settings, labels: LabelMatrix) -> LossFunction:
    """Return the loss that the settings name; `labels` are those of the training rows."""
    if settings.loss == Loss.FOCAL:
        return compute_focal_loss
    weights = compute_positive_weights(settings, labels)
    pos_weight = None if weights is None else torch.from_numpy(weights).float().to(settings.device)

    def cross_entropy(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        return binary_cross_entropy_with_logits(logits, truth, pos_weight=pos_weight, reduction="sum")

    return cross_entropy


def compute_focal_loss(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Return the sum of -(1 - p)^gamma log p, where p is the probability of the true decision.

    Equation 4 of Lin et al., "Focal Loss for Dense Object Detection", 2017 (arXiv:1708.02002), with gamma 2. Without
    the paper's alpha: the output bias already starts at each label's prior.
    """
    cross_entropy = binary_cross_entropy_with_logits(logits, truth, reduction="none")
    wrong = -torch.expm1(-cross_entropy)  # 1 - p
    return (wrong**FOCAL_GAMMA * cross_entropy).sum()


def compute_positive_weights(settings: Settings, labels: LabelMatrix) -> Floats | None:
    """Return negatives / positives of each label, shape [labels], None where all decisions weigh the same.

    Either count is at least 1: a label without positives gets a finite weight, which then multiplies nothing.
    """
    if settings.pos_weight is None:
        return None
    positives = labels.sum(axis=0, dtype=np.int64)
    weights: Floats = np.maximum(len(labels) - positives, 1) / np.maximum(positives, 1)
    return weights


def compute_initial_bias(settings: Settings, labels: LabelMatrix) -> Floats:
    """Return the log-odds of each label's prior, shape [labels]: the best constant logits.

    From 0 the first epochs only learn how rare labels are. Weighting the positives by w adds log w.
    """
    prior = estimate_label_prior(labels)
    bias: Floats = np.log(prior / (1 - prior))
    weights = compute_positive_weights(settings, labels)
    return bias if weights is None else bias + np.log(weights)
