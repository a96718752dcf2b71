"""One optimizer step, as both loops take it: AdamW, its learning rate, and the gradients of several micro-batches."""

import re
from collections.abc import Callable

import torch
from accelerate.scheduler import AcceleratedScheduler
from transformers import PreTrainedModel, get_scheduler

from trainingtask_api.training import Scheduler
from trainingtask_trainer.models.transformers.collation import Batch, slice_batch
from trainingtask_trainer.models.transformers.losses import LossFunction
from trainingtask_trainer.models.transformers.settings import Settings
from trainingtask_trainer.models.transformers.step_graphs import StepGraphs
from trainingtask_trainer.runtime.collectives import broadcast_value

# The library's names; its `constant` has no warm-up.
_SCHEDULERS = {
    Scheduler.LINEAR: "linear",
    Scheduler.COSINE: "cosine",
    Scheduler.CONSTANT: "constant_with_warmup",
}


def create_optimizer_and_scheduler(
    model: PreTrainedModel, settings: Settings, total_steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
    """Return AdamW, without weight decay of biases and norms, and its learning rate over the steps.

    With layer-wise decay the rate of each parameter is multiplied by the decay for every layer above it, as in Sun et
    al., "How to Fine-Tune BERT for Text Classification?", 2019 (arXiv:1905.05583).
    """
    layers_above = _count_layers_above(model)
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        rate = settings.learning_rate * settings.layer_decay ** layers_above[name]
        weight_decay = settings.weight_decay if parameter.ndim > 1 and not name.endswith("bias") else 0.0
        groups.setdefault((rate, weight_decay), []).append(parameter)
    optimizer = torch.optim.AdamW(
        [
            {"params": parameters, "lr": rate, "weight_decay": weight_decay}
            for (rate, weight_decay), parameters in groups.items()
        ],
        fused=True,
    )
    return optimizer, _create_scheduler(optimizer, settings, total_steps)


def _count_layers_above(model: PreTrainedModel) -> dict[str, int]:
    """Return how many layers lie above each parameter, by its name; the head counts as one.

    A model lists its parameters from the input to the output, and numbers its layers from 0; those of a decoder lie above
    those of its encoder. What comes before the first layer belongs to the embeddings, as does each table outside of the
    layers, such as that of relative positions; what else comes after it belongs to the head. Layers that share weights
    count as one.
    """
    parameters = dict(model.named_parameters())
    # A layer's number, or its block's and its own.
    numbered = re.compile(rf"{re.escape(model.base_model_prefix)}\.(?:\w+\.)*?((?:\d+\.)+)")
    layers = {
        name: (".decoder." in name, *map(int, found[1].split(".")[:-1]))
        for name in parameters
        if (found := numbered.match(name))
    }
    heights = {layer: height for height, layer in enumerate(sorted(set(layers.values())))}
    tables = {id(part.weight) for part in model.modules() if isinstance(part, torch.nn.Embedding)}
    above: dict[str, int] = {}
    embeddings = outside = len(heights) + 1
    for name, parameter in parameters.items():
        if name in layers:
            above[name] = len(heights) - heights[layers[name]]
            outside = 0
        else:
            above[name] = embeddings if id(parameter) in tables else outside
    return above


def create_learning_rate_function(settings: Settings, total_steps: int) -> Callable[[int], float]:
    """Return the function from an optimizer step, counted from 1, to the head's learning rate, which no layer decays."""
    scheduler = _create_scheduler(torch.optim.SGD([torch.zeros(1)]), settings, total_steps)
    (factor,) = scheduler.lr_lambdas
    return lambda step: settings.learning_rate * factor(step - 1)


def _create_scheduler(
    optimizer: torch.optim.Optimizer, settings: Settings, total_steps: int
) -> torch.optim.lr_scheduler.LambdaLR:
    warmup_steps = round(settings.warmup_fraction * total_steps)
    scheduler: torch.optim.lr_scheduler.LambdaLR = get_scheduler(
        _SCHEDULERS[settings.scheduler], optimizer, warmup_steps, total_steps
    )
    return scheduler


def share_optimizer_state(
    optimizer: torch.optim.Optimizer, scheduler: AcceleratedScheduler, scaler: torch.amp.GradScaler | None
) -> None:
    """Give the optimizer, its learning rate and the scale of fp16 losses of rank 0 to all ranks, a weight at a time."""
    own = optimizer.state_dict()
    state = {index: broadcast_value(own["state"].get(index)) for index in broadcast_value(list(own["state"]))}
    optimizer.load_state_dict({"state": state, "param_groups": broadcast_value(own["param_groups"])})
    for part in (scheduler, scaler):
        if part is not None:
            part.load_state_dict(broadcast_value(part.state_dict()))


def accumulate_gradients(
    model: torch.nn.Module,
    micro_batches: list[Batch],
    loss_function: LossFunction,
    backward: Callable[[torch.Tensor], None],
    *,
    decisions: int | None = None,
    graphs: StepGraphs | None = None,
) -> torch.Tensor:
    """Add the gradients of one optimizer step, whose micro-batches count as one large batch.

    Parameters
    ----------
    model, micro_batches, loss_function
        The micro-batches are on the model's device; there may be none where other ranks have some.
    backward
        Adds the gradients of a loss.
    decisions
        Rows times labels of the step on all ranks, by default those of the micro-batches.
    graphs
        Launches the micro-batches; without it each kernel is launched on its own.

    Returns
    -------
    Sum of the micro-batches' losses divided by `decisions`; on a GPU reading it waits for the step.

    Raises
    ------
    torch.OutOfMemoryError
        When a single row does not fit on the GPU. Otherwise the largest micro-batches are halved and the step is
        repeated.
    """
    if decisions is None:
        decisions = sum(batch["labels"].numel() for batch in micro_batches)

    def backpropagate(batch: Batch) -> torch.Tensor:
        outputs = model(**{name: tensor for name, tensor in batch.items() if name != "labels"})
        loss = loss_function(outputs.logits.float(), batch["labels"]) / decisions
        backward(loss)
        return loss.detach()

    while True:
        try:
            total = torch.zeros((), device=next(model.parameters()).device)
            for batch in micro_batches:
                total += graphs.run(backpropagate, batch, decisions) if graphs else backpropagate(batch)
            return total
        except torch.OutOfMemoryError:
            smaller = _halve_largest(micro_batches)
            if len(smaller) == len(micro_batches):
                raise
        micro_batches = smaller
        model.zero_grad()


def _halve_largest(micro_batches: list[Batch]) -> list[Batch]:
    """Return the micro-batches, those of more than half the tokens of the largest split in two."""
    most = max(batch["input_ids"].numel() for batch in micro_batches)
    halved: list[Batch] = []
    for batch in micro_batches:
        rows = len(batch["labels"])
        parts = 2 if rows > 1 and batch["input_ids"].numel() > most // 2 else 1
        for part in range(parts):
            cut = slice(part * rows // parts, (part + 1) * rows // parts)
            halved.append(slice_batch(batch, cut))
    return halved
