"""The one evaluator of every model: scores, baselines on the same rows, and what a reader must know of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from trainingtask_api.scores import Averages, Baseline, EvaluationResult, LabelScore, ValidationScores
from trainingtask_api.training import Evaluation as EvaluationSpec
from trainingtask_api.training import ThresholdTuning
from trainingtask_trainer.evaluation import metrics, thresholds
from trainingtask_trainer.evaluation.metrics import Decisions, Floats, LabelMatrix, Probabilities
from trainingtask_trainer.evaluation.thresholds import Thresholds
from trainingtask_trainer.models.base import label_prior

# As many as the status has room for.
MOST_LABELS = 1000
# With fewer positive rows the threshold of the best F1 follows the chance of which rows they are.
FEW_POSITIVES = 10

# What has happened when a score is undefined, before the labels' names and after a number of rows.
_NO_ROW = {
    "precision": "no row is predicted to carry {labels}",
    "recall": "no row carries {labels}",
    "f1": "no row carries or is predicted to carry {labels}",
    "averagePrecision": "no row carries {labels}",
    "rocAuc": "all rows or none carry {labels}",
}
_ROWS = {
    "precision": "are predicted no label",
    "recall": "carry no label",
    "f1": "carry no label and are predicted none",
}


@dataclass(frozen=True)
class Scored:
    """Rows with a model's probabilities, both of shape [rows, labels]."""

    truth: LabelMatrix
    probabilities: Probabilities


@dataclass(frozen=True)
class Evaluation:
    """What came out, and the thresholds that belong to the model from now on."""

    thresholds: Thresholds
    validation: ValidationScores
    test: EvaluationResult
    warnings: list[str]


def evaluate(
    spec: EvaluationSpec | None,
    label_names: Sequence[str],
    *,
    train_labels: LabelMatrix,
    validation: Scored,
    test: Scored,
    seconds: float,
) -> Evaluation:
    """Choose thresholds on the validation rows and score the test rows with them.

    Parameters
    ----------
    spec
        The task's `evaluation`.
    label_names
        Names of the labels, shape [labels].
    train_labels
        What the label-prior baseline knows, 0/1, shape [training rows, labels].
    validation, test
        The rows; the test rows have no say in the thresholds.
    seconds
        How long predicting the test rows took.
    """
    chosen = thresholds.choose(spec, validation.truth, validation.probabilities)
    rows = len(test.truth)
    predicted = thresholds.apply(chosen.values, test.probabilities)
    averages = _Averages(label_names)
    per_label = Decisions.of(test.truth, predicted, axis=0)
    per_row = Decisions.of(test.truth, predicted, axis=1)
    precisions, areas = metrics.ranking_scores(test.truth, test.probabilities)
    accuracy = metrics.accuracy_thresh(test.truth, predicted)
    prior = label_prior(train_labels)
    result = EvaluationResult(
        split="test",
        rows=rows,
        threshold=chosen.single,
        threshold_source=chosen.source,
        loss=metrics.binary_cross_entropy(test.truth, test.probabilities),
        accuracy_thresh=accuracy,
        subset_accuracy=metrics.subset_accuracy(test.truth, predicted),
        hamming_loss=1 - accuracy,
        micro=averages.micro(Decisions.of(test.truth, predicted, axis=None)),
        macro=averages.over_labels("macro", per_label),
        weighted=averages.over_labels("weighted", per_label, weighted=True),
        samples=averages.over_rows("samples", per_row),
        mean_average_precision=averages.label_mean("meanAveragePrecision", precisions, "averagePrecision"),
        label_ranking_average_precision=averages.row_mean(
            "labelRankingAveragePrecision",
            metrics.label_ranking_average_precision(test.truth, test.probabilities),
            "recall",
        ),
        roc_auc=averages.label_mean("rocAuc", areas, "rocAuc"),
        per_label=averages.per_label(per_label, precisions, chosen.values),
        all_zero=_all_zero(averages, test.truth),
        label_prior=_label_prior(averages, prior, spec, validation.truth, test.truth),
        undefined=averages.undefined,
        runtime_seconds=seconds,
        samples_per_second=rows / seconds,
    )
    warnings = [*_baseline_warnings(result), *_threshold_warnings(chosen, label_names, validation.truth)]
    return Evaluation(chosen, _validation(validation, chosen), result, warnings)


