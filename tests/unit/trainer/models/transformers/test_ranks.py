"""One, two and four processes train the same model, whatever they are dealt, and wherever they are stopped."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.fine_tuning import TEXTS, spec, without_dropout
from support.ranks import Outcome, Training, train_in_ranks

WORLD_SIZES = (1, 2, 4)
STEPS = 21  # three epochs of seven
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "length_split": ("bert", {"scheduler": "cosine", "warmupFraction": 0.1, "layerDecay": 0.8}),
    "length_grouped": ("xlnet", {"batching": "length_grouped", "maxGradientNorm": 0.05}),  # has unused parameters
    "accumulation": ("distilbert", {"gradientAccumulationSteps": 4, "batchSize": 3, "posWeight": "balanced"}),
    "early_stopping": ("roberta", {"epochs": 8, "earlyStoppingPatience": 1}),
    "empty_rank": ("albert", {"batchSize": 3, "epochs": 2}),  # every step has fewer rows than four
}
RESUMED = "length_split"


def train(name: str, world_size: int, variant: str, **options: Any) -> Training:
    family, training = VARIANTS[variant]
    task = spec(family, f"{family}-without-dropout", **{"epochs": 3, "learningRate": 3e-3, **training})
    return Training(name, world_size, task, **options)


@pytest.fixture(scope="module")
def outcomes(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Outcome]]:
    models, folder = tmp_path_factory.mktemp("models"), tmp_path_factory.mktemp("ranks")
    for family, _ in VARIANTS.values():
        (models / family).symlink_to(tiny_models / family)
        without_dropout(models, family, models)
    first, later, never = (5, 1), (9, 1), (100, 1)
    validating = (7, 2)
    trainings = [
        *(train(f"{variant}-{size}", size, variant) for variant in VARIANTS for size in WORLD_SIZES),
        # Stopped at step 5 in two processes, at step 9 in one.
        train("stop-2", 2, RESUMED, stops={0: later, 1: first}, checkpoints="resumed"),
        train("stop-1", 1, RESUMED, stops={0: later}, checkpoints="resumed"),
        train("resumed", 2, RESUMED, checkpoints="resumed"),
        train("stop-validating", 4, RESUMED, stops={0: never, 3: validating}, checkpoints="validating"),
        train("resumed-validating", 1, RESUMED, checkpoints="validating"),
        train("stop-unkept", 2, RESUMED, stops={1: first}),
        Training("dropout", 2, spec("bert", "bert", epochs=1, seed=3)),
    ]
    return train_in_ranks(trainings, models, folder)


def assert_close(found: Outcome, expected: Outcome) -> None:
    assert found.fitted is not None
    assert expected.fitted is not None
    np.testing.assert_allclose(found.losses, expected.losses[-len(found.losses) :], rtol=1e-5)
    assert found.learning_rates == expected.learning_rates[-len(found.losses) :]
    np.testing.assert_allclose(found.probabilities, expected.probabilities, rtol=0, atol=1e-4)
    for name in ("best_epoch", "global_step"):
        assert getattr(found.fitted, name) == getattr(expected.fitted, name)
    assert found.fitted.training_loss == pytest.approx(expected.fitted.training_loss, rel=1e-5)


@pytest.mark.parametrize("world_size", WORLD_SIZES[1:])
@pytest.mark.parametrize("variant", VARIANTS)
def test_several_processes_take_the_steps_of_one(
    outcomes: dict[str, list[Outcome]], variant: str, world_size: int
) -> None:
    (one,), several = outcomes[f"{variant}-1"], outcomes[f"{variant}-{world_size}"]
    assert_close(several[0], one)
    assert one.fitted is not None
    assert several[0].fitted is not None
    assert one.fitted.rows_seen % len(TEXTS) == 0
    assert several[0].fitted.rows_seen == one.fitted.rows_seen
    assert several[0].fitted.tokens_seen == one.fitted.tokens_seen
    assert one.fitted.scaling_efficiency is None
    assert 0 < (several[0].fitted.scaling_efficiency or 0) < 1


@pytest.mark.parametrize("world_size", WORLD_SIZES[1:])
@pytest.mark.parametrize("variant", VARIANTS)
def test_all_ranks_end_with_the_same_weights_and_scores(
    outcomes: dict[str, list[Outcome]], variant: str, world_size: int
) -> None:
    first, *others = outcomes[f"{variant}-{world_size}"]
    assert first.weights is not None
    for other in others:
        assert other.losses == first.losses
        np.testing.assert_array_equal(other.probabilities, first.probabilities)
        for name, weight in (other.weights or {}).items():
            np.testing.assert_array_equal(weight, first.weights[name], err_msg=name)


def test_early_stopping_ends_all_ranks_before_the_last_epoch(outcomes: dict[str, list[Outcome]]) -> None:
    for size in WORLD_SIZES:
        for rank in outcomes[f"early_stopping-{size}"]:
            assert rank.fitted is not None
            assert rank.fitted.best_epoch is not None
            assert rank.fitted.global_step == 7 * (rank.fitted.best_epoch + 1) < 7 * 8


def test_a_training_goes_on_at_another_world_size(outcomes: dict[str, list[Outcome]]) -> None:
    (whole,) = outcomes[f"{RESUMED}-1"]
    assert [rank.interrupted_at for rank in outcomes["stop-2"]] == [5, 5]
    assert [rank.interrupted_at for rank in outcomes["stop-1"]] == [9]
    assert len(outcomes["stop-1"][0].losses) == 4
    for rank in outcomes["resumed"]:
        assert rank.fitted is not None
        assert rank.fitted.resumed_from_step == 9
        assert len(rank.losses) == STEPS - 9
        assert_close(rank, whole)


def test_a_signal_to_one_rank_in_the_validation_stops_all(outcomes: dict[str, list[Outcome]]) -> None:
    assert [rank.interrupted_at for rank in outcomes["stop-validating"]] == [7] * 4
    (resumed,), (whole,) = outcomes["resumed-validating"], outcomes[f"{RESUMED}-1"]
    assert resumed.fitted is not None
    assert resumed.fitted.resumed_from_step == 7
    assert_close(resumed, whole)


def test_without_an_output_all_ranks_stop_at_the_same_step(outcomes: dict[str, list[Outcome]]) -> None:
    assert [rank.interrupted_at for rank in outcomes["stop-unkept"]] == [5, 5]


def test_each_rank_draws_other_random_numbers_for_dropout(outcomes: dict[str, list[Outcome]]) -> None:
    first, second = outcomes["dropout"]
    assert first.rng_seed == 3
    assert second.rng_seed != 3
