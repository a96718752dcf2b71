"""A task, its Job and its pods -> the task's status. Pure: the one place that decides what a user is told."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from trainingtask_api import Condition, TrainingTask, TrainingTaskStatus
from trainingtask_operator.attempts import Attempt, Cause, parse_time
from trainingtask_operator.jobs import job_name

Object = Mapping[str, Any]

ACCEPTED = Cause("Accepted", "The task is valid; its Job is created.")
STARTING = Cause("Starting", "Waiting for the trainer's pod to start.")
RUNNING = Cause("TrainerRunning", "The trainer runs; status.training tells how far it is.")
SUCCEEDED = Cause("Succeeded", "The model is trained; status.training.results holds its scores.")
SUSPENDED = Cause("SuspendedByUser", "spec.runPolicy.suspend is true: set it to false to go on.")
RESUMED = Cause("Resumed", "spec.runPolicy.suspend is false.")
ENDED = Cause("Ended", "The task has ended.")
JOB_DELETED = Cause(
    "JobDeleted", "Somebody deleted the task's Job before it ended: create the task again to train again."
)


def status_of(task: TrainingTask, job: Object | None, attempts: list[Attempt], now: datetime) -> TrainingTaskStatus:
    """Return the operator's part of the status of a task whose Job is `job`; None means it is about to be created.

    Terminal is sticky: a task that is Complete or Failed keeps its status whatever becomes of its Job.
    """
    before = task.status or TrainingTaskStatus()
    if before.finished_at is not None:
        return before.model_copy(update={"training": None})
    change = _Change(task, before, attempts, now)
    change.set("Accepted", True, ACCEPTED)
    outcome = _outcome(task, job, attempts)
    if outcome is not None:
        return change.finished(*outcome)
    suspended = task.spec.run_policy.suspend
    if suspended or before.condition("Suspended"):
        change.set("Suspended", suspended, SUSPENDED if suspended else RESUMED)
    latest = attempts[-1] if attempts else None
    # A Job that is about to fail ends its pods first: that is no interruption, and the reason is a moment away.
    failing = "FailureTarget" in job_conditions(job)
    running, interruption = (None, None) if failing else _activity(latest, suspended)
    if running is not None:
        change.set("Running", *running)
    if interruption is not None:
        change.set("Interrupted", True, interruption)
    elif change.is_true("Running") and change.is_true("Interrupted"):
        change.set("Interrupted", False, RUNNING)
    return change.result()


def refused(task: TrainingTask, cause: Cause, now: datetime) -> TrainingTaskStatus:
    """Return the status of a task that gets no Job yet, and why; it is looked at again."""
    before = task.status or TrainingTaskStatus()
    change = _Change(task, before, [], now)
    change.set("Accepted", False, cause)
    change.set("Running", False, cause)
    return change.result()


def job_deleted(task: TrainingTask, attempts: list[Attempt], now: datetime) -> TrainingTaskStatus:
    """Return the status of a task whose Job vanished after it had trained: it never trains again by accident."""
    return _Change(task, task.status or TrainingTaskStatus(), attempts, now).finished(False, JOB_DELETED, now)


def is_deleted(job: Object) -> bool:
    """Tell whether the Job is being deleted before it has ended."""
    return "deletionTimestamp" in job["metadata"] and not job_conditions(job).keys() & {"Complete", "Failed"}


def has_trained(status: TrainingTaskStatus | None) -> bool:
    """Tell whether a pod of the task is known to have run, so that its Job must have existed."""
    return status is not None and (status.start_time is not None or status.training is not None)


def transitions(before: TrainingTaskStatus | None, after: TrainingTaskStatus) -> list[Condition]:
    """Return the conditions of `after` whose status or reason differs from `before`."""
    changed = []
    for condition in after.conditions or []:
        old = before.condition(condition.type) if before else None
        if old is None or (old.status, old.reason) != (condition.status, condition.reason):
            changed.append(condition)
    return changed


def _outcome(task: TrainingTask, job: Object | None, attempts: list[Attempt]) -> tuple[bool, Cause, datetime] | None:
    """Return whether the Job succeeded, why it ended, and when; None while it has not ended."""
    said = job_conditions(job)
    if "Complete" in said:
        return True, SUCCEEDED, parse_time(said["Complete"]["lastTransitionTime"])
    if "Failed" in said:
        return (
            False,
            _failure(task, said.get("FailureTarget", said["Failed"]), attempts),
            parse_time(said["Failed"]["lastTransitionTime"]),
        )
    return None


def job_conditions(job: Object | None) -> dict[str, Object]:
    """Return the Job's conditions that are True, by type."""
    conditions = (job or {}).get("status", {}).get("conditions") or []
    return {condition["type"]: condition for condition in conditions if condition.get("status") == "True"}


