"""The `status` of a TrainingTask.

Two writers share it by server-side apply: the trainer owns `training`, the operator all else.
"""

from datetime import datetime
from enum import IntEnum, StrEnum
from typing import Annotated

from pydantic import AwareDatetime, Field

from trainingtask_api.exports import Exports
from trainingtask_api.label_errors import LabelErrors
from trainingtask_api.rules import Contract
from trainingtask_api.scores import EvaluationResult, MessageText, ShortText, ValidationScores

Scalar = str | int | float | bool

# Repeat other conditions for tools that compute a status by kstatus's rules (Flux, Argo CD, kpt); they are True or absent.
SUMMARY_CONDITIONS = ("Reconciling", "Stalled")
# The API server's default: without it, kstatus takes a task that no operator has observed yet as done.
UNOBSERVED_STATUS = {"observedGeneration": -1}
MAX_WARNINGS = 16
MAX_SOURCES = 8
MAX_SOURCE_OBJECTS = 32


class ExitCode(IntEnum):
    """Exit codes of the trainer, for the Job's failure policy: a user's mistake is never retried."""

    SUCCESS = 0
    FAULT = 1
    USER_ERROR = 64
    INTERRUPTED = 143  # 128 + SIGTERM


class Phase(StrEnum):
    """Phases of a training."""

    STARTING = "Starting"
    LOADING = "Loading"
    PREPROCESSING = "Preprocessing"
    TRAINING = "Training"
    EVALUATING = "Evaluating"
    SAVING = "Saving"
    DONE = "Done"
    FAILED = "Failed"


class SourceObject(Contract):
    """A file that was read from an object store, a web server or a hub."""

    name: Annotated[str, Field(max_length=1024)] = Field(description="Path of the file below the source's address.")
    size: int = Field(description="Bytes.")
    etag: ShortText | None = Field(None, description="Entity tag that the server gave.")
    version: ShortText | None = Field(None, description="Version that the store gave, where it keeps several.")


class Source(Contract):
    """Where a part of the training came from, and which state of it was read."""

    field: ShortText = Field(description="Field of the spec that names it, such as 'dataset.uri'.")
    address: Annotated[str, Field(max_length=1024)] = Field(
        description="The uri without its query, or the id on the hub."
    )
    commit: ShortText | None = Field(None, description="Commit that the hub's revision was at.")
    size: int | None = Field(None, description="Bytes of all files.")
    object_count: int | None = Field(None, description="Number of files.")
    objects: Annotated[list[SourceObject], Field(max_length=MAX_SOURCE_OBJECTS)] = Field(
        [], description="The files; the first of them where there are many."
    )
    digest: ShortText | None = Field(
        None, description="SHA-256 over names, sizes, entity tags and versions of all files."
    )


class TextLengths(Contract):
    """Lengths of the training texts in tokens, before they are cut."""

    p50: int = Field(description="Half of the texts are at most this long.")
    p95: int = Field(description="95 % of the texts are at most this long.")
    p99: int = Field(description="99 % of the texts are at most this long.")
    max_length: int = Field(description="Longest text that the model reads; longer ones are cut.")
    cut_fraction: float = Field(description="Fraction of the texts that are cut.")


