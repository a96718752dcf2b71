"""The history row: one per task and attempt, kept after the task, its Job and its pods are gone."""

import uuid
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import JSON, Column, DateTime, Index, Text, UniqueConstraint, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

_NAMESPACE = uuid.UUID("0f7c5c5e-5d0b-5a53-9d0c-6f0a3c1b2d4e")


class RunStatus(StrEnum):
    """Where a run stands. Succeeded, Failed and Cancelled are final."""

    PENDING = "Pending"
    RUNNING = "Running"
    SUSPENDED = "Suspended"
    INTERRUPTED = "Interrupted"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    CANCELLED = "Cancelled"


def run_id(task_uid: str, attempt: int) -> uuid.UUID:
    """Return the row's key: the same for the trainer and the operator, so that both write one row."""
    return uuid.uuid5(_NAMESPACE, f"{task_uid}/{attempt}")


def _json() -> Column[Any]:
    return Column(JSON().with_variant(JSONB(), "postgresql"), nullable=True)


def _time() -> Column[Any]:
    return Column(DateTime(timezone=True), nullable=True)


class TrainingRun(SQLModel, table=True):
    """One attempt of one task.

    `finish_time` is set exactly when the row is final; nothing changes after but `log_tail`, once.
    """

    __tablename__ = "training_run"
    __table_args__ = (
        UniqueConstraint("task_uid", "attempt"),
        # A few rows of many: an operator that starts looks for tasks that were deleted meanwhile.
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
    name: str = Field(max_length=253)
    attempt: int
    dataset: str = Field(max_length=200)
    model: str = Field(max_length=200)
    device: str = Field(max_length=16)
    status: str = Field(max_length=32)
    create_time: datetime | None = Field(default=None, sa_column=_time())
    start_time: datetime | None = Field(default=None, sa_column=_time())
    finish_time: datetime | None = Field(default=None, sa_column=_time())
    total_time: float | None = Field(default=None, description="Seconds from start_time to finish_time.")
    spec: dict[str, Any] | None = Field(default=None, sa_column=_json())
    training_args: dict[str, Any] | None = Field(default=None, sa_column=_json())
    training_result: dict[str, Any] | None = Field(default=None, sa_column=_json())
    evaluate_result: dict[str, Any] | None = Field(default=None, sa_column=_json())
    error_reason: str | None = Field(default=None, max_length=128)
    error_message: str | None = Field(default=None, max_length=4096)
    trainer_image: str | None = Field(default=None, max_length=500)
    node: str | None = Field(default=None, max_length=253)
    log_tail: str | None = Field(
        default=None,
        sa_column=Column(Text(), nullable=True),
        description="The last lines of the trainer's log, where it would be gone with the pod.",
    )
