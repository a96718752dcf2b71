"""What a user reads: the `status` of a TrainingTask.

Two writers share it by server-side apply: the trainer owns `training`, the operator owns everything else.
"""

from datetime import datetime
from enum import IntEnum, StrEnum
from typing import Annotated, Any

from pydantic import AwareDatetime, Field

from trainingtask_api.rules import Contract

Word = Annotated[str, Field(max_length=128)]
Sentence = Annotated[str, Field(max_length=2048)]
Scalar = str | int | float | bool


class ExitCode(IntEnum):
    """How a trainer ends. The Job's failure policy reads it: a user's mistake is never tried again."""

    SUCCESS = 0
    FAULT = 1
    USER_ERROR = 64
    INTERRUPTED = 143  # 128 + SIGTERM


class Phase(StrEnum):
    """What the trainer is doing."""

    STARTING = "Starting"
    LOADING = "Loading"
    PREPROCESSING = "Preprocessing"
    TRAINING = "Training"
    EVALUATING = "Evaluating"
    SAVING = "Saving"
    DONE = "Done"
    FAILED = "Failed"


class Averages(Contract):
    """Precision, recall and F1 of one way of averaging over labels."""

    precision: float = Field(description="Precision.")
    recall: float = Field(description="Recall.")
    f1: float = Field(description="F1: harmonic mean of precision and recall.")


class Baseline(Contract):
    """What a model that reads no text scores on the same rows."""

    accuracy_thresh: float = Field(description="Fraction of single label decisions that are right.")
    micro_f1: float = Field(description="Micro-averaged F1.")


class EvaluationResult(Contract):
    """Scores on rows that neither training nor threshold tuning has seen."""

    split: Word = Field(description="The rows that were scored.")
    rows: int = Field(description="Number of rows.")
    threshold: float = Field(description="Probability from which a label is predicted.")
    threshold_source: Word = Field(description="'fixed' by the task, or 'tuned' on the validation rows.")
    loss: float = Field(description="Binary cross-entropy, mean over rows and labels.")
    accuracy_thresh: float = Field(
        description="Fraction of single label decisions that are right; compare with the baselines, it says nothing by itself."
    )
    micro: Averages = Field(description="Over all label decisions together.")
    macro: Averages = Field(description="Unweighted mean over labels.")
    weighted: Averages = Field(description="Mean over labels, weighted by their support.")
    all_zero: Baseline = Field(description="Baseline that predicts no label at all.")
    most_frequent: Baseline = Field(
        description="Baseline that predicts the most frequent training label for every row."
    )
    runtime_seconds: float = Field(description="Duration of the evaluation.")
    samples_per_second: float = Field(description="Rows evaluated per second.")


class Results(Contract):
    """What a finished training leaves behind, in JSON numbers and strings."""

    global_step: int = Field(description="Optimiser steps.")
    training_loss: float = Field(description="Mean training loss.")
    train_rows: int = Field(description="Training rows.")
    validation_rows: int = Field(description="Rows held out for the threshold.")
    runtime_seconds: float = Field(description="Duration of the training itself.")
    samples_per_second: float = Field(description="Training rows per second.")
    labels: int = Field(description="Number of labels.")
    data_fingerprint: Word = Field(description="SHA-256 over texts and labels of all splits.")
    evaluation: EvaluationResult = Field(description="Scores on the test rows.")
    warnings: Annotated[list[Sentence], Field(max_length=16)] = Field(
        [], description="What a reader of the scores must know."
    )
    arguments: Annotated[dict[str, Scalar], Field(max_length=64)] = Field(
        {}, description="The arguments after all defaults."
    )
    versions: Annotated[dict[str, Word], Field(max_length=32)] = Field({}, description="Versions of the libraries.")
    model_path: Annotated[str, Field(max_length=1024)] | None = Field(
        None, description="Folder of the trained model in the output claim."
    )

    def as_columns(self) -> dict[str, dict[str, Any]]:
        """Return the three JSON columns of a history row, with the snake_case names that SQL is comfortable with."""
        training = self.model_dump(mode="json", exclude_none=True)
        arguments, evaluation = training.pop("arguments"), training.pop("evaluation")
        return {"training_args": arguments, "training_result": training, "evaluate_result": evaluation}


