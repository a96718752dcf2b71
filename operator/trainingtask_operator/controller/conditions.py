"""A task, its Job and its pods -> the task's status. Pure: the one place that decides what a user is told."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from trainingtask_api import Condition, Reason, TrainingTask, TrainingTaskStatus
from trainingtask_operator.controller.attempts import Attempt, parse_time, records_of
from trainingtask_operator.controller.diagnosis import Cause, Note, why_no_pod
from trainingtask_operator.controller.job_builder import job_name

Object = Mapping[str, Any]

# Trainers report every few seconds while they train; loading and saving may keep them silent for longer.
STALE_AFTER = timedelta(minutes=3)

ACCEPTED = Cause(Reason.ACCEPTED, "The task is valid; its Job is created.")
STARTING = Cause(Reason.STARTING, "Waiting for the trainer's pod to start.")
RUNNING = Cause(Reason.TRAINER_RUNNING, "The trainer runs; status.training tells how far it is.")
SUCCEEDED = Cause(Reason.SUCCEEDED, "The model is trained; status.training.results holds its scores.")
SUSPENDED = Cause(Reason.SUSPENDED_BY_USER, "spec.runPolicy.suspend is true: set it to false to go on.")
RESUMED = Cause(Reason.RESUMED, "spec.runPolicy.suspend is false.")
ENDED = Cause(Reason.ENDED, "The task has ended.")
JOB_DELETED = Cause(
    Reason.JOB_DELETED, "Somebody deleted the task's Job before it ended: create the task again to train again."
)
NAMESPACE_DELETED = Cause(Reason.CANCELLED, "The task's namespace is being deleted.")


def status_of(
    task: TrainingTask,
    job: Object | None,
    attempts: list[Attempt],
    now: datetime,
    *,
    note: Note | None = None,
    queue_trouble: Cause | None = None,
) -> TrainingTaskStatus:
    """Return the operator's part of the status of a task.

    Terminal is sticky: a task that is Complete or Failed keeps its status whatever becomes of its Job.

    Parameters
    ----------
    task
        With its status as it is stored.
    job
        Its Job; None when it is about to be created.
    attempts
        See `attempts_of`.
    now
        The time of this look.
    note
        The newest Event that says why the Job has no pod.
    queue_trouble
        Why a queued task could not be suspended or resumed.
    """
    before = task.status or TrainingTaskStatus()
    if before.finished_at is not None:
        return before.model_copy(update={"training": None})
    change = _Change(task, before, attempts, now)
    change.set("Accepted", True, ACCEPTED)
    outcome = _outcome(task, job, attempts)
    if outcome is not None:
        return change.finished(*outcome)
    suspended = before.is_true("Suspended") if queue_trouble else task.spec.run_policy.suspend
    if suspended or before.get_condition("Suspended") or queue_trouble:
        change.set("Suspended", suspended, queue_trouble or (SUSPENDED if suspended else RESUMED))
    latest = attempts[-1] if attempts else None
    # A Job that is about to fail ends its pods first: that is no interruption, and the reason is a moment away.
    if "FailureTarget" in job_conditions(job):
        return change.result()
    if suspended:
        change.set("Running", False, queue_trouble or SUSPENDED)
    elif waits_for_quota(task, job):
        change.set("Running", False, _waiting_for_quota(task))
    elif note is not None and _explains(note, job, latest):
        change.set("Running", False, why_no_pod(note))
    elif latest is None or (latest.cause is None and not latest.exists):
        change.set("Running", False, STARTING)
    elif latest.phase == "Running" and latest.cause is None:
        change.runs(latest)
    elif latest.phase == "Pending":
        change.set("Running", False, latest.trouble or STARTING)
    elif latest.cause and not latest.users_mistake and (latest.exists or not change.is_true("Interrupted")):
        change.interrupted(latest, latest.cause)
    # Else it has succeeded, or was refused for the user's mistake: the Job controller's word is a moment away.
    return change.result()


def waits_for_quota(task: TrainingTask, job: Object | None) -> bool:
    """Tell whether a queue has not let the task run yet, or not any more."""
    return task.spec.run_policy.queue_name is not None and (job is None or bool(job["spec"].get("suspend")))


def last_sign_of_life(task: TrainingTask, attempt: Attempt) -> datetime | None:
    """Return when the attempt's trainer was last heard of."""
    report = task.status.training if task.status else None
    if report is None or report.report_time is None or attempt.started is None:
        return attempt.started
    return max(attempt.started, report.report_time)


