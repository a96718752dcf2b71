"""The evaluator of all models: scores, baselines on the same rows, and warnings about them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from pydantic.alias_generators import to_camel

from trainingtask_api.reasons import Reason
from trainingtask_api.scores import (
    MAX_SCORED_LABELS,
    Averages,
    Baseline,
    EvaluationResult,
    Intervals,
    LabelScore,
    ValidationScores,
)
from trainingtask_api.training import Calibration, ThresholdTuning
from trainingtask_api.training import Evaluation as EvaluationSpec
from trainingtask_trainer.datasets.base import LabelMatrix
from trainingtask_trainer.errors import UserError, join_names
from trainingtask_trainer.evaluation import baselines, calibration, metrics, thresholds, uncertainty
from trainingtask_trainer.evaluation.decisions import DecisionRule
from trainingtask_trainer.evaluation.metrics import Decisions, Floats, Probabilities, estimate_label_prior
from trainingtask_trainer.evaluation.thresholds import Thresholds

# With fewer positive rows the threshold of the best F1 is mostly noise.
MIN_POSITIVES = 10

# Why a score is undefined: with the labels' names, and after a number of rows.
_UNDEFINED_PER_LABEL = {
    "precision": "no row is predicted to carry {labels}",
    "recall": "no row carries {labels}",
    "f1": "no row carries or is predicted to carry {labels}",
    "averagePrecision": "no row carries {labels}",
    "rocAuc": "all rows or none carry {labels}",
}
_UNDEFINED_PER_ROW = {
    "precision": "are predicted no label",
    "recall": "carry no label",
    "f1": "carry no label and are predicted none",
}


@dataclass(frozen=True)
class ScoredRows:
    """Rows with a model's probabilities, both of shape [rows, labels]."""

    truth: LabelMatrix
    probabilities: Probabilities


@dataclass(frozen=True)
class Evaluation:
    """Scores, and the rule and the temperature that are saved with the model."""

    rule: DecisionRule
    temperature: float | None
    """What the logits are divided by; None without calibration."""
    validation: ValidationScores
    test: EvaluationResult
    warnings: list[str]


def evaluate(
    spec: EvaluationSpec | None,
    label_names: Sequence[str],
    *,
    train_labels: LabelMatrix,
    validation: ScoredRows,
    test: ScoredRows,
    out_of_fold: ScoredRows | None = None,
    seconds: float,
) -> Evaluation:
    """Calibrate and choose thresholds on rows that the model was not trained on, and score the test rows with them.

    The probabilities of all rows are the calibrated ones afterwards: they are scaled in place.

    Parameters
    ----------
    spec
        The task's `evaluation`.
    label_names
        Names of the labels, shape [labels].
    train_labels
        For the label-prior baseline, 0/1, shape [training rows, labels].
    validation, test
        The rows; temperature and thresholds are never chosen on the test rows.
    out_of_fold
        The training rows, each with the probabilities of a model that was trained without it: temperature and thresholds are
        chosen on them as well as on the validation rows.
    seconds
        Seconds for the prediction of the test rows.

    Raises
    ------
    UserError
        When a probability is no number from 0 to 1.
    """
    spec = spec or EvaluationSpec()
    held_out = [validation] if out_of_fold is None else [validation, out_of_fold]
    for part in (*held_out, test):
        _check_probabilities(part.probabilities)
    temperature = _calibrate(held_out, test) if spec.calibration == Calibration.TEMPERATURE else None
    chosen, tuned_truth = _choose_thresholds(spec, held_out)
    rule = DecisionRule(chosen.values, spec.at_least_one, spec.max_labels)
    rows = len(test.truth)
    predicted = rule.predict(test.probabilities)
    averages = _Averager(label_names)
    per_label = Decisions.of(test.truth, predicted, axis=0)
    per_row = Decisions.of(test.truth, predicted, axis=1)
    precisions, areas = metrics.ranking_scores(test.truth, test.probabilities)
    accuracy = metrics.accuracy_thresh(test.truth, predicted)
    prior = estimate_label_prior(train_labels)
    result = EvaluationResult(
        split="test",
        rows=rows,
        threshold=chosen.shared_value,
        threshold_source=chosen.source,
        objective=chosen.objective and chosen.objective.value,
        threshold_shrinkage=chosen.shrinkage,
        loss=metrics.binary_cross_entropy(test.truth, test.probabilities),
        accuracy_thresh=accuracy,
        subset_accuracy=metrics.subset_accuracy(test.truth, predicted),
        hamming_loss=1 - accuracy,
        micro=averages.average_micro(Decisions.of(test.truth, predicted, axis=None)),
        macro=averages.average_over_labels("macro", per_label),
        weighted=averages.average_over_labels("weighted", per_label, weighted=True),
        samples=averages.average_over_rows("samples", per_row),
        mean_average_precision=averages.average_labels("meanAveragePrecision", precisions, "averagePrecision"),
        label_ranking_average_precision=averages.average_rows(
            "labelRankingAveragePrecision",
            metrics.label_ranking_average_precision(test.truth, test.probabilities),
            "recall",
        ),
        roc_auc=averages.average_labels("rocAuc", areas, "rocAuc"),
        intervals=averages.estimate_intervals(test.truth, predicted, test.probabilities),
        calibration=calibration.score_calibration(test.truth, test.probabilities, temperature),
        per_label=averages.score_labels(per_label, precisions, chosen.values),
        all_zero=_score_all_zero(averages, test.truth),
        label_prior=_score_label_prior(averages, prior, tuned_truth, test.truth),
        undefined=averages.undefined,
        runtime_seconds=seconds,
        samples_per_second=rows / seconds,
    )
    warnings = [*_compare_with_baselines(result), *_check_threshold_support(chosen, label_names, tuned_truth)]
    return Evaluation(rule, temperature, _score_validation(validation, rule), result, warnings)


