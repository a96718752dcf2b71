"""What a training needs of memory, and how it stays within its limit."""

import math
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from transformers import PreTrainedModel

from trainingtask_api.formatting import format_size
from trainingtask_api.reasons import Reason
from trainingtask_trainer.errors import UserError
from trainingtask_trainer.runtime.memory import get_limit_bytes, get_resident_bytes
from trainingtask_trainer.runtime.processes import Processes

# Beside the tensors that the forward pass saves, the backward pass holds gradients of a layer's activations, and the
# allocator fragments. Measured as the peak less what was resident: 1.0 to 1.5 on DistilBERT, at most 1.2 when packed;
# 1.6 to 1.8 on the BERT of tests/unit/trainer/runtime/test_memory.py, whose layers are few and narrow.
_PEAK_PER_SAVED_BYTE = 1.75
# Of the limit, for the rest of the process: the data set's rows, threads, the next report.
_RESERVED_FRACTION = 0.1
_WEIGHT_BYTES = 4  # per parameter, in fp32
_TRAINING_BYTES = 4 + 8  # per parameter, in fp32: its gradient and AdamW's two moments
# The best epoch's weights stay in memory while as many of the longest rows fit into a micro-batch beside them: reading
# and writing them takes seconds per epoch.
_ROWS_BESIDE_BEST_WEIGHTS = 8
_STEP_BYTES = 256 << 20  # amounts of memory are suggested in these steps


class MemoryPlan(NamedTuple):
    """How a training stays within its memory."""

    max_tokens: int | None
    """Most tokens of a micro-batch, padding counted; None when memory has no limit."""
    is_best_on_disk: bool
    """Whether the best epoch's weights are kept on the disk."""


def check_weights_fit(folder: Path, device: torch.device, dtype: torch.dtype | None = None) -> None:
    """Refuse a checkpoint whose weights, gradients and optimizer do not fit into memory, before it is loaded.

    Parameters
    ----------
    folder
        Holds its ``*.safetensors``, of which the headers alone are read.
    device, dtype
        See `plan_memory`.

    Raises
    ------
    UserError
        With the amount of memory that it needs at least.
    """
    free = _get_free_bytes(device)
    if free is None:
        return
    parameters = sum(_count_values(file) for file in sorted(folder.glob("[!.]*.safetensors")))
    needed = parameters * (_WEIGHT_BYTES + _TRAINING_BYTES + (0 if dtype is None else dtype.itemsize))
    if needed > free:
        raise _create_insufficient_memory_error(device, parameters, needed - free)


def plan_memory(model: PreTrainedModel, longest: int, dtype: torch.dtype | None = None) -> MemoryPlan:
    """Return how a training fits into the memory that is left.

    To be called before the first step: gradients, optimizer and the best epoch's weights are subtracted as not
    allocated yet.

    Parameters
    ----------
    model
        On the device where it is trained.
    longest
        Tokens of the longest row.
    dtype
        Number format of the matrix multiplications under autocast, None for that of the weights.

    Raises
    ------
    UserError
        When a micro-batch of the longest row alone does not fit: with the amount of memory that would do.
    """
    free = _get_free_bytes(model.device)
    if free is None:
        return MemoryPlan(None, is_best_on_disk=False)
    parameters = [parameter.numel() for parameter in model.parameters() if parameter.requires_grad]
    copy = 0 if dtype is None else dtype.itemsize  # autocast caches the weights in its format
    free -= sum(parameters) * (_TRAINING_BYTES + copy) + 4 * max(parameters)  # one gradient while it is added
    per_token = _PEAK_PER_SAVED_BYTE * _measure_bytes_per_token(model, longest, dtype)
    if free < longest * per_token:
        raise _create_insufficient_memory_error(
            model.device, sum(parameters), int(longest * per_token - free), f" and one text of {longest} tokens"
        )
    beside = free - _WEIGHT_BYTES * sum(parameters)
    is_best_on_disk = beside < _ROWS_BESIDE_BEST_WEIGHTS * longest * per_token
    return MemoryPlan(int((free if is_best_on_disk else beside) / per_token), is_best_on_disk)


def _count_values(file: Path) -> int:
    with safe_open(file, framework="pt") as tensors:
        return sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118 - no mapping


def _create_insufficient_memory_error(device: torch.device, parameters: int, lacking: int, row: str = "") -> UserError:
    what = f"the {parameters / 1e6:.0f} million weights of the checkpoint, their gradients, AdamW's state{row}"
    if device.type == "cuda":
        total = torch.cuda.mem_get_info(device)[1]
        return UserError(
            Reason.INSUFFICIENT_MEMORY,
            f"{what} do not fit into the GPU's {format_size(total)}: about {format_size(lacking)} are lacking; use a GPU "
            "with more memory, a smaller checkpoint or a lower preprocessor.maxLength",
        )
    limit = get_limit_bytes() or 0
    enough = -(-(limit + int(lacking / (1 - _RESERVED_FRACTION))) // _STEP_BYTES) * _STEP_BYTES
    return UserError(
        Reason.INSUFFICIENT_MEMORY,
        f"{what} do not fit into {format_size(limit)} of memory: set resources.memory to '{enough >> 20}Mi' or more, or use "
        "a smaller checkpoint or a lower preprocessor.maxLength",
    )


def _get_free_bytes(device: torch.device) -> int | None:
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return int(free - _RESERVED_FRACTION * total)
    limit, resident = get_limit_bytes(), get_resident_bytes()
    if limit is None or resident is None:
        return None
    return int((1 - _RESERVED_FRACTION) * limit / Processes.from_environment().local_world_size - resident)


def _measure_bytes_per_token(model: PreTrainedModel, longest: int, dtype: torch.dtype | None) -> float:
    """Return the bytes that a forward pass saves for the backward pass, per token of a row of `longest`.

    The difference of two lengths leaves out the part that does not depend on the length.
    """
    longest = max(2, longest)
    shorter = longest // 2
    saved = _measure_saved_bytes(model, longest, dtype) - _measure_saved_bytes(model, shorter, dtype)
    return saved / (longest - shorter)


def _measure_saved_bytes(model: PreTrainedModel, tokens: int, dtype: torch.dtype | None) -> int:
    saved: dict[int, int] = {}

    def record(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    device = model.device
    training = model.training
    model.train()
    # Dropout must not draw from the random numbers of the training.
    with (
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        torch.autocast(device.type, dtype, enabled=dtype is not None),
        torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor),
    ):
        output = model(input_ids=torch.zeros((1, tokens), dtype=torch.long, device=device))
    model.train(training)
    del output
    return sum(saved.values())