def _failure(task: TrainingTask, condition: Object, attempts: list[Attempt]) -> Cause:
    if condition.get("reason") == "DeadlineExceeded":
        seconds = task.spec.run_policy.active_deadline_seconds
        return Cause(
            "DeadlineExceeded",
            f"The task was active longer than spec.runPolicy.activeDeadlineSeconds allows ({seconds} s).",
        )
    failed = [attempt for attempt in attempts if attempt.cause]
    if not failed:
        return Cause(condition.get("reason") or "JobFailed", condition.get("message") or "The Job failed.")
    last = failed[-1]
    assert last.cause is not None  # noqa: S101 - selected above
    if last.users_mistake or last.number == 1:
        return last.cause
    return Cause(last.cause.reason, f"{last.cause.message} (attempt {last.number}; no retries are left)")


def _activity(latest: Attempt | None, suspended: bool) -> tuple[tuple[bool, Cause] | None, Cause | None]:
    """Return what to say of Running (None: leave it) and why the task is interrupted (None: it is not)."""
    if suspended:
        return (False, SUSPENDED), None
    if latest is None:
        return (False, STARTING), None
    if latest.phase == "Running" and latest.cause is None:
        return (True, RUNNING), None
    if latest.phase == "Pending":
        return (False, latest.trouble or STARTING), None
    if latest.cause and not latest.users_mistake:
        message = f"Attempt {latest.number} ended: {latest.cause.message} It is tried again after a pause, unless no retries are left."
        return (False, latest.cause), Cause(latest.cause.reason, message)
    # Succeeded, or refused for the user's mistake: the Job controller's word is a moment away.
    return None, None


class _Change:
    """The status in the making: conditions keep their transition time unless their status changes."""

    def __init__(self, task: TrainingTask, before: TrainingTaskStatus, attempts: list[Attempt], now: datetime) -> None:
        self._task = task
        self._before = before
        self._attempts = attempts
        self._now = now
        self._conditions = {condition.type: condition for condition in before.conditions or []}

    def is_true(self, kind: str) -> bool:
        return kind in self._conditions and self._conditions[kind].status == "True"

    def set(self, kind: str, value: bool, cause: Cause) -> None:
        status = "True" if value else "False"
        old = self._conditions.get(kind)
        self._conditions[kind] = Condition(
            type=kind,
            status=status,
            reason=cause.reason[:128],
            message=cause.message[:2048],
            last_transition_time=old.last_transition_time if old and old.status == status else self._now,
            observed_generation=self._task.metadata.generation,
        )

    def finished(self, success: bool, cause: Cause, when: datetime) -> TrainingTaskStatus:
        self.set("Running", False, ENDED)
        for kind in ("Interrupted", "Suspended"):
            if self.is_true(kind):
                self.set(kind, False, ENDED)
        self.set("Complete" if success else "Failed", True, cause)
        return self.result(completion_time=when)

    def result(self, completion_time: datetime | None = None) -> TrainingTaskStatus:
        latest = self._attempts[-1] if self._attempts else None
        started = [attempt.started for attempt in self._attempts if attempt.started]
        state, reason = self._state()
        return TrainingTaskStatus(
            observed_generation=self._task.metadata.generation,
            state=state,
            reason=reason,
            conditions=list(self._conditions.values()),
            job_name=job_name(self._task),
            node=(latest and latest.node) or self._before.node,
            attempt=latest.number if latest else self._before.attempt,
            start_time=self._before.start_time or min(started, default=None),
            completion_time=completion_time,
        )

    def _state(self) -> tuple[str, str]:
        for kind, state in (
            ("Complete", "Succeeded"),
            ("Failed", "Failed"),
            ("Suspended", "Suspended"),
            ("Running", "Running"),
            ("Interrupted", "Interrupted"),
        ):
            if self.is_true(kind):
                return state, self._conditions[kind].reason
        return "Pending", self._conditions["Running"].reason if "Running" in self._conditions else STARTING.reason