def _check_probabilities(probabilities: Probabilities) -> None:
    lowest, highest = probabilities.min(initial=0.5), probabilities.max(initial=0.5)
    if not math.isfinite(lowest + highest):
        raise UserError(
            Reason.NON_FINITE_LOSS,
            "the model gives probabilities that are no numbers: look at the data, and with a transformer lower"
            " training.learningRate",
        )
    if lowest < 0 or highest > 1:
        raise UserError(
            Reason.INVALID_CODE, f"the model gives probabilities from {lowest:g} to {highest:g}: allowed is 0 to 1"
        )


def _choose_thresholds(spec: EvaluationSpec, held_out: Sequence[ScoredRows]) -> tuple[Thresholds, LabelMatrix]:
    """Return the thresholds, and the true labels of all rows that they are chosen on."""
    tuned = _join(held_out)
    return thresholds.choose_thresholds(spec, tuned.truth, tuned.probabilities), tuned.truth


def _join(parts: Sequence[ScoredRows]) -> ScoredRows:
    if len(parts) == 1:
        return parts[0]
    return ScoredRows(np.vstack([part.truth for part in parts]), np.vstack([part.probabilities for part in parts]))


def _calibrate(held_out: Sequence[ScoredRows], test: ScoredRows) -> float:
    tuned = _join(held_out)
    temperature = calibration.fit_temperature(tuned.truth, tuned.probabilities)
    for rows in (*held_out, test):
        calibration.scale_probabilities(rows.probabilities, temperature)
    return temperature


def _score_validation(rows: ScoredRows, rule: DecisionRule) -> ValidationScores:
    predicted = rule.predict(rows.probabilities)
    return ValidationScores(
        rows=len(rows.truth),
        loss=metrics.binary_cross_entropy(rows.truth, rows.probabilities),
        micro_f1=_to_optional_float(Decisions.of(rows.truth, predicted, axis=None).f1),
        macro_f1=metrics.average_defined(Decisions.of(rows.truth, predicted, axis=0).f1),
        mean_average_precision=metrics.mean_average_precision(rows.truth, rows.probabilities),
    )


def _score_all_zero(averages: "_Averager", truth: LabelMatrix) -> Baseline:
    averages.undefined["allZero.loss"] = "a label that has the probability 0 and is there costs infinitely much"
    return _score_baseline(averages, "allZero", truth, np.zeros(truth.shape[1], dtype=np.bool_), loss=None)


