import numpy as np
import pytest
from numpy.typing import NDArray

from trainingtask_api.training import Evaluation, Objective, ThresholdTuning
from trainingtask_trainer.evaluation import shrinkage
from trainingtask_trainer.evaluation.decisions import NEVER
from trainingtask_trainer.evaluation.thresholds import choose_thresholds

PER_LABEL = Evaluation(threshold_tuning=ThresholdTuning.PER_LABEL)
PRECISE = Evaluation(objective=Objective.MIN_PRECISION, min_precision=0.75)


def column(*cells: tuple[float, int]) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Return one label's truth and probabilities."""
    return np.array([[cell[1]] for cell in cells], dtype=np.uint8), np.array([[cell[0]] for cell in cells])


def test_threshold_keeps_clear_of_the_probabilities_beside_it() -> None:
    chosen = choose_thresholds(None, np.array([[1, 0]], dtype=np.uint8), np.array([[0.8, 0.4]]))
    assert chosen.shared_value == pytest.approx(0.6)
    assert (chosen.source, chosen.objective, len(chosen.values)) == ("global", "micro_f1", 2)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_threshold_between_neighbours_that_have_no_middle(dtype: type[np.floating]) -> None:
    higher = np.nextafter(dtype(0.5), dtype(1))
    rows = np.array([[higher, 0.5]], dtype=dtype)
    chosen = choose_thresholds(None, np.array([[1, 0]], dtype=np.uint8), rows)
    assert chosen.shared_value is not None
    assert (rows >= chosen.values).tolist() == [[True, False]]


@pytest.mark.parametrize("spec", [None, PER_LABEL, PRECISE])
def test_threshold_below_all_probabilities_keeps_clear_of_the_lowest(spec: Evaluation | None) -> None:
    """Those of an exported model differ by its rounding."""
    chosen = choose_thresholds(spec, np.ones((9, 1), dtype=np.uint8), np.full((9, 1), 0.9))
    assert chosen.values.tolist() == [pytest.approx(0.45)]


def test_threshold_without_a_positive_row_is_a_half() -> None:
    for spec in (None, PER_LABEL, PRECISE, Evaluation(objective=Objective.MACRO_F1)):
        chosen = choose_thresholds(spec, np.zeros((7, 2), dtype=np.uint8), np.full((7, 2), 0.3))
        assert chosen.values.tolist() == [0.5, 0.5]


def test_a_fixed_threshold_looks_at_no_row() -> None:
    chosen = choose_thresholds(Evaluation(threshold=0.3), np.ones((3, 2), dtype=np.uint8), np.full((3, 2), 0.1))
    assert (chosen.shared_value, chosen.source, chosen.objective) == (0.3, "fixed", None)


def test_most_recall_with_at_least_the_wanted_precision() -> None:
    truth, probabilities = column((0.9, 1), (0.8, 0), (0.7, 1), (0.6, 1), (0.5, 0), (0.4, 1))
    chosen = choose_thresholds(PRECISE, truth, probabilities)
    assert chosen.shared_value == pytest.approx(0.55)  # 3 of 4; with the next hit 4 of 6
    assert chosen.unreached is not None
    assert not chosen.unreached.any()


def test_a_precision_that_no_threshold_reaches_is_kept_by_silence() -> None:
    truth = np.array([[1, 0], [0, 1], [1, 0]], dtype=np.uint8)
    probabilities = np.array([[0.9, 0.8], [0.1, 0.2], [0.7, 0.1]])
    spec = Evaluation(threshold_tuning=ThresholdTuning.PER_LABEL, objective=Objective.MIN_PRECISION, min_precision=0.75)
    chosen = choose_thresholds(spec, truth, probabilities)
    assert chosen.values.tolist() == [pytest.approx(0.4), NEVER]
    assert chosen.unreached is not None
    assert chosen.unreached.tolist() == [False, True]
    assert chosen.shrinkage == 0


def test_labels_without_a_positive_row_get_the_threshold_of_all() -> None:
    truth, probabilities = column((0.9, 1), (0.3, 0), (0.7, 1), (0.2, 0), (0.8, 1), (0.1, 0))
    truth = np.append(truth, np.zeros_like(truth), axis=1)
    probabilities = np.append(probabilities, np.full_like(probabilities, 0.05), axis=1)
    chosen = choose_thresholds(PER_LABEL, truth, probabilities)
    shared = choose_thresholds(Evaluation(objective=Objective.MACRO_F1), truth, probabilities)
    assert chosen.values[1] == shared.shared_value


def test_shrinkage_draws_a_rare_label_further_than_a_frequent_one() -> None:
    tuned = shrinkage.TunedThresholds(np.array([0.9, 0.9, np.nan]), 0.5, np.array([10, 90, 0]))
    rare, frequent, unseen = tuned.shrink(10.0)
    assert rare == pytest.approx(0.75)  # halfway between the logits of 0.5 and 0.9: odds of 3
    assert rare < frequent < 0.9
    assert unseen == 0.5
    assert tuned.shrink(0.0).tolist() == [0.9, 0.9, 0.5]


def test_shrinkage_keeps_thresholds_of_0_and_1_in_range() -> None:
    drawn = shrinkage.TunedThresholds(np.array([0.0, 1.0]), 0.5, np.array([3, 3])).shrink(3.0)
    assert (drawn > 0).all()
    assert (drawn < 1).all()


def draw_rows(rows: int, spread: float) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Return labels whose best thresholds differ by `spread` in the logit."""
    random = np.random.RandomState(0)
    truth = (random.random_sample((rows, 40)) < 0.1).astype(np.uint8)
    logits = 2.0 * truth - 1 + random.standard_normal(truth.shape) + spread * random.standard_normal(40)
    return truth, 1 / (1 + np.exp(-logits))


def test_shrinkage_is_strong_where_labels_are_alike_and_rows_few() -> None:
    alike = choose_thresholds(PER_LABEL, *draw_rows(150, 0.0))
    unlike = choose_thresholds(PER_LABEL, *draw_rows(2_000, 3.0))
    assert alike.shrinkage is not None
    assert unlike.shrinkage is not None
    assert alike.shrinkage >= 30
    assert unlike.shrinkage <= 10
    assert np.ptp(alike.values) < 0.2 < np.ptp(unlike.values)


def test_shrinkage_leaves_a_label_alone_that_is_best_not_predicted() -> None:
    """Shares of neighbours: those of the second label's rows never carry it, those of forty other rows all do."""
    random = np.random.default_rng(0)
    truth, probabilities = np.zeros((200, 2), np.uint8), np.zeros((200, 2))
    truth[:100, 0] = 1
    probabilities[:, 0] = np.where(truth[:, 0] == 1, random.choice([0.8, 1.0], 200), random.choice([0, 0.2], 200))
    rows = random.permutation(200)
    truth[rows[:10], 1], probabilities[rows[10:50], 1] = 1, 1.0
    spec = Evaluation(threshold_tuning=ThresholdTuning.PER_LABEL, objective=Objective.MICRO_F1)
    chosen = choose_thresholds(spec, truth, probabilities)
    assert (chosen.shrinkage, chosen.values[1]) == (0, NEVER)


def test_thresholds_are_the_same_in_every_run() -> None:
    truth, probabilities = draw_rows(200, 1.0)
    first, second = (choose_thresholds(PER_LABEL, truth, probabilities) for _ in range(2))
    assert first.values.tolist() == second.values.tolist()
    assert first.shrinkage == second.shrinkage
