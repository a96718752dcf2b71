from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import expit

from trainingtask_api.dataset import Dataset as DatasetSpec
from trainingtask_api.reasons import Reason
from trainingtask_api.scores import EvaluationResult
from trainingtask_api.training import Calibration, Objective, ThresholdTuning
from trainingtask_api.training import Evaluation as EvaluationSpec
from trainingtask_trainer.datasets.base import LabelMatrix
from trainingtask_trainer.datasets.go_emotions import GoEmotions
from trainingtask_trainer.datasets.splits import prepare_data
from trainingtask_trainer.errors import UserError
from trainingtask_trainer.evaluation import evaluator
from trainingtask_trainer.evaluation.evaluator import Evaluation, ScoredRows, evaluate
from trainingtask_trainer.evaluation.metrics import Probabilities, estimate_label_prior

NAMES = ("a", "b", "c")
TRUTH = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 1], [0, 1, 0]], dtype=np.uint8)
PROBABILITIES = np.array([[0.9, 0.2, 0.1], [0.8, 0.4, 0.3], [0.7, 0.1, 0.2], [0.3, 0.6, 0.1]])
HALF = EvaluationSpec(threshold=0.5)
PER_LABEL = EvaluationSpec(threshold_tuning=ThresholdTuning.PER_LABEL)


def evaluated(
    truth: LabelMatrix = TRUTH,
    probabilities: Probabilities = PROBABILITIES,
    spec: EvaluationSpec | None = HALF,
    train: LabelMatrix = TRUTH,
    validation: ScoredRows | None = None,
) -> Evaluation:
    test = ScoredRows(truth, probabilities)
    return evaluate(spec, NAMES, train_labels=train, validation=validation or test, test=test, seconds=2.0)


def test_every_score_by_hand() -> None:
    scores = evaluated().test
    assert (scores.rows, scores.threshold, scores.threshold_source) == (4, 0.5, "fixed")
    assert (scores.runtime_seconds, scores.samples_per_second) == (2.0, 2.0)
    assert scores.accuracy_thresh == pytest.approx(9 / 12)
    assert scores.hamming_loss == pytest.approx(3 / 12)
    assert scores.subset_accuracy == pytest.approx(2 / 4)
    assert (scores.micro.precision, scores.micro.recall, scores.micro.f1) == pytest.approx((3 / 4, 3 / 5, 2 / 3))
    assert scores.macro.precision == pytest.approx((2 / 3 + 1) / 2)
    assert scores.macro.f1 == pytest.approx((4 / 5 + 2 / 3 + 0) / 3)
    assert scores.weighted.f1 == pytest.approx((2 * 4 / 5 + 2 * 2 / 3 + 0) / 5)
    assert scores.samples.recall == pytest.approx((1 + 1 / 2 + 0 + 1) / 4)
    assert scores.mean_average_precision == pytest.approx((1 + 1 + 1 / 2) / 3)
    assert scores.label_ranking_average_precision == pytest.approx((1 + 1 + 1 / 2 + 1) / 4)
    assert scores.roc_auc == pytest.approx((1 + 1 + 2 / 3) / 3)
    a, b, c = scores.per_label
    assert (a.label, a.support, a.precision, a.recall) == ("a", 2, pytest.approx(2 / 3), 1)
    assert (b.f1, b.average_precision, b.threshold) == (pytest.approx(2 / 3), 1, 0.5)
    assert (c.precision, c.recall, c.f1, c.average_precision) == (None, 0, 0, 1 / 2)


@pytest.mark.parametrize(
    ("value", "reason", "message"),
    [
        (np.nan, Reason.NON_FINITE_LOSS, "probabilities that are no numbers"),
        (np.inf, Reason.NON_FINITE_LOSS, "probabilities that are no numbers"),
        (-0.2, Reason.INVALID_CODE, "probabilities from -0.2 to 0.9: allowed is 0 to 1"),
        (1.5, Reason.INVALID_CODE, "probabilities from 0.1 to 1.5: allowed is 0 to 1"),
    ],
)
@pytest.mark.parametrize("part", ["validation", "test"])
def test_what_is_no_probability_is_refused(part: str, value: float, reason: Reason, message: str) -> None:
    wrong = PROBABILITIES.copy()
    wrong[0, 1] = value
    rows = {"validation": ScoredRows(TRUTH, PROBABILITIES), "test": ScoredRows(TRUTH, PROBABILITIES)}
    rows[part] = ScoredRows(TRUTH, wrong)
    with pytest.raises(UserError, match=message) as refused:
        evaluate(HALF, NAMES, train_labels=TRUTH, seconds=1, **rows)
    assert refused.value.reason == reason