def _score_label_prior(averages: "_Averager", prior: Floats, tuned: LabelMatrix, truth: LabelMatrix) -> Baseline:
    """Return for each score the better one of two kinds of thresholds."""
    loss = baselines.compute_prior_loss(prior, _count_support(truth), len(truth))
    candidates = []
    for predicted in baselines.choose_label_sets(prior, _count_support(tuned), len(tuned)):
        own = _Averager(averages.label_names)
        candidates.append((own.undefined, _score_baseline(own, "labelPrior", truth, predicted, loss=loss)))
    best = {}
    for name in ("accuracy_thresh", "micro_f1", "macro_f1", "mean_average_precision"):
        undefined, scores = max(candidates, key=lambda one: _get_or_lowest(one[1], name))
        best[name] = getattr(scores, name)
        path = f"labelPrior.{to_camel(name)}"
        averages.undefined |= {path: undefined[path]} if path in undefined else {}
    return Baseline(loss=loss, **best)


def _get_or_lowest(scores: Baseline, name: str) -> float:
    value: float | None = getattr(scores, name)
    return -np.inf if value is None else value


def _count_support(truth: LabelMatrix) -> metrics.Counts:
    return np.asarray(truth.sum(axis=0, dtype=np.int64))


def _score_baseline(
    averages: "_Averager", name: str, truth: LabelMatrix, predicted: baselines.LabelSet, *, loss: float | None
) -> Baseline:
    per_label = baselines.count_decisions(predicted, _count_support(truth), len(truth))
    total = Decisions(*(np.asarray(counts.sum()) for counts in per_label))
    # With equal probabilities for all rows the average precision is the label's share of them.
    precisions = np.where(per_label.support > 0, per_label.support / len(truth), np.nan)
    wrong = total.predicted + total.support - 2 * total.hits
    return Baseline(
        loss=loss,
        accuracy_thresh=float((truth.size - wrong) / truth.size),
        micro_f1=averages.get_total(f"{name}.microF1", total.f1, "f1"),
        macro_f1=averages.average_labels(f"{name}.macroF1", per_label.f1, "f1"),
        mean_average_precision=averages.average_labels(f"{name}.meanAveragePrecision", precisions, "averagePrecision"),
    )


@dataclass
class _Averager:
    """Computes means over defined values; `undefined` explains by path which values are missing."""

    label_names: Sequence[str]
    undefined: dict[str, str] = field(default_factory=dict)

    def average_micro(self, decisions: Decisions) -> Averages:
        return Averages(
            precision=self.get_total("micro.precision", decisions.precision, "precision"),
            recall=self.get_total("micro.recall", decisions.recall, "recall"),
            f1=self.get_total("micro.f1", decisions.f1, "f1"),
        )

    def average_over_labels(self, path: str, decisions: Decisions, *, weighted: bool = False) -> Averages:
        weights = decisions.support if weighted else None
        return Averages(
            precision=self.average_labels(f"{path}.precision", decisions.precision, "precision", weights),
            recall=self.average_labels(f"{path}.recall", decisions.recall, "recall", weights),
            f1=self.average_labels(f"{path}.f1", decisions.f1, "f1", weights),
        )

    def average_over_rows(self, path: str, decisions: Decisions) -> Averages:
        return Averages(
            precision=self.average_rows(f"{path}.precision", decisions.precision, "precision"),
            recall=self.average_rows(f"{path}.recall", decisions.recall, "recall"),
            f1=self.average_rows(f"{path}.f1", decisions.f1, "f1"),
        )

    def score_labels(self, decisions: Decisions, precisions: Floats, chosen: Floats) -> list[LabelScore]:
        scores = {
            "precision": decisions.precision,
            "recall": decisions.recall,
            "f1": decisions.f1,
            "averagePrecision": precisions,
        }
        for kind, values in scores.items():
            if np.isnan(values).any():
                self.undefined[f"perLabel.{kind}"] = self._describe_undefined(kind, values)
        kept = sorted(np.argsort(-decisions.support, kind="stable")[:MAX_SCORED_LABELS].tolist())
        if len(kept) < len(self.label_names):
            self.undefined["perLabel"] = f"the {len(kept)} labels of {len(self.label_names)} with the most rows"
        return [
            LabelScore(
                label=self.label_names[label],
                precision=_to_optional_float(decisions.precision[label]),
                recall=_to_optional_float(decisions.recall[label]),
                f1=_to_optional_float(decisions.f1[label]),
                average_precision=_to_optional_float(precisions[label]),
                support=int(decisions.support[label]),
                threshold=float(chosen[label]),
            )
            for label in kept
        ]

    def estimate_intervals(self, truth: LabelMatrix, predicted: LabelMatrix, probabilities: Probabilities) -> Intervals:
        intervals = uncertainty.estimate_intervals(truth, predicted, probabilities)
        for name in type(intervals).model_fields:
            if getattr(intervals, name) is None:
                self.undefined[f"intervals.{to_camel(name)}"] = uncertainty.explain_missing(truth)
        return intervals

    def get_total(self, path: str, value: Floats, kind: str) -> float | None:
        if np.isnan(value):
            self.undefined[path] = _UNDEFINED_PER_LABEL[kind].format(labels="any label")
        return _to_optional_float(value)

    def average_labels(
        self, path: str, values: Floats, kind: str, weights: metrics.Counts | None = None
    ) -> float | None:
        result = metrics.average_defined(values, weights)
        if result is None:
            self.undefined[path] = _UNDEFINED_PER_LABEL["recall" if weights is not None else kind].format(
                labels="any label"
            )
        elif np.isnan(values).any():
            defined = np.count_nonzero(~np.isnan(values))
            self.undefined[path] = (
                f"mean over {defined} of {len(values)} labels: {self._describe_undefined(kind, values)}"
            )
        return result

    def average_rows(self, path: str, values: Floats, kind: str) -> float | None:
        result = metrics.average_defined(values)
        without = np.count_nonzero(np.isnan(values))
        if result is None:
            self.undefined[path] = f"all {len(values)} rows {_UNDEFINED_PER_ROW[kind]}"
        elif without:
            self.undefined[path] = (
                f"mean over {len(values) - without} of {len(values)} rows: the others {_UNDEFINED_PER_ROW[kind]}"
            )
        return result

    def _describe_undefined(self, kind: str, values: Floats) -> str:
        return _UNDEFINED_PER_LABEL[kind].format(labels=join_names(_select_names(np.isnan(values), self.label_names)))