def _validation(rows: Scored, chosen: Thresholds) -> ValidationScores:
    predicted = thresholds.apply(chosen.values, rows.probabilities)
    return ValidationScores(
        rows=len(rows.truth),
        loss=metrics.binary_cross_entropy(rows.truth, rows.probabilities),
        micro_f1=_number(Decisions.of(rows.truth, predicted, axis=None).f1),
        macro_f1=metrics.mean(Decisions.of(rows.truth, predicted, axis=0).f1),
        mean_average_precision=metrics.mean_average_precision(rows.truth, rows.probabilities),
    )


def _all_zero(averages: "_Averages", truth: LabelMatrix) -> Baseline:
    nothing = np.zeros_like(truth)
    averages.undefined["allZero.loss"] = "a label that has the probability 0 and is there costs infinitely much"
    return _baseline(averages, "allZero", truth, nothing, loss=None)


def _label_prior(
    averages: "_Averages", prior: Floats, spec: EvaluationSpec | None, validation: LabelMatrix, truth: LabelMatrix
) -> Baseline:
    def same_for_all(rows: LabelMatrix) -> Probabilities:
        return np.tile(prior, (len(rows), 1))

    chosen = thresholds.choose(spec, validation, same_for_all(validation))
    probabilities = same_for_all(truth)
    predicted = thresholds.apply(chosen.values, probabilities)
    loss = metrics.binary_cross_entropy(truth, probabilities)
    return _baseline(averages, "labelPrior", truth, predicted, loss=loss)


def _baseline(
    averages: "_Averages", name: str, truth: LabelMatrix, predicted: LabelMatrix, *, loss: float | None
) -> Baseline:
    per_label = Decisions.of(truth, predicted, axis=0)
    # Among rows that are all alike the precision is the label's share of them.
    precisions = np.where(per_label.support > 0, per_label.support / len(truth), np.nan)
    return Baseline(
        loss=loss,
        accuracy_thresh=metrics.accuracy_thresh(truth, predicted),
        micro_f1=averages.total(f"{name}.microF1", Decisions.of(truth, predicted, axis=None).f1, "f1"),
        macro_f1=averages.label_mean(f"{name}.macroF1", per_label.f1, "f1"),
        mean_average_precision=averages.label_mean(f"{name}.meanAveragePrecision", precisions, "averagePrecision"),
    )


