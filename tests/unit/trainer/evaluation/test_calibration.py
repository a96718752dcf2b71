import numpy as np
import pytest
from scipy.special import expit, logit

from trainingtask_trainer.evaluation.calibration import fit_temperature, scale_probabilities, score_calibration
from trainingtask_trainer.evaluation.metrics import binary_cross_entropy

RANDOM = np.random.RandomState(0)
LOGITS = RANDOM.standard_normal((2_000, 5)) * 2 - 1
TRUTH = (RANDOM.random_sample(LOGITS.shape) < expit(LOGITS)).astype(np.uint8)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_spoilt_the_probabilities_is_found(temperature: float) -> None:
    assert fit_temperature(TRUTH, expit(LOGITS * temperature)) == pytest.approx(temperature, rel=0.05)


def test_no_other_temperature_has_a_lower_cross_entropy() -> None:
    probabilities = expit(LOGITS * 2)
    best = fit_temperature(TRUTH, probabilities)

    def compute_loss(temperature: float) -> float:
        scaled = probabilities.copy()
        scale_probabilities(scaled, temperature)
        return binary_cross_entropy(TRUTH, scaled)

    assert compute_loss(best) < min(compute_loss(best * 0.95), compute_loss(best * 1.05))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scaling_keeps_the_order_and_the_range(dtype: type[np.floating]) -> None:
    probabilities = np.array([[0.0, 1e-30, 0.2, 0.5, 0.9, 1.0]], dtype=dtype)
    scale_probabilities(probabilities, 2.0)
    assert probabilities.dtype == dtype
    assert (np.diff(probabilities) >= 0).all()
    assert probabilities[0, 2:5].tolist() == pytest.approx([1 / 3, 1 / 2, 3 / 4])
    assert 0 < probabilities.min() < 1e-6
    assert 0.999 < probabilities.max() <= 1


def test_rows_without_a_mistake_have_the_least_temperature() -> None:
    truth = np.array([[1, 0]], dtype=np.uint8)
    assert fit_temperature(truth, np.array([[0.9, 0.1]])) == pytest.approx(0.1)
    assert fit_temperature(truth, np.array([[0.1, 0.9]])) == pytest.approx(10)
    assert fit_temperature(truth, np.array([[1.0, 0.0]])) == pytest.approx(0.1)


def test_bins_error_and_brier_score_by_hand() -> None:
    truth = np.array([[1, 0], [0, 0], [1, 1]], dtype=np.uint8)
    scores = score_calibration(truth, np.array([[0.85, 0.15], [0.15, 0.12], [0.85, 1.0]]), temperature=2.0)
    assert [bin_.decisions for bin_ in scores.bins] == [3, 2, 1]
    assert [bin_.fraction for bin_ in scores.bins] == [0, 1, 1]
    assert [bin_.probability for bin_ in scores.bins] == pytest.approx([0.14, 0.85, 1.0])
    assert scores.expected_calibration_error == pytest.approx((3 * 0.14 + 2 * 0.15 + 0) / 6)
    assert scores.brier_score == pytest.approx((4 * 0.15**2 + 0.12**2) / 6)
    assert scores.temperature == 2


def test_calibrated_probabilities_have_a_small_error() -> None:
    good, bad = (score_calibration(TRUTH, expit(factor * LOGITS)) for factor in (1, 3))
    assert good.expected_calibration_error < 0.02 < 0.08 < bad.expected_calibration_error
    assert good.brier_score < bad.brier_score


def test_logits_are_divided() -> None:
    probabilities = np.array([[0.8, 0.3]])
    scale_probabilities(probabilities, 2.5)
    assert logit(probabilities) == pytest.approx(logit(np.array([[0.8, 0.3]])) / 2.5)