def next_look(task: TrainingTask, attempts: list[Attempt], now: datetime) -> timedelta | None:
    """Return when a task has to be looked at again even if nothing happens: just then its progress may be stale."""
    latest = attempts[-1] if attempts else None
    if latest is None or latest.phase != "Running":
        return None
    heard = last_sign_of_life(task, latest)
    if heard is None or now - heard >= STALE_AFTER:
        return None
    return STALE_AFTER - max(now - heard, timedelta(0))


def _waiting_for_quota(task: TrainingTask) -> Cause:
    queue = task.spec.run_policy.queue_name
    return Cause(
        Reason.WAITING_FOR_QUOTA,
        f"Queue {queue!r} has not admitted the task yet: it starts when there is quota"
        f" (kubectl get localqueue {queue} tells how long the queue is).",
    )


def _explains(note: Note, job: Object | None, latest: Attempt | None) -> bool:
    """Tell whether the Event is about the pod that is missing now, not about an earlier one."""
    started = (job or {}).get("status", {}).get("startTime")
    if started is not None and note.when < parse_time(started):
        return False
    if latest is None or latest.cause is None:
        return latest is None or not latest.exists
    return note.when > (latest.finished or latest.created or note.when)


def refused(task: TrainingTask, cause: Cause, now: datetime) -> TrainingTaskStatus:
    """Return the status of a task that gets no Job yet, and why; it is looked at again."""
    before = task.status or TrainingTaskStatus()
    change = _Change(task, before, [], now)
    change.set("Accepted", False, cause)
    change.set("Running", False, cause)
    suspended = task.spec.run_policy.suspend
    if suspended or before.get_condition("Suspended"):
        change.set("Suspended", suspended, SUSPENDED if suspended else RESUMED)
    return change.result()


def job_deleted(task: TrainingTask, attempts: list[Attempt], now: datetime) -> TrainingTaskStatus:
    """Return the status of a task whose Job vanished after it had trained: it never trains again by accident.

    Where the trainer had said that it is done, the task has succeeded: only the Job's own word for it is lost.
    """
    change = _Change(task, task.status or TrainingTaskStatus(), attempts, now)
    report = task.status.training if task.status else None
    if report is not None and report.results is not None and report.finish_time is not None:
        return change.finished(True, SUCCEEDED, report.finish_time)
    return change.finished(False, JOB_DELETED, now)


def cancelled(task: TrainingTask, attempts: list[Attempt], now: datetime) -> TrainingTaskStatus:
    """Return the status of a task that goes with its namespace."""
    change = _Change(task, task.status or TrainingTaskStatus(), attempts, now)
    return change.finished(False, NAMESPACE_DELETED, now)


def is_cancelled(status: TrainingTaskStatus) -> bool:
    """Tell whether the task went with its namespace."""
    failed = status.get_condition("Failed")
    return failed is not None and failed.reason == Reason.CANCELLED


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
        old = before.get_condition(condition.type) if before else None
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
    policy = task.spec.run_policy
    if condition.get("reason") == "DeadlineExceeded":
        return Cause(
            Reason.DEADLINE_EXCEEDED,
            "The task was active longer than spec.runPolicy.activeDeadlineSeconds allows"
            f" ({policy.active_deadline_seconds} s): allow more in a new task, or train less.",
        )
    failed = [attempt for attempt in attempts if attempt.cause]
    if not failed:
        said = ": ".join(str(condition[field]) for field in ("reason", "message") if condition.get(field))
        return Cause(Reason.JOB_FAILED, f"The Job failed, and no pod says why: create the task again. {said}".strip())
    last = failed[-1]
    assert last.cause is not None  # noqa: S101 - selected above
    if last.users_mistake or policy.retries == 0:
        return last.cause
    return Cause(
        Reason.RETRIES_EXHAUSTED,
        f"Attempt {last.number} failed as well, and spec.runPolicy.retries allows no more than {policy.retries} after"
        f" the first. The last failure was {last.cause.reason}: {last.cause.message}",
    )


