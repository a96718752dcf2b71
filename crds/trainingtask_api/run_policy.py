"""The `spec.runPolicy`: when and how often a task runs, in which queue, and how long it stays."""

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from trainingtask_api.fields import ObjectName
from trainingtask_api.rules import Contract, Rule

# The Job refers to it by the value of a label, which has at most 63 characters.
_LabelledName = Annotated[ObjectName, Field(max_length=63)]

# May change while a task exists; all else of a spec is immutable, so that the history shows what was trained.
MUTABLE_FIELDS = ("suspend", "ttlSecondsAfterFinished", "deleteTask")


class ManagedBy(StrEnum):
    """The controllers that a Job or JobSet may be left to."""

    MULTIKUEUE = "kueue.x-k8s.io/multikueue"


class RunPolicy(Contract):
    """Suspension, deadline, retries, queue, priority and clean-up."""

    suspend: bool = Field(
        False, description="Stop the task, or do not start it, until this is false again. May be changed at any time."
    )
    active_deadline_seconds: Annotated[int, Field(ge=1, le=31_536_000)] | None = Field(
        None,
        description="Fail the task when it has been active for this long, all attempts together; a suspension starts the count anew. Default: no deadline.",
    )
    retries: Annotated[int, Field(ge=0, le=10)] = Field(
        2,
        description="How often a fault is tried again. A user's mistake is never tried again, and an evicted pod does not count.",
    )
    queue_name: _LabelledName | None = Field(
        None,
        description="Kueue LocalQueue that admits the task when there is quota. Default: no queue, or the namespace's LocalQueue 'default'.",
    )
    workload_priority_class_name: _LabelledName | None = Field(
        None,
        description="Kueue's WorkloadPriorityClass of the task: its place in the queue, and whom it preempts there. Default: that of priorityClassName.",
    )
    managed_by: ManagedBy | None = Field(
        None,
        description="Leave the Job to another controller: 'kueue.x-k8s.io/multikueue' runs it in another cluster. Default: this cluster.",
    )
    priority_class_name: ObjectName | None = Field(
        None, description="PriorityClass of the trainer's pod. Default: the cluster's."
    )
    ttl_seconds_after_finished: Annotated[int, Field(ge=0, le=31_536_000)] | None = Field(
        None,
        description="Delete the finished Job and its pods after this long; the TrainingTask stays, unless deleteTask is true. May be changed at any time. Default: keep them.",
    )
    delete_task: bool = Field(
        False,
        description="Delete the TrainingTask as well when ttlSecondsAfterFinished is over and its end is in the history; in a cluster without a history it stays. May be changed at any time.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!self.deleteTask || has(self.ttlSecondsAfterFinished)",
            "runPolicy.deleteTask needs runPolicy.ttlSecondsAfterFinished: how long a finished task stays",
            lambda policy: not policy.delete_task or policy.ttl_seconds_after_finished is not None,
        ),
    )
