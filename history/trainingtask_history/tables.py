"""Tables of the history: a row per task and attempt, its curves and events. They outlive the task, its Job and its pods."""

import uuid
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import JSON, Column, DateTime, ForeignKey, Index, Table, Text, UniqueConstraint, Uuid, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

_NAMESPACE = uuid.UUID("0f7c5c5e-5d0b-5a53-9d0c-6f0a3c1b2d4e")


class RunStatus(StrEnum):
    """The states of a run. Succeeded, Failed and Cancelled are final."""

    PENDING = "Pending"
    RUNNING = "Running"
    SUSPENDED = "Suspended"
    INTERRUPTED = "Interrupted"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    CANCELLED = "Cancelled"


def run_id(task_uid: str, attempt: int) -> uuid.UUID:
    """Return the key of the attempt's row, which the trainer and the operator derive alike."""
    return uuid.uuid5(_NAMESPACE, f"{task_uid}/{attempt}")


def _json_column() -> Column[Any]:
    return Column(JSON().with_variant(JSONB(), "postgresql"), nullable=True)


def _time_column() -> Column[Any]:
    return Column(DateTime(timezone=True), nullable=True)


class TrainingRun(SQLModel, table=True):
    """One attempt of one task.

    `finish_time` is set exactly when the row is final. After that only `OPERATOR_COLUMNS` change, each once.
    """

    __tablename__ = "training_run"
    __table_args__ = (
        UniqueConstraint("task_uid", "attempt"),
        # Lists are newest first; each index serves a filter on a value that few rows have.
        Index("training_run_created", "create_time", "id"),
        *(
            Index(f"training_run_{column}", column, "create_time", "id")
            for column in ("namespace_uid", "namespace", "status", "dataset", "model")
        ),
        # A few rows of many: at its start the operator looks for tasks that were deleted meanwhile.
        Index(
            "training_run_open",
            "create_time",
            postgresql_where=text("finish_time IS NULL"),
            sqlite_where=text("finish_time IS NULL"),
        ),
    )

    id: uuid.UUID = Field(primary_key=True)
    task_uid: str = Field(max_length=64)
    namespace: str = Field(max_length=253)
    namespace_uid: str | None = Field(
        default=None,
        max_length=64,
        description="Identity of the namespace, unlike its name, which a later one may have; set by the operator alone.",
    )
    name: str = Field(max_length=253)
    attempt: int
    dataset: str = Field(max_length=200)
    model: str = Field(max_length=200)
    device: str = Field(max_length=16)
    status: str = Field(max_length=32)
    create_time: datetime | None = Field(default=None, sa_column=_time_column())
    start_time: datetime | None = Field(default=None, sa_column=_time_column())
    finish_time: datetime | None = Field(default=None, sa_column=_time_column())
    total_time: float | None = Field(default=None, description="Seconds from start_time to finish_time.")
    labels: dict[str, str] | None = Field(
        default=None, sa_column=_json_column(), description="Labels of the task, as last observed by the operator."
    )
    phase: str | None = Field(default=None, max_length=32, description="Phase of the trainer at its latest report.")
    step: int | None = Field(default=None, description="Optimiser steps done.")
    total_steps: int | None = Field(default=None, description="Optimiser steps in all.")
    eta: str | None = Field(default=None, max_length=32, description="Time left, such as '2m10s'.")
    report_time: datetime | None = Field(default=None, sa_column=_time_column())
    score: float | None = Field(default=None, description="Micro-averaged F1 on the test rows.")
    spec: dict[str, Any] | None = Field(default=None, sa_column=_json_column())
    training_args: dict[str, Any] | None = Field(default=None, sa_column=_json_column())
    training_result: dict[str, Any] | None = Field(default=None, sa_column=_json_column())
    evaluate_result: dict[str, Any] | None = Field(default=None, sa_column=_json_column())
    error_reason: str | None = Field(default=None, max_length=128)
    error_message: str | None = Field(default=None, max_length=4096)
    trainer_image: str | None = Field(default=None, max_length=500)
    node: str | None = Field(default=None, max_length=253)
    tracking_url: str | None = Field(
        default=None,
        max_length=2048,
        description="Page of the run on the experiment tracker, as its trainer reports it.",
    )
    log_tail: str | None = Field(
        default=None,
        sa_column=Column(Text(), nullable=True),
        description="The last lines of the trainer's log, where they would be lost with the pod.",
    )


# A trainer may neither read nor set these: its run could appear among another tenant's.
OPERATOR_COLUMNS = ("log_tail", "namespace_uid", "labels")


def _run_id_column() -> Column[Any]:
    return Column(Uuid(), ForeignKey("training_run.id", ondelete="CASCADE"), primary_key=True)


class MetricPoint(SQLModel, table=True):
    """One value of one curve of a run. Written once."""

    __tablename__ = "metric_point"

    run_id: uuid.UUID = Field(sa_column=_run_id_column())
    name: str = Field(
        max_length=64,
        primary_key=True,
        description="training_loss, learning_rate, validation_loss or mean_average_precision.",
    )
    step: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False}, description="Optimiser step.")
    value: float


class RunEvent(SQLModel, table=True):
    """An event of a run: a condition became true or false, or the trainer entered a phase."""

    __tablename__ = "run_event"

    run_id: uuid.UUID = Field(sa_column=_run_id_column())
    time: datetime = Field(sa_column=Column(DateTime(timezone=True), primary_key=True))
    type: str = Field(max_length=32, primary_key=True, description="Type of the condition, or 'Phase'.")
    reason: str = Field(max_length=128, primary_key=True)
    message: str = Field(default="", max_length=4096)


def get_table(model: Any) -> Table:
    """Return the SQLAlchemy table of a model or of an instance."""
    table: Table = model.__table__  # set by SQLModel, absent from its type
    return table


RUNS = get_table(TrainingRun)
POINTS = get_table(MetricPoint)
EVENTS = get_table(RunEvent)