def _to_optional_float(value: Floats) -> float | None:
    return None if np.isnan(value) else float(value)


def _select_names(mask: NDArray[np.bool_], names: Sequence[str]) -> list[str]:
    return [name for name, wanted in zip(names, mask, strict=True) if wanted]


def _compare_with_baselines(scores: EvaluationResult) -> list[str]:
    """Return a warning for each score that does not beat its baseline."""
    warnings = []
    for name, ours, prior, zero, _ in scores.compare_baselines():
        # Predicting no label is a strong baseline for accuracy_thresh alone, and has no loss.
        is_accuracy = name == "accuracy_thresh"
        theirs, what = (zero, "predicting no label at all") if is_accuracy else (prior, "predicting the label prior")
        if ours is None or theirs is None or (ours < theirs if name == "loss" else ours > theirs):
            continue
        warnings.append(f"{name} {ours:.4f} does not beat {what} ({theirs:.4f})")
    return warnings


def _check_threshold_support(chosen: Thresholds, label_names: Sequence[str], tuned: LabelMatrix) -> list[str]:
    """Return warnings about thresholds that keep no wanted precision, or were tuned on too few positive rows."""
    warnings = []
    if chosen.unreached is not None and chosen.unreached.any():
        warnings.append(
            "evaluation.minPrecision is reached by no threshold on the rows that thresholds are tuned on for"
            f" {join_names(_select_names(chosen.unreached, label_names))}: they are never predicted"
        )
    if chosen.source != ThresholdTuning.PER_LABEL:
        return warnings
    support = tuned.sum(axis=0, dtype=np.int64)
    unseen = _select_names(support == 0, label_names)
    rare = _select_names((support > 0) & (support < MIN_POSITIVES), label_names)
    if unseen:
        warnings.append(
            f"no row that thresholds are tuned on carries {join_names(unseen)}: the threshold is the one that is best for all labels together"
        )
    if rare:
        warnings.append(
            f"fewer than {MIN_POSITIVES} of the rows that thresholds are tuned on carry {join_names(rare)}: a threshold of the "
            "label's own is tuned on chance; more rows or evaluation.thresholdTuning 'global' help"
        )
    return warnings
