from functools import partial
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainingtask_api.training import Batching
from trainingtask_trainer.models.transformers.batch_planning import plan_batches, split_for_packing, split_for_padding

LENGTHS = st.lists(st.integers(1, 512), min_size=1, max_size=60)


@given(LENGTHS, st.integers(1, 40), st.integers(0, 2**32 - 1), st.sampled_from(Batching))
def test_an_epoch_reads_every_row_once(lengths: list[int], size: int, seed: int, batching: Batching) -> None:
    cut = plan_batches(lengths, size, seed, batching)
    assert sorted(row for batch in cut for row in batch) == list(range(len(lengths)))
    assert sorted(map(len, cut))[1:] == [size] * (len(cut) - 1)
    assert cut == plan_batches(lengths, size, seed, batching)


def test_another_epoch_has_another_order() -> None:
    lengths = [row % 50 + 1 for row in range(1000)]
    for batching in Batching:
        assert plan_batches(lengths, 8, 0, batching) != plan_batches(lengths, 8, 1, batching)


def test_the_order_is_the_same_with_every_version_of_numpy() -> None:
    assert plan_batches([5] * 6, 4, 7, Batching.LENGTH_SPLIT) == [[3, 5, 0, 2], [1, 4]]


def test_grouped_rows_are_of_like_length_and_their_batches_in_no_order() -> None:
    lengths = [1 + (row * 37) % 100 for row in range(3200)]
    grouped = plan_batches(lengths, 32, 0, Batching.LENGTH_GROUPED)
    spans = [max(lengths[row] for row in batch) - min(lengths[row] for row in batch) for batch in grouped]
    assert max(spans) <= 5
    longest = [max(lengths[row] for row in batch) for batch in grouped]
    assert longest != sorted(longest)
    assert longest != sorted(longest, reverse=True)


@given(LENGTHS, st.none() | st.integers(1, 4096))
def test_micro_batches_hold_every_row_once_and_never_too_many_tokens(lengths: list[int], limit: int | None) -> None:
    split_for_slots = partial(split_for_packing, is_padding_counted=True)
    for cut, padded in ((split_for_padding, True), (split_for_packing, False), (split_for_slots, True)):
        parts = cut(range(len(lengths)), lengths, max_tokens=limit)
        assert sorted(row for part in parts for row in part) == list(range(len(lengths)))
        for part in parts:
            tokens = [lengths[row] for row in part]
            assert limit is None or len(part) == 1 or (max(tokens) * len(part) if padded else sum(tokens)) <= limit


@given(st.lists(st.integers(1, 60), min_size=1, max_size=7), st.integers(0, 80), st.none() | st.integers(60, 200))
def test_no_other_cut_costs_less(lengths: list[int], overhead: int, limit: int | None) -> None:
    by_length = sorted(lengths)
    count = len(lengths)

    def cost(parts: list[list[int]]) -> float:
        tokens = [len(part) * max(part) for part in parts]
        too_many = limit is not None and max(tokens) > limit
        return float("inf") if too_many else sum(tokens) + overhead * len(parts)

    cheapest = min(
        cost([by_length[begin:end] for begin, end in zip((0, *cuts), (*cuts, count), strict=True)])
        for size in range(count)
        for cuts in combinations(range(1, count), size)
    )
    ours = split_for_padding(range(count), lengths, max_tokens=limit, overhead_tokens=overhead)
    assert cost([[lengths[row] for row in part] for part in ours]) == cheapest


def test_the_longest_come_first() -> None:
    lengths = [4, 100, 5, 101, 4]
    assert [sorted(part) for part in split_for_padding([0, 1, 2, 3, 4], lengths)] == [[1, 3], [0, 2, 4]]
    assert split_for_packing([0, 1, 2, 3, 4], lengths, max_tokens=110) == [[3], [1, 2, 0], [4]]


def test_rows_are_those_of_the_data_set() -> None:
    assert split_for_padding([7, 3], [9] * 8) == [[7, 3]]


def test_rows_without_tokens_fit_any_limit() -> None:
    assert split_for_padding([0, 1, 2], [0, 0, 0], max_tokens=4) == [[0, 1, 2]]


@pytest.mark.parametrize("cut", [split_for_padding, split_for_packing])
def test_nothing_to_cut(cut: type) -> None:
    assert cut([], []) == []
