"""What a padded micro-batch costs on a GPU beside its tokens: measured, because GPUs and the processors that feed them differ.

On a CPU it is a constant (`batch_planning.CPU_OVERHEAD_TOKENS`): there a measurement takes seconds to minutes, and work of
others on its cores changes the result from 8 to 128 (see docs/adr/0015-cuda-graphs.md).
"""

import math
import time
from collections.abc import Callable

import torch
from transformers import PreTrainedModel

_ROW_TOKENS = 128
_MOST_TOKENS = 16_384  # an H100 reads up to 43,000 tokens in the time of a micro-batch's launches, others fewer
_RUNS = 3
MAX_OVERHEAD_TOKENS = 1 << 20
"""Of a GPU whose time hardly grows with the tokens: all rows of a batch share a micro-batch."""


def measure_overhead_tokens(
    model: PreTrainedModel, longest: int, max_tokens: int | None, dtype: torch.dtype | None
) -> int:
    """Return in how many tokens' time a GPU launches a micro-batch; see `compute_overhead_tokens`.

    It takes about a second. The gradients of the model are dropped, its random numbers are as before.

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
    width = min(longest, _ROW_TOKENS)

    def time_run(rows: int) -> float:
        inputs = torch.zeros((rows, width), dtype=torch.long, device=device)
        start = _read_clock(device)
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            logits = model(input_ids=inputs, attention_mask=torch.ones_like(inputs)).logits
        logits.float().sum().backward()
        return _read_clock(device) - start

    model.train()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        overhead = compute_overhead_tokens(time_run, width, min(max_tokens or _MOST_TOKENS, _MOST_TOKENS) // width)
    model.zero_grad()
    return overhead


def compute_overhead_tokens(time_run: Callable[[int], float], width: int, most_rows: int) -> int:
    """Return the time of a micro-batch without rows, in units of a token's and as a power of two.

    Parameters
    ----------
    time_run
        The rows of a micro-batch to the seconds of its forward and backward pass.
    width
        Tokens of each row.
    most_rows
        The larger of the two sizes that are timed; the other one is a row.
    """
    most_rows = max(2, most_rows)
    for rows in (1, most_rows):
        time_run(rows)  # kernels are chosen and memory is allocated
    # What else the machine does only adds to the time.
    one, most = (min(time_run(rows) for _ in range(_RUNS)) for rows in (1, most_rows))
    per_token = max(0.0, most - one) / ((most_rows - 1) * width)
    overhead = one - width * per_token
    if overhead >= MAX_OVERHEAD_TOKENS * per_token:
        return MAX_OVERHEAD_TOKENS
    return 1 << round(math.log2(max(1.0, overhead / per_token)))


def _read_clock(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()
