"""The scores of a trained model, with a reason where a score is undefined."""

from typing import Annotated, NamedTuple, Self

from pydantic import Field

from trainingtask_api.rules import Contract

ShortText = Annotated[str, Field(max_length=128)]
# Labels with scores of their own in results.json and in the history.
MAX_SCORED_LABELS = 10_000
# Of these, the ones in the status.
MAX_REPORTED_LABELS = 50
MessageText = Annotated[str, Field(max_length=2048)]


class Averages(Contract):
    """Precision, recall and F1 of one way of averaging; absent where undefined."""

    precision: float | None = Field(None, description="Precision: of the predicted labels, the fraction that is right.")
    recall: float | None = Field(None, description="Recall: of the true labels, the fraction that is predicted.")
    f1: float | None = Field(None, description="F1: 2 TP / (2 TP + FP + FN).")


class Interval(Contract):
    """The interval with 95 % of a score's values over resampled rows (percentile bootstrap)."""

    low: float = Field(description="The score is lower in 2.5 % of the resamples.")
    high: float = Field(description="The score is higher in 2.5 % of the resamples.")

    def __str__(self) -> str:
        """Return the interval as tables show it."""
        return f"{self.low:.3f}-{self.high:.3f}"


class Comparison(NamedTuple):
    """A score of the model, with its interval, and of the two baselines on the same rows."""

    name: str
    model: float | None
    label_prior: float | None
    all_zero: float | None
    interval: str | None = None


class Intervals(Contract):
    """How far scores would move on other rows of the same kind; absent where undefined or too costly."""

    micro_f1: Interval | None = Field(None, description="Of the micro-averaged F1.")
    macro_f1: Interval | None = Field(None, description="Of the macro-averaged F1.")
    mean_average_precision: Interval | None = Field(None, description="Of the mean average precision.")


class LabelScore(Contract):
    """Scores of one label; absent where undefined."""

    label: Annotated[str, Field(max_length=200)] = Field(description="The label.")
    precision: float | None = Field(None, description="Precision; undefined where the label is never predicted.")
    recall: float | None = Field(None, description="Recall; undefined where no row carries the label.")
    f1: float | None = Field(None, description="F1; undefined where the label is neither carried nor predicted.")
    average_precision: float | None = Field(
        None, description="Average precision over all thresholds; undefined where no row carries the label."
    )
    support: int = Field(description="Rows that carry the label.")
    threshold: float = Field(description="Probability from which the label is predicted.")


class Baseline(Contract):
    """Scores of a model that reads no text, on the same rows."""

    loss: float | None = Field(None, description="Binary cross-entropy.")
    accuracy_thresh: float = Field(description="Fraction of single label decisions that are right.")
    micro_f1: float | None = Field(None, description="Micro-averaged F1.")
    macro_f1: float | None = Field(None, description="Macro-averaged F1.")
    mean_average_precision: float | None = Field(None, description="Mean average precision.")


class ValidationScores(Contract):
    """Scores on the rows that thresholds and epochs were chosen by: too good to be reported as the model's."""

    rows: int = Field(description="Number of rows.")
    loss: float = Field(description="Binary cross-entropy, mean over rows and labels.")
    micro_f1: float | None = Field(None, description="Micro-averaged F1 at the chosen thresholds.")
    macro_f1: float | None = Field(None, description="Macro-averaged F1 at the chosen thresholds.")
    mean_average_precision: float | None = Field(None, description="Mean over labels of the average precision.")


class ReliabilityBin(Contract):
    """Label decisions of like probability."""

    probability: float = Field(description="Mean of the probabilities.")
    fraction: float = Field(description="Fraction of these decisions whose label is there.")
    decisions: int = Field(description="Number of decisions.")


class CalibrationScores(Contract):
    """How far the probabilities can be taken at their word."""

    expected_calibration_error: float = Field(
        description="Mean distance between a bin's probability and its fraction, weighted by decisions."
    )
    brier_score: float = Field(description="Mean squared difference of probability and truth, over all decisions.")
    temperature: float | None = Field(
        None, description="Number that the logits were divided by; absent without calibration."
    )
    bins: Annotated[list[ReliabilityBin], Field(max_length=20)] = Field(
        [], description="Bins of equal width in probability, without those that are empty."
    )