def test_what_is_undefined_is_absent_and_explained() -> None:
    truth, probabilities = TRUTH.copy(), PROBABILITIES.copy()
    truth[:, 2] = 0  # now nobody carries c, and row 2 carries nothing
    scores = evaluated(truth, probabilities).test
    assert scores.undefined["macro.precision"] == "mean over 2 of 3 labels: no row is predicted to carry c"
    assert scores.undefined["macro.recall"] == "mean over 2 of 3 labels: no row carries c"
    assert scores.undefined["macro.f1"] == "mean over 2 of 3 labels: no row carries or is predicted to carry c"
    assert scores.undefined["rocAuc"] == "mean over 2 of 3 labels: all rows or none carry c"
    assert scores.undefined["samples.recall"] == "mean over 3 of 4 rows: the others carry no label"
    assert scores.undefined["perLabel.recall"] == "no row carries c"
    assert scores.macro.f1 == pytest.approx((4 / 5 + 2 / 3) / 2)
    c = scores.per_label[2]
    assert (c.precision, c.recall, c.f1, c.average_precision) == (None, None, None, None)


def test_rows_without_any_label_leave_no_score_but_reasons() -> None:
    scores = evaluated(np.zeros_like(TRUTH), np.zeros_like(PROBABILITIES)).test
    assert scores.accuracy_thresh == scores.subset_accuracy == 1
    for averages in (scores.micro, scores.macro, scores.weighted, scores.samples):
        assert (averages.precision, averages.recall, averages.f1) == (None, None, None)
    assert (scores.mean_average_precision, scores.roc_auc, scores.label_ranking_average_precision) == (None, None, None)
    assert scores.undefined["micro.precision"] == "no row is predicted to carry any label"
    assert scores.undefined["weighted.f1"] == "no row carries any label"
    assert scores.undefined["samples.f1"] == "all 4 rows carry no label and are predicted none"
    assert scores.undefined["labelPrior.meanAveragePrecision"] == "no row carries any label"
    optional = {"allZero.loss", "objective", "thresholdShrinkage", "calibration.temperature"}
    absent = {path for path, value in _numbers(scores) if value is None} - scores.undefined.keys() - optional
    assert absent == set()
    assert EvaluationResult.model_validate_json(scores.model_dump_json(by_alias=True)) == scores


def _numbers(scores: EvaluationResult) -> list[tuple[str, object]]:
    flat: list[tuple[str, object]] = []
    for name, value in scores.model_dump(by_alias=True, exclude={"per_label", "undefined"}).items():
        flat += [(f"{name}.{key}", part) for key, part in value.items()] if isinstance(value, dict) else [(name, value)]
    return flat


def test_baselines_by_hand() -> None:
    # Shares of the training rows with half a row on either side: 0.9, 0.5, 0.1.
    train = np.array([[1, 1, 0], [1, 0, 0], [1, 1, 0], [1, 0, 0]], dtype=np.uint8)
    scores = evaluated(train=train, spec=None).test
    zero, prior = scores.all_zero, scores.label_prior
    assert (zero.accuracy_thresh, zero.micro_f1, zero.macro_f1, zero.loss) == (pytest.approx(7 / 12), 0, 0, None)
    assert zero.mean_average_precision == pytest.approx((2 / 4 + 2 / 4 + 1 / 4) / 3)
    # F1 with a: 2 * 2 / (4 + 5); with a and b: 2 * 4 / (8 + 5), the best; with all: 2 * 5 / (12 + 5).
    assert prior.micro_f1 == pytest.approx(8 / 13)
    # One threshold predicts a and b; one for each predicts c as well, which costs micro-F1 and gains macro-F1.
    assert prior.macro_f1 == pytest.approx((2 / 3 + 2 / 3 + 2 / 5) / 3)
    assert prior.accuracy_thresh == pytest.approx(7 / 12)
    assert prior.mean_average_precision == zero.mean_average_precision
    true_logs = 2 * np.log(0.9) + 2 * np.log(0.5) + np.log(0.1)
    false_logs = 2 * np.log(0.1) + 2 * np.log(0.5) + 3 * np.log(0.9)
    assert prior.loss == pytest.approx(-(true_logs + false_logs) / 12)


