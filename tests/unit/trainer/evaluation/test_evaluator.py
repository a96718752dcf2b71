from pathlib import Path

import numpy as np
import pytest

from trainingtask_api.dataset import Dataset as DatasetSpec
from trainingtask_api.scores import EvaluationResult
from trainingtask_api.training import Evaluation as EvaluationSpec
from trainingtask_api.training import ThresholdTuning
from trainingtask_trainer.datasets.base import LabelMatrix
from trainingtask_trainer.datasets.go_emotions import GoEmotions
from trainingtask_trainer.datasets.splits import prepare_data
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
    absent = {
        path for path, value in _numbers(scores) if value is None and path not in ("allZero.loss",)
    } - scores.undefined.keys()
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
    assert other.thresholds.values.tolist() == evaluated(spec=PER_LABEL).thresholds.values.tolist()
    assert [score.threshold for score in other.test.per_label] == other.thresholds.values.tolist()
    assert (other.test.threshold, other.test.threshold_source) == (None, "per_label")
    assert other.validation.micro_f1 == evaluated(spec=PER_LABEL).validation.micro_f1
    assert other.validation.mean_average_precision == pytest.approx((1 + 1 + 1 / 2) / 3)


def test_labels_with_few_validation_rows_are_named() -> None:
    truth = np.tile(TRUTH, (8, 1))
    truth[:, 2] = 0
    truth[3:, 1] = 0  # one row is left
    validation = ScoredRows(truth, np.tile(PROBABILITIES, (8, 1)))
    warnings = evaluated(spec=PER_LABEL, validation=validation).warnings
    assert [warning.split(":")[0] for warning in warnings] == [
        "no validation row carries c",
        "fewer than 10 validation rows carry b",
    ]
    assert evaluated(validation=validation).warnings == []


def test_a_thousand_labels_are_the_most_that_are_listed() -> None:
    labels = 1001
    truth = np.eye(labels, dtype=np.uint8)
    truth[5] = 0  # the label that is left out
    truth[1000, :2] = 1
    rows = ScoredRows(truth, truth * 0.8 + 0.1)
    names = [f"label-{label}" for label in range(labels)]
    scores = evaluate(None, names, train_labels=truth, validation=rows, test=rows, seconds=1.0).test
    assert [score.label for score in scores.per_label] == names[:5] + names[6:]
    assert scores.undefined["perLabel"] == "the 1000 labels of 1001 with the most rows"
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


@pytest.mark.timeout(120)  # two seconds; scikit-learn's functions would take minutes
@pytest.mark.parametrize("shape", [(43_000, 28), (5_000, 1_000)])
def test_large_data_takes_seconds(shape: tuple[int, int]) -> None:
    random = np.random.RandomState(0)
    truth = (random.random_sample(shape) < 0.04).astype(np.uint8)
    rows = ScoredRows(truth, np.clip(0.3 * truth + 0.7 * random.random_sample(shape), 0, 1))
    names = [str(label) for label in range(shape[1])]
    result = evaluate(PER_LABEL, names, train_labels=truth, validation=rows, test=rows, seconds=1.0)
    assert len(result.test.per_label) == shape[1]