class Results(Contract):
    """Results of a finished training, in JSON numbers and strings."""

    global_step: int = Field(description="Optimiser steps.")
    training_loss: float = Field(description="Mean training loss.")
    train_rows: int = Field(description="Training rows.")
    validation_rows: int = Field(description="Rows held out for the threshold.")
    runtime_seconds: float = Field(description="Duration of the training itself.")
    samples_per_second: float = Field(description="Training rows per second.")
    labels: int = Field(description="Number of labels.")
    data_fingerprint: ShortText = Field(description="SHA-256 over texts and labels of all splits.")
    validation_texts_in_train: int = Field(
        0, description="Validation rows whose text stands in the training rows as well."
    )
    test_texts_in_train: int = Field(0, description="Test rows whose text stands in the training rows as well.")
    best_epoch: int | None = Field(
        None, description="The epoch whose weights were kept: best mean average precision on the validation rows."
    )
    tokens_per_second: float | None = Field(None, description="Training tokens per second, padding not counted.")
    peak_memory_bytes: int | None = Field(None, description="Most memory that the trainer held at once.")
    world_size: int = Field(1, description="Processes that trained together, one per GPU.")
    scaling_efficiency: float | None = Field(
        None,
        description="Share of the processes' time that went into their own rows, from 0 to 1; in the rest they exchanged gradients and waited for each other.",
    )
    resumed_from_step: int | None = Field(
        None, description="Optimiser step of the checkpoint that training went on from."
    )
    validation: ValidationScores = Field(description="Scores on the validation rows.")
    evaluation: EvaluationResult = Field(description="Scores on the test rows.")
    exports: Exports = Field([], description="The model in other formats, as the task's output.formats asks.")
    label_errors: LabelErrors | None = Field(None, description="Where the model and the given labels disagree.")
    warnings: Annotated[list[MessageText], Field(max_length=MAX_WARNINGS)] = Field(
        [], description="What a reader of the scores must know."
    )
    arguments: Annotated[dict[str, Scalar], Field(max_length=64)] = Field(
        {}, description="The arguments after all defaults."
    )
    versions: Annotated[dict[str, ShortText], Field(max_length=32)] = Field(
        {}, description="Versions of the libraries."
    )
    model_path: Annotated[str, Field(max_length=1024)] | None = Field(
        None, description="Folder of the trained model in the output claim."
    )
    model_uri: Annotated[str, Field(max_length=1024)] | None = Field(
        None, description="Address of the trained model in an object store or on a hub."
    )
    text_lengths: TextLengths | None = Field(
        None, description="Lengths of the training texts, for a preprocessor that counts tokens."
    )
    sources: Annotated[list[Source], Field(max_length=MAX_SOURCES)] = Field(
        [], description="What was read from object stores, web servers and hubs."
    )


class Failure(Contract):
    """The failure of a training."""

    reason: ShortText = Field(description="Stable CamelCase word.")
    message: MessageText = Field(description="What went wrong and what to do.")
    phase: Phase = Field(description="What the trainer was doing.")


class TrainingReport(Contract):
    """The trainer's report on its attempt."""

    attempt: int = Field(description="Which attempt reports; the first is 1.")
    phase: Phase = Field(description="What the trainer is doing.")
    epoch: int | None = Field(None, description="Current epoch, from 1.")
    epochs: int | None = Field(None, description="Number of epochs.")
    step: int | None = Field(None, description="Optimiser steps done.")
    total_steps: int | None = Field(None, description="Optimiser steps in all.")
    progress: ShortText | None = Field(None, description="Progress of the training, such as '42%'.")
    loss: float | None = Field(None, description="Latest training loss.")
    samples_per_second: float | None = Field(None, description="Training rows per second.")
    eta: ShortText | None = Field(None, description="Time left, such as '2m10s'.")
    score: ShortText | None = Field(None, description="Micro-averaged F1 on the test rows.")
    resumed_from_step: int | None = Field(
        None, description="Optimiser step of the checkpoint that this attempt went on from."
    )
    peak_memory_bytes: int | None = Field(None, description="Most memory that the trainer held so far.")
    report_time: AwareDatetime | None = Field(None, description="When this was written.")
    start_time: AwareDatetime | None = Field(None, description="When this attempt started.")
    finish_time: AwareDatetime | None = Field(None, description="When this attempt ended.")
    bytes_read: int | None = Field(None, description="Bytes read so far, in phase Loading.")
    bytes_total: int | None = Field(None, description="Bytes to read in all, in phase Loading.")
    rows_read: int | None = Field(None, description="Rows read, in phase Loading.")
    sources: Annotated[list[Source], Field(max_length=MAX_SOURCES)] | None = Field(
        None, description="What is read from object stores, web servers and hubs; later attempts read the same commits."
    )
    tracking_url: Annotated[str, Field(max_length=2048)] | None = Field(
        None, description="Page of the training's run on the experiment tracker."
    )
    results: Results | None = Field(None, description="Results of a finished training.")
    failure: Failure | None = Field(None, description="Why the training failed.")