@dataclass
class _Averages:
    """Means over what is defined; `undefined` says by path what is absent, and over what else a mean was taken."""

    label_names: Sequence[str]
    undefined: dict[str, str] = field(default_factory=dict)

    def micro(self, decisions: Decisions) -> Averages:
        return Averages(
            precision=self.total("micro.precision", decisions.precision, "precision"),
            recall=self.total("micro.recall", decisions.recall, "recall"),
            f1=self.total("micro.f1", decisions.f1, "f1"),
        )

    def over_labels(self, path: str, decisions: Decisions, *, weighted: bool = False) -> Averages:
        weights = decisions.support if weighted else None
        return Averages(
            precision=self.label_mean(f"{path}.precision", decisions.precision, "precision", weights),
            recall=self.label_mean(f"{path}.recall", decisions.recall, "recall", weights),
            f1=self.label_mean(f"{path}.f1", decisions.f1, "f1", weights),
        )

    def over_rows(self, path: str, decisions: Decisions) -> Averages:
        return Averages(
            precision=self.row_mean(f"{path}.precision", decisions.precision, "precision"),
            recall=self.row_mean(f"{path}.recall", decisions.recall, "recall"),
            f1=self.row_mean(f"{path}.f1", decisions.f1, "f1"),
        )

    def per_label(self, decisions: Decisions, precisions: Floats, chosen: Floats) -> list[LabelScore]:
        scores = {
            "precision": decisions.precision,
            "recall": decisions.recall,
            "f1": decisions.f1,
            "averagePrecision": precisions,
        }
        for kind, values in scores.items():
            if np.isnan(values).any():
                self.undefined[f"perLabel.{kind}"] = self._no_row(kind, values)
        kept = sorted(np.argsort(-decisions.support, kind="stable")[:MOST_LABELS].tolist())
        if len(kept) < len(self.label_names):
            self.undefined["perLabel"] = f"the {len(kept)} labels of {len(self.label_names)} with the most rows"
        return [
            LabelScore(
                label=self.label_names[label],
                precision=_number(decisions.precision[label]),
                recall=_number(decisions.recall[label]),
                f1=_number(decisions.f1[label]),
                average_precision=_number(precisions[label]),
                support=int(decisions.support[label]),
                threshold=float(chosen[label]),
            )
            for label in kept
        ]

    def total(self, path: str, value: Floats, kind: str) -> float | None:
        if np.isnan(value):
            self.undefined[path] = _NO_ROW[kind].format(labels="any label")
        return _number(value)

    def label_mean(self, path: str, values: Floats, kind: str, weights: metrics.Counts | None = None) -> float | None:
        result = metrics.mean(values, weights)
        if result is None:
            self.undefined[path] = _NO_ROW["recall" if weights is not None else kind].format(labels="any label")
        elif np.isnan(values).any():
            defined = np.count_nonzero(~np.isnan(values))
            self.undefined[path] = f"mean over {defined} of {len(values)} labels: {self._no_row(kind, values)}"
        return result

    def row_mean(self, path: str, values: Floats, kind: str) -> float | None:
        result = metrics.mean(values)
        without = np.count_nonzero(np.isnan(values))
        if result is None:
            self.undefined[path] = f"all {len(values)} rows {_ROWS[kind]}"
        elif without:
            self.undefined[path] = f"mean over {len(values) - without} of {len(values)} rows: the others {_ROWS[kind]}"
        return result

    def _no_row(self, kind: str, values: Floats) -> str:
        return _NO_ROW[kind].format(labels=_some(_where(np.isnan(values), self.label_names)))


def _number(value: Floats) -> float | None:
    return None if np.isnan(value) else float(value)


def _where(mask: NDArray[np.bool_], names: Sequence[str]) -> list[str]:
    return [name for name, wanted in zip(names, mask, strict=True) if wanted]


def _some(names: Sequence[str], limit: int = 5) -> str:
    """Return names as part of a sentence, at most `limit` of them."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _baseline_warnings(scores: EvaluationResult) -> list[str]:
    """Return a sentence for each score that a baseline reaches as well."""
    warnings = []
    for name, ours, prior, zero in scores.compare_baselines():
        # Predicting nothing is hard to beat in accuracy_thresh alone, and does not even have a loss.
        nothing = name == "accuracy_thresh"
        theirs, what = (zero, "predicting no label at all") if nothing else (prior, "predicting the label prior")
        if ours is None or theirs is None or (ours < theirs if name == "loss" else ours > theirs):
            continue
        warnings.append(f"{name} {ours:.4f} does not beat {what} ({theirs:.4f})")
    return warnings


def _threshold_warnings(chosen: Thresholds, label_names: Sequence[str], validation: LabelMatrix) -> list[str]:
    """Return what limits thresholds of the labels' own."""
    if chosen.source != ThresholdTuning.PER_LABEL:
        return []
    support = validation.sum(axis=0, dtype=np.int64)
    unseen = _where(support == 0, label_names)
    rare = _where((support > 0) & (support < FEW_POSITIVES), label_names)
    warnings = []
    if unseen:
        warnings.append(
            f"no validation row carries {_some(unseen)}: the threshold is the one that is best for all labels together"
        )
    if rare:
        warnings.append(
            f"fewer than {FEW_POSITIVES} validation rows carry {_some(rare)}: a threshold of the label's own is tuned "
            "on chance; more rows or evaluation.thresholdTuning 'global' help"
        )
    return warnings