class EvaluationResult(Contract):
    """Scores on rows that neither training nor threshold tuning has seen. What is absent is named in `undefined`."""

    split: ShortText = Field(description="The rows that were scored.")
    rows: int = Field(description="Number of rows.")
    threshold: float | None = Field(
        None, description="Probability from which a label is predicted; absent when each label has its own."
    )
    threshold_source: ShortText = Field(
        description="'fixed' by the task, or tuned on the validation rows (with evaluation.folds on the training rows as well): 'global' or 'per_label'."
    )
    objective: ShortText | None = Field(
        None, description="What tuned thresholds are best for, on the rows that they are tuned on."
    )
    threshold_shrinkage: float | None = Field(
        None,
        description="Positive rows at which a label's own threshold and the global one weigh the same; absent unless each label has its own.",
    )
    loss: float = Field(description="Binary cross-entropy, mean over rows and labels.")
    accuracy_thresh: float = Field(
        description="Fraction of single label decisions that are right; compare with the baselines, it says nothing by itself."
    )
    subset_accuracy: float = Field(description="Fraction of rows whose label set is exactly right.")
    hamming_loss: float = Field(description="Fraction of single label decisions that are wrong.")
    micro: Averages = Field(description="Over all label decisions together.")
    macro: Averages = Field(description="Unweighted mean over the labels where it is defined.")
    weighted: Averages = Field(description="Mean over labels, weighted by their support.")
    samples: Averages = Field(description="Mean over the rows where it is defined.")
    mean_average_precision: float | None = Field(
        None, description="Mean over labels of the average precision; needs no threshold."
    )
    label_ranking_average_precision: float | None = Field(
        None, description="Mean over rows of the precision at each true label's rank; needs no threshold."
    )
    roc_auc: float | None = Field(
        None, description="Mean over labels of the area under the ROC curve; needs no threshold."
    )
    intervals: Intervals = Field(Intervals(), description="95 % confidence intervals, by a bootstrap over the rows.")
    calibration: CalibrationScores | None = Field(None, description="Calibration of the probabilities.")
    per_label: Annotated[list[LabelScore], Field(max_length=MAX_SCORED_LABELS)] = Field(
        [],
        description="Scores of each label, in the data set's order; in the status of many labels the worst and the best by F1.",
    )
    undefined: Annotated[dict[str, MessageText], Field(max_length=64)] = Field(
        {}, description="Score by path, such as 'macro.precision': why it is absent, or over which labels it is a mean."
    )
    all_zero: Baseline = Field(description="Baseline that predicts no label at all.")
    label_prior: Baseline = Field(
        description="Baseline that gives each row the labels' shares of the training rows as probabilities; of one threshold for all labels and one for each, the better for each score."
    )
    runtime_seconds: float = Field(description="Duration of the evaluation.")
    samples_per_second: float = Field(description="Rows evaluated per second.")

    def keep_labels(self, count: int) -> Self:
        """Return a copy with the scores of at most `count` labels, the worst and the best by F1, in their order."""
        labels = self.per_label
        if len(labels) <= count:
            return self
        places = sorted(range(len(labels)), key=lambda place: (labels[place].f1 is None, labels[place].f1 or 0.0))
        defined = sum(score.f1 is not None for score in labels)
        best = min(count // 2, defined)
        kept = sorted({*places[: count - best], *places[defined - best : defined]})
        why = f"the {len(kept)} labels of {len(labels)} with the lowest and the highest F1; results.json has the others"
        return self.model_copy(
            update={
                "per_label": [labels[place] for place in kept],
                "undefined": self.undefined | {"perLabel": why},
            }
        )

    def compare_baselines(self) -> list[Comparison]:
        """Return the scores that the baselines have as well, and calibration."""
        prior, zero = self.label_prior, self.all_zero

        def compare(name: str, model: float | None, field: str, interval: Interval | None = None) -> Comparison:
            return Comparison(
                name, model, getattr(prior, field), getattr(zero, field), None if interval is None else str(interval)
            )

        intervals, calibration = self.intervals, self.calibration
        return [
            compare("loss", self.loss, "loss"),
            compare("micro-F1", self.micro.f1, "micro_f1", intervals.micro_f1),
            compare("macro-F1", self.macro.f1, "macro_f1", intervals.macro_f1),
            compare(
                "mean average precision",
                self.mean_average_precision,
                "mean_average_precision",
                intervals.mean_average_precision,
            ),
            compare("accuracy_thresh", self.accuracy_thresh, "accuracy_thresh"),
            Comparison(
                "calibration error", calibration.expected_calibration_error if calibration else None, None, None
            ),
            Comparison("Brier score", calibration.brier_score if calibration else None, None, None),
        ]
