"""The comparison of two models: the same test rows or none, and what counts as more than chance."""

import numpy as np
import pytest

from trainingtask_trainer.artifacts.comparison import compare_predictions, format_differences
from trainingtask_trainer.artifacts.predictions import Metadata, StoredPredictions
from trainingtask_trainer.errors import UserError

METADATA = Metadata(labels=("a", "b"), test_fingerprint="a" * 64)
TRUTH = (np.random.RandomState(0).random_sample((400, 2)) < 0.3).astype(np.uint8)


def store(wrong: float, seed: int = 1, metadata: Metadata = METADATA) -> StoredPredictions:
    """Return predictions of which a share is wrong."""
    predicted = TRUTH ^ (np.random.RandomState(seed).random_sample(TRUTH.shape) < wrong).astype(np.uint8)
    return StoredPredictions(metadata, TRUTH, predicted, np.where(predicted, 0.9, 0.1))


def test_a_clearly_better_model_is_better_by_more_than_chance() -> None:
    first, second = store(0.3), store(0.05)
    found = compare_predictions(first, second)
    assert [one.name for one in found] == ["micro-F1", "macro-F1", "mean average precision"]
    for one in found:
        assert one.interval is not None
        assert one.first is not None
        assert one.second is not None
        assert one.interval.low < one.second - one.first < one.interval.high
        assert one.is_more_than_chance
    assert format_differences(found, first)[-1] == (
        "mean average precision: the second model is better by more than chance."
    )


def test_models_of_like_quality_may_differ_by_chance() -> None:
    first, second = store(0.1, seed=1), store(0.1, seed=2)
    found = compare_predictions(first, second)
    assert not any(one.is_more_than_chance for one in found)
    assert "may be chance" in format_differences(found, first)[-1]


def test_the_same_predictions_differ_by_nothing() -> None:
    found = compare_predictions(store(0.1), store(0.1))
    assert {(one.interval and (one.interval.low, one.interval.high)) for one in found} == {(0.0, 0.0)}


def test_pairs_are_narrower_than_two_runs_by_themselves() -> None:
    first, second = store(0.2), store(0.2)
    second.predicted[:8] ^= 1
    [micro, *_] = compare_predictions(first, second)
    [alone, *_] = compare_predictions(first, store(0.2, seed=5))
    assert micro.interval is not None
    assert alone.interval is not None
    assert micro.interval.high - micro.interval.low < (alone.interval.high - alone.interval.low) / 2


def test_two_rows_are_too_few_for_an_interval() -> None:
    rows = slice(0, 1)
    stored = store(0.1)
    few = StoredPredictions(METADATA, TRUTH[rows], stored.predicted[rows], stored.probabilities[rows])
    found = compare_predictions(few, few)
    assert {one.interval for one in found} == {None}
    assert "micro-F1: not known, too few rows" in format_differences(found, few)[-3]


def test_models_of_other_test_rows_are_not_compared() -> None:
    first = store(0.1)
    others = {
        "'c' is a label of one alone": store(0.1, metadata=METADATA.model_copy(update={"labels": ("a", "b", "c")})),
        "their order differs": store(0.1, metadata=METADATA.model_copy(update={"labels": ("b", "a")})),
        "one has 400 test rows, the other 9": StoredPredictions(METADATA, TRUTH[:9], TRUTH[:9], TRUTH[:9] / 1),
        "the texts or the labels of their test rows differ": store(
            0.1, metadata=METADATA.model_copy(update={"test_fingerprint": "b" * 64})
        ),
    }
    for why, other in others.items():
        with pytest.raises(UserError, match=f"not scored on the same test rows.*{why}"):
            compare_predictions(first, other)