def test_a_model_no_better_than_the_baselines_is_warned_about() -> None:
    idle = evaluated(probabilities=np.full(TRUTH.shape, 0.1))
    assert [warning.split(" does not beat ")[0].rsplit(" ", 1)[0] for warning in idle.warnings] == [
        "loss",
        "micro-F1",
        "macro-F1",
        "mean average precision",
        "accuracy_thresh",
    ]
    assert idle.warnings[-1] == "accuracy_thresh 0.5833 does not beat predicting no label at all (0.5833)"
    assert evaluated(probabilities=0.9 * TRUTH + 0.05).warnings == []


def test_thresholds_come_from_the_validation_rows_alone() -> None:
    validation = ScoredRows(TRUTH, PROBABILITIES)
    other = evaluated(1 - TRUTH, PROBABILITIES[::-1], PER_LABEL, validation=validation)
    assert list(other.rule.thresholds) == list(evaluated(spec=PER_LABEL).rule.thresholds)
    assert [score.threshold for score in other.test.per_label] == list(other.rule.thresholds)
    assert (other.test.threshold, other.test.threshold_source) == (None, "per_label")
    assert other.validation.micro_f1 == evaluated(spec=PER_LABEL).validation.micro_f1
    assert other.validation.mean_average_precision == pytest.approx((1 + 1 + 1 / 2) / 3)


def test_thresholds_and_temperature_are_chosen_on_training_rows_out_of_fold_as_well() -> None:
    spec = EvaluationSpec(calibration=Calibration.TEMPERATURE)
    held_out = ScoredRows(TRUTH[:2], PROBABILITIES[:2].copy()), ScoredRows(TRUTH[2:], PROBABILITIES[2:].copy())
    together = ScoredRows(TRUTH, PROBABILITIES.copy())
    tests = [ScoredRows(TRUTH, PROBABILITIES.copy()) for _ in range(3)]
    known: dict[str, Any] = {"train_labels": TRUTH, "seconds": 2.0}
    parts = evaluate(spec, NAMES, validation=held_out[0], out_of_fold=held_out[1], test=tests[0], **known)
    whole = evaluate(spec, NAMES, validation=together, test=tests[1], **known)
    few = evaluate(spec, NAMES, validation=ScoredRows(TRUTH[:2], PROBABILITIES[:2].copy()), test=tests[2], **known)
    assert parts.temperature == whole.temperature
    assert list(parts.rule.thresholds) == list(whole.rule.thresholds)
    assert parts.test.label_prior == whole.test.label_prior
    assert parts.temperature != few.temperature
    assert parts.validation.rows == 2
    np.testing.assert_array_equal(np.vstack([part.probabilities for part in held_out]), together.probabilities)


def test_labels_with_few_rows_to_tune_on_are_named() -> None:
    truth = np.tile(TRUTH, (8, 1))
    truth[:, 2] = 0
    truth[3:, 1] = 0  # one row is left
    validation = ScoredRows(truth, np.tile(PROBABILITIES, (8, 1)))
    warnings = evaluated(spec=PER_LABEL, validation=validation).warnings
    assert [warning.split(":")[0] for warning in warnings][-2:] == [
        "no row that thresholds are tuned on carries c",
        "fewer than 10 of the rows that thresholds are tuned on carry b",
    ]
    assert evaluated(validation=validation).warnings == []


def test_labels_that_do_not_reach_the_wanted_precision_are_named() -> None:
    spec = EvaluationSpec(
        threshold_tuning=ThresholdTuning.PER_LABEL, objective=Objective.MIN_PRECISION, min_precision=0.9
    )
    result = evaluated(spec=spec)
    assert result.warnings[0] == (
        "evaluation.minPrecision is reached by no threshold on the rows that thresholds are tuned on for c:"
        " they are never predicted"
    )
    assert (result.test.objective, result.test.threshold_shrinkage) == ("min_precision", 0)