class _Change:
    """The status in the making: conditions keep their transition time unless their status changes."""

    def __init__(self, task: TrainingTask, before: TrainingTaskStatus, attempts: list[Attempt], now: datetime) -> None:
        self._task = task
        self._before = before
        self._attempts = attempts
        self._now = now
        self._conditions = {condition.type: condition for condition in before.conditions or []}
        self._stale = False

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

    def runs(self, attempt: Attempt) -> None:
        """Say that the trainer runs, and whether it is still heard of."""
        heard = last_sign_of_life(self._task, attempt)
        self._stale = heard is not None and self._now - heard >= STALE_AFTER
        self.set("Running", True, _silent(attempt, heard) if self._stale and heard else RUNNING)
        if self.is_true("Interrupted"):
            self.set("Interrupted", False, RUNNING)

    def interrupted(self, attempt: Attempt, cause: Cause) -> None:
        """Say that an attempt ended, and that it is no mistake of the user's."""
        self.set("Running", False, cause)
        again = "It is tried again after a pause, unless no retries are left."
        self.set("Interrupted", True, Cause(cause.reason, f"Attempt {attempt.number} ended: {cause.message} {again}"))

    def finished(self, success: bool, cause: Cause, when: datetime) -> TrainingTaskStatus:
        self.set("Running", False, ENDED)
        for kind in ("Interrupted", "Suspended"):
            if self.is_true(kind):
                self.set(kind, False, ENDED)
        self.set("Complete" if success else "Failed", True, cause)
        return self._result(completion_time=when, failure=None if success else cause)

    def result(self) -> TrainingTaskStatus:
        return self._result()

    def _result(self, completion_time: datetime | None = None, failure: Cause | None = None) -> TrainingTaskStatus:
        begun = [attempt for attempt in self._attempts if attempt.begun]
        latest = begun[-1] if begun else None
        started = [attempt.started for attempt in begun if attempt.started]
        state, reason = self._state()
        return TrainingTaskStatus(
            observed_generation=self._task.metadata.generation,
            state=state,
            reason=reason,
            conditions=list(self._conditions.values()),
            job_name=job_name(self._task),
            node=(latest and latest.node) or self._before.node,
            pod_uid=(latest and latest.uid) or self._before.pod_uid,
            attempt=latest.number if latest else self._before.attempt,
            attempts=records_of(begun, ended_at=completion_time, failure=failure.reason if failure else None) or None,
            progress_stale=self._stale or None,
            start_time=self._before.start_time or min(started, default=None),
            completion_time=completion_time,
        )

    def _state(self) -> tuple[str, str]:
        for kind, state in (
            ("Complete", "Succeeded"),
            ("Failed", "Failed"),
            ("Suspended", "Suspended"),
            ("Running", "Running"),
        ):
            if self.is_true(kind):
                return state, self._conditions[kind].reason
        waiting = self._conditions["Running"].reason if "Running" in self._conditions else Reason.STARTING.value
        if self.is_true("Interrupted"):
            # What keeps the next attempt from starting is news; that it is on its way is none.
            return "Interrupted", waiting if waiting != Reason.STARTING else self._conditions["Interrupted"].reason
        return "Pending", waiting


def _silent(attempt: Attempt, heard: datetime) -> Cause:
    minutes = int(STALE_AFTER.total_seconds() // 60)
    return Cause(
        Reason.PROGRESS_STALE,
        f"The trainer's pod runs, but it has not reported since {heard:%Y-%m-%d %H:%M:%S} UTC, more than {minutes}"
        f" minutes: it may hang. kubectl logs {attempt.pod} tells more; deleting that pod ends the attempt.",
    )
