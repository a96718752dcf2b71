from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForSequenceClassification

from trainingtask_trainer.models.transformers.batch_planning import split_for_padding
from trainingtask_trainer.models.transformers.step_cost import (
    MAX_OVERHEAD_TOKENS,
    compute_overhead_tokens,
    measure_overhead_tokens,
)

WIDTH = 128


def make_clock(overhead: int, noise: float = 0.0) -> Callable[[int], float]:
    """Return the seconds of a device that reads a million tokens per second."""
    random = np.random.RandomState(0)
    return lambda rows: (overhead + rows * WIDTH) / 1e6 * (1 + noise * random.uniform())


@pytest.mark.parametrize("overhead", [64, 8192, 65536])
def test_the_overhead_is_the_time_that_does_not_grow_with_the_rows(overhead: int) -> None:
    assert compute_overhead_tokens(make_clock(overhead), WIDTH, 128) == overhead
    assert compute_overhead_tokens(make_clock(overhead, noise=0.02), WIDTH, 128) in {
        overhead // 2,
        overhead,
        2 * overhead,
    }


def test_a_device_that_only_launches_gets_one_micro_batch() -> None:
    overhead = compute_overhead_tokens(lambda rows: 0.02 - 1e-6 * rows, WIDTH, 128)
    assert overhead == MAX_OVERHEAD_TOKENS
    lengths = [3, 500, 40, 7] * 64
    assert len(split_for_padding(range(256), lengths, overhead_tokens=overhead)) == 1


@given(st.lists(st.integers(1, 512), min_size=1, max_size=64), st.integers(0, 17))
def test_a_split_never_costs_more_than_padding(lengths: list[int], power: int) -> None:
    overhead = compute_overhead_tokens(make_clock(1 << power), WIDTH, 128)
    parts = split_for_padding(range(len(lengths)), lengths, overhead_tokens=overhead)
    cost = sum(overhead + len(part) * max(lengths[row] for row in part) for part in parts)
    assert cost <= overhead + len(lengths) * max(lengths)


def test_measuring_leaves_the_model_and_the_random_numbers_as_they_were(tiny_models: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(tiny_models / "bert")
    before, state = {name: weight.clone() for name, weight in model.state_dict().items()}, torch.get_rng_state()
    overhead = measure_overhead_tokens(model, longest=16, max_tokens=64, dtype=None)
    assert overhead.bit_count() == 1
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(dict(model.state_dict()), before)
    assert all(parameter.grad is None for parameter in model.parameters())
