"""The tokens that a micro-batch may have before memory runs out."""

import torch
from transformers import PreTrainedModel

from trainingtask_trainer.runtime.memory import get_limit_bytes, get_resident_bytes

# Beside the tensors that the forward pass saves, the backward pass holds gradients of a layer's activations, and the
# allocator fragments. Measured as the peak less what was resident: 1.0 to 1.5 on DistilBERT, at most 1.2 when packed;
# 1.6 to 1.8 on the BERT of tests/unit/trainer/runtime/test_memory.py, whose layers are few and narrow.
_PEAK_PER_SAVED_BYTE = 1.75
# Of the limit, for the rest of the process: the data set's rows, threads, the next report.
_RESERVED_FRACTION = 0.1
_BYTES_PER_PARAMETER = 4 + 8 + 4  # per parameter, in fp32: its gradient, AdamW's two moments, the best epoch's copy


def estimate_max_tokens(model: PreTrainedModel, longest: int, dtype: torch.dtype | None = None) -> int | None:
    """Return how many tokens one micro-batch may have, padding counted; None when memory has no limit.

    To be called before the first step: gradients, optimizer and the best epoch's weights are subtracted as not
    allocated yet. With a result below `longest` such a row may not fit at all.

    Parameters
    ----------
    model
        On the device where it is trained.
    longest
        Tokens of the longest row.
    dtype
        Number format of the matrix multiplications under autocast, None for that of the weights.
    """
    free = _get_free_bytes(model.device)
    if free is None:
        return None
    parameters = [parameter.numel() for parameter in model.parameters() if parameter.requires_grad]
    copy = 0 if dtype is None else dtype.itemsize  # autocast caches the weights in its format
    free -= sum(parameters) * (_BYTES_PER_PARAMETER + copy) + 4 * max(parameters)  # one gradient while it is added
    return max(1, int(free / (_PEAK_PER_SAVED_BYTE * _measure_bytes_per_token(model, longest, dtype))))


def _get_free_bytes(device: torch.device) -> int | None:
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return int(free - _RESERVED_FRACTION * total)
    limit, resident = get_limit_bytes(), get_resident_bytes()
    return None if limit is None or resident is None else int((1 - _RESERVED_FRACTION) * limit - resident)


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