def test_both_parts_are_predicted_by_the_same_rule() -> None:
    spec = EvaluationSpec(threshold=0.95, at_least_one=True, max_labels=1)
    result = evaluated(np.tile(TRUTH, (2, 1)), np.tile(PROBABILITIES, (2, 1)), spec)
    assert (result.rule.at_least_one, result.rule.max_labels) == (True, 1)
    assert result.test.micro.recall == pytest.approx(3 / 5)  # the most probable label of each row: 6 of 10
    assert result.test.micro.f1 == result.validation.micro_f1


def test_calibration_scales_both_parts_before_thresholds_are_tuned() -> None:
    random = np.random.RandomState(0)
    logits = random.standard_normal((400, 3))
    truth = (random.random_sample(logits.shape) < expit(logits)).astype(np.uint8)
    parts = [ScoredRows(truth[half], expit(4 * logits[half])) for half in (slice(200), slice(200, None))]
    spec = EvaluationSpec(calibration=Calibration.TEMPERATURE)
    before = evaluate(None, NAMES, train_labels=truth, validation=parts[0], test=parts[1], seconds=1.0).test
    result = evaluate(spec, NAMES, train_labels=truth, validation=parts[0], test=parts[1], seconds=1.0)
    after = result.test
    assert before.calibration is not None
    assert after.calibration is not None
    assert (before.calibration.temperature, after.calibration.temperature) == (None, result.temperature)
    assert result.temperature == pytest.approx(4, rel=0.2)
    assert after.loss < before.loss
    assert after.calibration.expected_calibration_error < before.calibration.expected_calibration_error / 3
    assert after.micro == before.micro  # the same decisions
    assert after.mean_average_precision == before.mean_average_precision
    assert parts[0].probabilities.max() < 0.99


def test_labels_beyond_the_limit_are_left_out_of_the_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluator, "MAX_SCORED_LABELS", 100)
    labels = 101
    truth = np.eye(labels, dtype=np.uint8)
    truth[5] = 0  # the label that is left out
    truth[100, :2] = 1
    rows = ScoredRows(truth, truth * 0.8 + 0.1)
    names = [f"label-{label}" for label in range(labels)]
    scores = evaluate(None, names, train_labels=truth, validation=rows, test=rows, seconds=1.0).test
    assert [score.label for score in scores.per_label] == names[:5] + names[6:]
    assert scores.undefined["perLabel"] == "the 100 labels of 101 with the most rows"
    assert scores.macro.f1 == 1


def test_baselines_on_real_rows(go_emotions: Path) -> None:
    spec = DatasetSpec(name="go_emotions", volume_claim="data", path=go_emotions.name)
    data = prepare_data(GoEmotions().load(spec, go_emotions.parent), spec)
    train, names = data.train.labels, data.label_names
    prior = estimate_label_prior(train)
    validation, test = (
        ScoredRows(split.labels, np.tile(prior, (len(split), 1))) for split in (data.validation, data.test)
    )
    result = evaluate(None, names, train_labels=train, validation=validation, test=test, seconds=1.0)
    assert result.test.all_zero.accuracy_thresh == pytest.approx(0.958, abs=0.001)
    assert result.test.label_prior.micro_f1 == pytest.approx(0.30, abs=0.005)  # predicts 'neutral' for every row
    assert result.test.label_prior.loss == pytest.approx(result.test.loss)


@pytest.mark.full
@pytest.mark.timeout(120)  # two seconds; scikit-learn's functions would take minutes
@pytest.mark.parametrize("shape", [(43_000, 28), (5_000, 1_000)])
def test_large_data_takes_seconds(shape: tuple[int, int]) -> None:
    random = np.random.RandomState(0)
    truth = (random.random_sample(shape) < 0.04).astype(np.uint8)
    rows = ScoredRows(truth, np.clip(0.3 * truth + 0.7 * random.random_sample(shape), 0, 1))
    names = [str(label) for label in range(shape[1])]
    result = evaluate(PER_LABEL, names, train_labels=truth, validation=rows, test=rows, seconds=1.0)
    assert len(result.test.per_label) == shape[1]