class Condition(Contract):
    """A condition after the Kubernetes API conventions."""

    type: ShortText = Field(
        description="Accepted, Running, Suspended, Interrupted, Complete, Failed, Reconciling or Stalled."
    )
    status: Annotated[ShortText, Field(json_schema_extra={"enum": ["True", "False", "Unknown"]})] = Field(
        description="True, False or Unknown."
    )
    reason: ShortText = Field(description="Stable CamelCase word.")
    message: MessageText = Field(description="The cause and what to do, for a person.")
    last_transition_time: AwareDatetime = Field(description="When `status` last changed.")
    observed_generation: int | None = Field(None, description="Generation of the spec that this is about.")


class AttemptRecord(Contract):
    """One attempt, as it is remembered when its pod is gone."""

    number: int = Field(description="The first is 1.")
    pod: Annotated[str, Field(max_length=253)] | None = Field(None, description="The pod that ran it.")
    node: Annotated[str, Field(max_length=253)] | None = Field(None, description="Where it ran.")
    start_time: AwareDatetime | None = Field(None, description="When its container started.")
    finish_time: AwareDatetime | None = Field(None, description="When its container ended.")
    exit_code: int | None = Field(None, description="Exit code of the trainer.")
    reason: ShortText | None = Field(None, description="Why it ended.")


class TrainingTaskStatus(Contract):
    """Status of a TrainingTask."""

    observed_generation: int | None = Field(
        None, description="Generation of the spec that this status is about; -1 until the operator has written one."
    )
    state: ShortText | None = Field(
        None,
        description="One word for people, derived from the conditions: Pending, Running, Suspended, Interrupted, Succeeded or Failed.",
    )
    reason: ShortText | None = Field(None, description="Reason of the condition that `state` is derived from.")
    conditions: Annotated[list[Condition], Field(max_length=16)] | None = Field(
        None,
        description="Conditions: Accepted, Running, Suspended, Interrupted, Complete, Failed; after the rules of kstatus, for GitOps tools, Reconciling until the trainer has started, and Stalled when the task is refused or has failed.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )
    job_name: ShortText | None = Field(None, description="The Job that trains.")
    node: Annotated[str, Field(max_length=253)] | None = Field(None, description="The node of the latest attempt.")
    pod_uid: ShortText | None = Field(
        None, description="Uid of the latest attempt's pod: status.training is taken from this pod alone."
    )
    attempt: int | None = Field(None, description="The latest attempt; the first is 1.")
    attempts: Annotated[list[AttemptRecord], Field(max_length=16)] | None = Field(
        None, description="The latest attempts, oldest first."
    )
    progress_stale: bool | None = Field(
        None, description="The trainer's pod runs, but it has not reported for some minutes."
    )
    start_time: AwareDatetime | None = Field(None, description="When the first pod ran.")
    completion_time: AwareDatetime | None = Field(None, description="When the task ended.")
    training: TrainingReport | None = Field(None, description="What the trainer says; written by the trainer alone.")

    def get_condition(self, kind: str) -> Condition | None:
        """Return the condition of this type, or None."""
        return next((condition for condition in self.conditions or () if condition.type == kind), None)

    def is_true(self, kind: str) -> bool:
        """Return whether the condition of this type is True."""
        condition = self.get_condition(kind)
        return condition is not None and condition.status == "True"

    @property
    def finished_at(self) -> datetime | None:
        """When the task ended, None while it has not; Complete and Failed are terminal and sticky."""
        ended = next(
            (c for c in self.conditions or () if c.type in ("Complete", "Failed") and c.status == "True"), None
        )
        return None if ended is None else self.completion_time or ended.last_transition_time