class Failure(Contract):
    """Why a training failed, in one word and in one sentence."""

    reason: Word = Field(description="Stable CamelCase word.")
    message: Sentence = Field(description="What went wrong and what to do.")
    phase: Phase = Field(description="What the trainer was doing.")


class TrainingReport(Contract):
    """What the trainer says of itself."""

    attempt: int = Field(description="Which attempt reports; the first is 1.")
    phase: Phase = Field(description="What the trainer is doing.")
    epoch: int | None = Field(None, description="Current epoch, from 1.")
    epochs: int | None = Field(None, description="Number of epochs.")
    step: int | None = Field(None, description="Optimiser steps done.")
    total_steps: int | None = Field(None, description="Optimiser steps in all.")
    progress: Word | None = Field(None, description="Progress of the training, such as '42%'.")
    loss: float | None = Field(None, description="Latest training loss.")
    samples_per_second: float | None = Field(None, description="Training rows per second.")
    eta: Word | None = Field(None, description="Time left, such as '2m10s'.")
    score: Word | None = Field(None, description="Micro-averaged F1 on the test rows.")
    report_time: AwareDatetime | None = Field(None, description="When this was written.")
    start_time: AwareDatetime | None = Field(None, description="When this attempt started.")
    finish_time: AwareDatetime | None = Field(None, description="When this attempt ended.")
    results: Results | None = Field(None, description="Results of a finished training.")
    failure: Failure | None = Field(None, description="Why the training failed.")


class Condition(Contract):
    """A condition after the Kubernetes API conventions."""

    type: Word = Field(description="Accepted, Running, Suspended, Interrupted, Complete or Failed.")
    status: Annotated[Word, Field(json_schema_extra={"enum": ["True", "False", "Unknown"]})] = Field(
        description="True, False or Unknown."
    )
    reason: Word = Field(description="Stable CamelCase word.")
    message: Sentence = Field(description="The cause and what to do, for a person.")
    last_transition_time: AwareDatetime = Field(description="When `status` last changed.")
    observed_generation: int | None = Field(None, description="Generation of the spec that this is about.")


class TrainingTaskStatus(Contract):
    """Status of a TrainingTask."""

    observed_generation: int | None = Field(None, description="Generation of the spec that this status is about.")
    state: Word | None = Field(
        None,
        description="One word for people, derived from the conditions: Pending, Running, Suspended, Interrupted, Succeeded or Failed.",
    )
    reason: Word | None = Field(None, description="Reason of the condition that `state` is derived from.")
    conditions: Annotated[list[Condition], Field(max_length=16)] | None = Field(
        None,
        description="Conditions: Accepted, Running, Suspended, Interrupted, Complete, Failed.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )
    job_name: Word | None = Field(None, description="The Job that trains.")
    node: Annotated[str, Field(max_length=253)] | None = Field(None, description="The node of the latest attempt.")
    attempt: int | None = Field(None, description="The latest attempt; the first is 1.")
    start_time: AwareDatetime | None = Field(None, description="When the first pod ran.")
    completion_time: AwareDatetime | None = Field(None, description="When the task ended.")
    training: TrainingReport | None = Field(None, description="What the trainer says; written by the trainer alone.")

    def condition(self, kind: str) -> Condition | None:
        """Return the condition of this type, or None."""
        return next((condition for condition in self.conditions or () if condition.type == kind), None)

    def is_true(self, kind: str) -> bool:
        """Tell whether the condition of this type is there and True."""
        condition = self.condition(kind)
        return condition is not None and condition.status == "True"

    @property
    def finished_at(self) -> datetime | None:
        """When the task ended, None while it has not; Complete and Failed are terminal and sticky."""
        ended = next(
            (c for c in self.conditions or () if c.type in ("Complete", "Failed") and c.status == "True"), None
        )
        return None if ended is None else self.completion_time or ended.last_transition_time
