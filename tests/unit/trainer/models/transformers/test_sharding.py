"""Every row of a step is one rank's, and the ranks have about as much to compute."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainingtask_trainer.models.transformers.batch_planning import ShardRows
from trainingtask_trainer.models.transformers.sharding import shard_for_packing, shard_for_padding

FUNCTIONS = (shard_for_packing, shard_for_padding)


def draw_lengths(rows: int) -> list[int]:
    """Return lengths that are spread as those of real texts."""
    return np.clip(np.random.RandomState(0).lognormal(3, 0.6, rows), 3, 128).astype(int).tolist()


def count_padded(share: list[int], lengths: list[int]) -> int:
    return len(share) * max((lengths[row] for row in share), default=0)


@pytest.mark.parametrize("shard", FUNCTIONS)
@given(lengths=st.lists(st.integers(0, 128), min_size=1, max_size=40), world_size=st.integers(1, 8))
def test_every_row_is_in_one_share(shard: ShardRows, lengths: list[int], world_size: int) -> None:
    shares = shard(range(len(lengths)), lengths, world_size)
    assert len(shares) == world_size
    assert sorted(itertools.chain(*shares)) == list(range(len(lengths)))
    assert shares[0]  # rank 0 has no empty share


@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=7), world_size=st.integers(1, 3))
def test_no_other_cut_has_fewer_padded_tokens(lengths: list[int], world_size: int) -> None:
    shares = shard_for_padding(range(len(lengths)), lengths, world_size)
    found = max(count_padded(share, lengths) for share in shares)
    in_order = sorted(range(len(lengths)), key=lambda row: lengths[row], reverse=True)
    cuts = itertools.combinations_with_replacement(range(len(lengths) + 1), world_size - 1)
    ends = ([0, *cut, len(lengths)] for cut in cuts)
    assert found == min(
        max(count_padded(in_order[start:end], lengths) for start, end in itertools.pairwise(cut)) for cut in ends
    )


@pytest.mark.parametrize("world_size", [2, 4, 8])
def test_the_ranks_have_about_as_many_tokens(world_size: int) -> None:
    lengths = draw_lengths(256)
    packed = [sum(lengths[row] for row in share) for share in shard_for_packing(range(256), lengths, world_size)]
    assert max(packed) <= 1.01 * sum(packed) / world_size
    padded = [count_padded(share, lengths) for share in shard_for_padding(range(256), lengths, world_size)]
    assert max(padded) <= 1.2 * sum(padded) / world_size
