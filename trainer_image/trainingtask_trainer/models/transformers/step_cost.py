"""What a micro-batch costs on this device beside its tokens: measured, because devices differ by a factor of a thousand."""

import math
import time
from collections.abc import Callable

import torch
from transformers import PreTrainedModel

# Few enough that a GPU only launches kernels, and a large model on one core needs a second.
_FEW_TOKENS = 32
_MANY_TOKENS_ON_CPU, _MANY_TOKENS_ON_GPU = 256, 16_384
_MAX_ROW_TOKENS = 128
_RUNS, _MAX_SECONDS = 3, 2.0  # of each size; at least one run after the one that warms up
# A device whose time does not grow measurably: no split ever pays.
MAX_OVERHEAD_TOKENS = 1 << 20


def measure_overhead_tokens(
    model: PreTrainedModel, longest: int, max_tokens: int | None, dtype: torch.dtype | None
) -> int:
    """Return in how many tokens' time a device does what each micro-batch needs once: launches, reading the weights.

    It takes seconds at most. Gradients of the model are dropped, random numbers are as before.

    Parameters
    ----------
    model
        On the device where it is trained.
    longest
        Tokens of the longest row.
    max_tokens
        Most tokens of a micro-batch, padding counted; None: no limit.
    dtype
        Number format of the matrix multiplications under autocast, None for that of the weights.
    """
    device = model.device
    on_gpu = device.type == "cuda"
    width = min(longest, _MAX_ROW_TOKENS)
    most = min(max_tokens or MAX_OVERHEAD_TOKENS, _MANY_TOKENS_ON_GPU if on_gpu else _MANY_TOKENS_ON_CPU)

    def time_run(rows: int) -> float:
        inputs = torch.zeros((rows, width), dtype=torch.long, device=device)
        start = _read_clock(on_gpu)
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            loss = model(input_ids=inputs, attention_mask=torch.ones_like(inputs)).logits.float().sum()
        loss.backward()
        return _read_clock(on_gpu) - start

    training = model.training
    model.train()
    with torch.random.fork_rng(devices=[device] if on_gpu else []):
        overhead = compute_overhead_tokens(time_run, width, most)
    model.train(training)
    model.zero_grad()
    return overhead


def compute_overhead_tokens(time_run: Callable[[int], float], width: int, most_tokens: int) -> int:
    """Return the time of no rows in units of that of a token, as a power of two: of two measurements, most agree.

    Parameters
    ----------
    time_run
        The rows of a micro-batch to the seconds of its forward and backward pass.
    width
        Tokens of each row.
    most_tokens
        Most tokens of a micro-batch to be timed; a row is timed nevertheless.
    """
    few = max(1, _FEW_TOKENS // width)
    many = max(few + 1, most_tokens // width)
    time_run(few)  # kernels are chosen, memory is allocated
    few_seconds, many_seconds = (_time_fastest(time_run, rows) for rows in (few, many))
    per_token = (many_seconds - few_seconds) / ((many - few) * width)
    overhead = few_seconds - few * width * per_token
    if overhead >= MAX_OVERHEAD_TOKENS * per_token:
        return MAX_OVERHEAD_TOKENS
    return 1 << max(0, round(math.log2(max(1.0, overhead / per_token))))


def _time_fastest(time_run: Callable[[int], float], rows: int) -> float:
    """Return the least of some runs: what else the machine does only adds to it."""
    seconds: list[float] = []
    while len(seconds) < _RUNS and sum(seconds) < _MAX_SECONDS:
        seconds.append(time_run(rows))
    return min(seconds)


def _read_clock(on_gpu: bool) -> float:
    if on_gpu:
        torch.cuda.synchronize()
    return time.perf_counter()
