"""The operator's part of a task's status, from the task, its Job and its attempts. Pure."""

from datetime import datetime

from trainingtask_api import Condition, Reason, TrainingTask, TrainingTaskStatus
from trainingtask_api.status import SUMMARY_CONDITIONS, AttemptRecord
from trainingtask_operator.controller.attempts import (
    Attempt,
    build_attempt_records,
    build_from_record,
    take_reported_failure,
)
from trainingtask_operator.controller.deadline import explain_deadline, is_overdue
from trainingtask_operator.controller.diagnosis import Cause
from trainingtask_operator.controller.heartbeat import HEARTBEAT_TIMEOUT, get_last_heartbeat, is_stale
from trainingtask_operator.controller.sidecars import explain_sidecars, has_completed
from trainingtask_operator.controller.waiting import explain_missing_pod
from trainingtask_operator.controller.workload_builder import build_workload_name, get_workload_kind
from trainingtask_operator.kube_objects import KubeEvent, Object, get_true_conditions, is_finished, parse_time

STARTING = Cause(Reason.STARTING, "Waiting for the trainer's pod to start.")
STARTING_REMOTELY = Cause(
    Reason.STARTING,
    "Waiting for the trainer's pod to start in another cluster, where spec.runPolicy.managedBy runs it.",
)
RUNNING = Cause(Reason.TRAINER_RUNNING, "The trainer runs; status.training tells how far it is.")
RUNNING_REMOTELY = Cause(
    Reason.TRAINER_RUNNING, "The trainer runs in another cluster: its progress and its log are there."
)
SUCCEEDED = Cause(Reason.SUCCEEDED, "The model is trained; status.training.results holds its scores.")
SUCCEEDED_REMOTELY = Cause(
    Reason.SUCCEEDED,
    "The model is trained, in another cluster: its scores are beside it, where spec.output leads there.",
)
SUSPENDED = Cause(Reason.SUSPENDED_BY_USER, "spec.runPolicy.suspend is true: set it to false to go on.")
RESUMED = Cause(Reason.RESUMED, "spec.runPolicy.suspend is false.")
ENDED = Cause(Reason.ENDED, "The task has ended.")
NAMESPACE_DELETED = Cause(Reason.CANCELLED, "The task's namespace is being deleted.")
# Reasons of a JobSet, or Job, that failed whatever retries are left.
_JOBSET_FAILED_AT_ONCE = "FailJobSetFailurePolicyAction"  # by the deadline of its Job, or a user's error
_FAILED_AT_ONCE = (_JOBSET_FAILED_AT_ONCE, "PodFailurePolicy")


def build_status(
    task: TrainingTask,
    job: Object | None,
    attempts: list[Attempt],
    now: datetime,
    *,
    kube_event: KubeEvent | None = None,
    queue_cause: Cause | None = None,
    suspended_cause: Cause | None = None,
) -> TrainingTaskStatus:
    """Return the operator's part of the status of a task.

    Terminal is sticky: a task that is Complete or Failed keeps its status whatever becomes of its Job.

    Parameters
    ----------
    task
        With its status as it is stored.
    job
        Its Job; None when it is suspended before it has one.
    attempts
        See `build_attempts`.
    now
        The current time.
    kube_event
        The newest Event about why the Job has no pod.
    queue_cause
        Why a queued task could not be suspended or resumed.
    suspended_cause
        Why the Job is suspended although the task is not, None when it is not.
    """
    before = task.status or TrainingTaskStatus()
    if before.finished_at is not None:
        return before.model_copy(update={"training": None})
    builder = StatusBuilder(task, before, attempts, now)
    creation = "is created" if job else "is created when spec.runPolicy.suspend is false"
    accepted = Cause(Reason.ACCEPTED, f"The task is valid; its {get_workload_kind(task)} {creation}.")
    builder.set_condition("Accepted", True, accepted)
    outcome = _find_outcome(task, job, attempts, now)
    if outcome is not None:
        return builder.build_finished(*outcome)
    suspended = task.spec.run_policy.suspend
    if queue_cause is not None:  # it stays what it is
        suspended = before.is_true("Suspended") and job is not None and bool(job["spec"].get("suspend"))
    if suspended or before.get_condition("Suspended") or queue_cause:
        builder.set_condition("Suspended", suspended, queue_cause or (SUSPENDED if suspended else RESUMED))
    # A Job that is about to fail ends its pods first: that is no interruption, and its Failed condition follows.
    if "FailureTarget" in get_true_conditions(job):
        return builder.build()
    latest = attempts[-1] if attempts else None
    if suspended:
        builder.set_condition("Running", False, queue_cause or SUSPENDED)
    elif suspended_cause is not None:
        builder.set_condition("Running", False, suspended_cause)
    elif task.spec.run_policy.managed_by is not None and job is not None:
        _set_remote_progress(builder, job)
    elif kube_event is not None and _is_about_missing_pod(kube_event, job, latest):
        builder.set_condition("Running", False, explain_missing_pod(kube_event))
    else:
        _set_progress(builder, latest)
    return builder.build()


def _set_progress(builder: "StatusBuilder", latest: Attempt | None) -> None:
    """Set Running, and Interrupted, from the latest attempt."""
    if latest is None or (latest.cause is None and not latest.pod_exists):
        builder.set_condition("Running", False, STARTING)
    elif latest.phase == "Running" and (latest.cause is None or latest.sidecars):
        builder.set_running(latest)
    elif latest.phase == "Pending":
        builder.set_condition("Running", False, latest.waiting_cause or STARTING)
    elif latest.cause and not latest.is_user_error and (latest.pod_exists or not builder.is_true("Interrupted")):
        builder.set_interrupted(latest, latest.cause)
    # Else it has succeeded, or was refused as the user's error: the Job's own condition follows.


def _set_remote_progress(builder: "StatusBuilder", job: Object) -> None:
    """Set Running from the status of a Job that another controller runs in another cluster, and reports here."""
    status = job.get("status") or {}
    if status.get("ready"):
        builder.set_running_remotely(parse_time(status["startTime"]) if status.get("startTime") else None)
    else:
        builder.set_condition("Running", False, STARTING_REMOTELY)


def _is_about_missing_pod(event: KubeEvent, job: Object | None, latest: Attempt | None) -> bool:
    """Return whether the Event is about the pod that is missing now, not about an earlier one."""
    started = (job or {}).get("status", {}).get("startTime")
    if started is not None and event.time < parse_time(started):
        return False
    if latest is None or latest.cause is None:
        return latest is None or latest.lacks_pods
    return event.time > (latest.finish_time or latest.create_time or event.time)


def build_refused_status(
    task: TrainingTask, cause: Cause, now: datetime, attempts: list[Attempt]
) -> TrainingTaskStatus:
    """Return the status of a task that gets no Job for now, with the cause."""
    before = task.status or TrainingTaskStatus()
    builder = StatusBuilder(task, before, attempts, now)
    builder.set_condition("Accepted", False, cause)
    builder.set_condition("Running", False, cause)
    suspended = task.spec.run_policy.suspend
    if suspended or before.get_condition("Suspended"):
        builder.set_condition("Suspended", suspended, SUSPENDED if suspended else RESUMED)
    return builder.build()


def build_job_deleted_status(task: TrainingTask, attempts: list[Attempt], now: datetime) -> TrainingTaskStatus:
    """Return the status of a task whose Job vanished after it had trained: it never trains again by accident.

    Where the trainer had reported its results, the task has succeeded: only the Job's own condition is lost.
    """
    builder = StatusBuilder(task, task.status or TrainingTaskStatus(), attempts, now)
    report = task.status.training if task.status else None
    if report is not None and report.results is not None and report.finish_time is not None:
        return builder.build_finished(True, SUCCEEDED, report.finish_time)
    deleted = f"Somebody deleted the task's {get_workload_kind(task)} before it ended"
    return builder.build_finished(
        False, Cause(Reason.JOB_DELETED, f"{deleted}: create the task again to train again."), now
    )


def build_cancelled_status(task: TrainingTask, attempts: list[Attempt], now: datetime) -> TrainingTaskStatus:
    """Return the status of a task that is deleted with its namespace."""
    builder = StatusBuilder(task, task.status or TrainingTaskStatus(), attempts, now)
    return builder.build_finished(False, NAMESPACE_DELETED, now)


def build_overdue_status(task: TrainingTask, attempts: list[Attempt], now: datetime) -> TrainingTaskStatus:
    """Return the status of a task whose JobSet is active past the task's deadline."""
    builder = StatusBuilder(task, task.status or TrainingTaskStatus(), attempts, now)
    return builder.build_finished(False, explain_deadline(task), now)


def is_ended_by_operator(status: TrainingTaskStatus, job: Object) -> bool:
    """Return whether the operator ended the task before its Job.

    That is so with its namespace, at the deadline of a JobSet, and where sidecars outlive a trainer that succeeded.
    """
    failed = status.get_condition("Failed")
    if is_finished(job):
        return failed is not None and failed.reason == Reason.CANCELLED
    return status.is_true("Complete") or (
        failed is not None and failed.reason in (Reason.CANCELLED, Reason.DEADLINE_EXCEEDED)
    )


def is_terminating_unfinished(job: Object) -> bool:
    """Return whether the Job is being deleted before it has finished."""
    return "deletionTimestamp" in job["metadata"] and not is_finished(job)


def has_trained(status: TrainingTaskStatus | None) -> bool:
    """Return whether a pod of the task has run, so that its Job must have existed."""
    return status is not None and (status.start_time is not None or status.training is not None)


def find_transitions(before: TrainingTaskStatus | None, after: TrainingTaskStatus) -> list[Condition]:
    """Return the conditions of `after` whose status or reason differs from `before`."""
    earlier = {
        condition.type: (condition.status, condition.reason) for condition in (before and before.conditions) or []
    }
    return [
        c
        for c in after.conditions or []
        if c.type not in SUMMARY_CONDITIONS and earlier.get(c.type) != (c.status, c.reason)
    ]


def _find_outcome(
    task: TrainingTask, job: Object | None, attempts: list[Attempt], now: datetime
) -> tuple[bool, Cause, datetime] | None:
    """Return whether the task succeeded, why it ended, and when; None while it has not ended."""
    true = get_true_conditions(job)
    if "Complete" in true:
        succeeded = SUCCEEDED if task.spec.run_policy.managed_by is None else SUCCEEDED_REMOTELY
        return True, succeeded, parse_time(true["Complete"]["lastTransitionTime"])
    latest = attempts[-1] if attempts else None
    # A Job may fail after its trainer succeeded: at its deadline, or by a sidecar.
    if latest is not None and (has_completed(latest, now) or ("Failed" in true and latest.has_succeeded)):
        return True, SUCCEEDED, latest.finish_time or now
    if job is not None and "Failed" in true:
        failed = true["Failed"]
        cause = _explain_failed_job(task, job, true.get("FailureTarget", failed), attempts)
        return False, cause, parse_time(failed["lastTransitionTime"])
    return None


def _explain_failed_job(task: TrainingTask, job: Object, condition: Object, attempts: list[Attempt]) -> Cause:
    policy, report = task.spec.run_policy, task.status.training if task.status else None
    known = [*attempts[:-1], *(take_reported_failure(attempt, report) for attempt in attempts[-1:])]
    failed = [attempt for attempt in known if attempt.cause]
    is_user_error = known != attempts or (bool(failed) and failed[-1].is_user_error)
    if _is_deadline_exceeded(task, job, condition, is_user_error=is_user_error):
        return explain_deadline(task)
    has_failed_at_once = condition.get("reason") in _FAILED_AT_ONCE
    if not failed or (has_failed_at_once and known[-1].cause is None):
        details = ": ".join(str(condition[field]) for field in ("reason", "message") if condition.get(field))
        place = (
            ", and no pod says why"
            if policy.managed_by is None
            else " in another cluster, where its pod's log says why"
        )
        message = f"The {get_workload_kind(task)} failed{place}: create the task again. {details}"
        return Cause(Reason.JOB_FAILED, message.strip())
    last = failed[-1]
    assert last.cause is not None  # noqa: S101 - selected above
    if last.is_user_error or policy.retries == 0 or has_failed_at_once:
        return last.cause
    return Cause(
        Reason.RETRIES_EXHAUSTED,
        f"Attempt {last.number} failed as well, and spec.runPolicy.retries allows no more than {policy.retries} after"
        f" the first. The last failure was {last.cause.reason}: {last.cause.message}",
    )


def _is_deadline_exceeded(task: TrainingTask, job: Object, condition: Object, *, is_user_error: bool) -> bool:
    """Return whether a Job has failed for its deadline; of a JobSet whose own Job is gone, the time tells."""
    return condition.get("reason") == "DeadlineExceeded" or (
        condition.get("reason") == _JOBSET_FAILED_AT_ONCE
        and not is_user_error
        and is_overdue(task, job, parse_time(condition["lastTransitionTime"]))
    )


class StatusBuilder:
    """Conditions of a status under construction; one keeps its transition time unless its status changes."""

    def __init__(self, task: TrainingTask, before: TrainingTaskStatus, attempts: list[Attempt], now: datetime) -> None:
        self._task = task
        self._before = before
        self._attempts = attempts
        self._now = now
        self._conditions = {condition.type: condition for condition in before.conditions or []}
        self._is_stale = False
        self._start_time: datetime | None = None  # of a trainer in another cluster

    def is_true(self, kind: str) -> bool:
        """Return whether the condition of this type is True."""
        return kind in self._conditions and self._conditions[kind].status == "True"

    def set_condition(self, kind: str, value: bool, cause: Cause) -> None:
        """Set the condition of this type to True or False."""
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

    def set_running(self, attempt: Attempt) -> None:
        """Set Running, stale when the trainer has not reported for too long."""
        heartbeat = get_last_heartbeat(self._task, attempt)
        self._is_stale = not attempt.sidecars and is_stale(heartbeat, self._now)
        cause = _explain_staleness(attempt, heartbeat) if self._is_stale and heartbeat else RUNNING
        cause = explain_sidecars(attempt) if attempt.sidecars else cause
        self.set_condition("Running", True, cause)
        if self.is_true("Interrupted"):
            self.set_condition("Interrupted", False, RUNNING)

    def set_running_remotely(self, start_time: datetime | None) -> None:
        """Set Running for a trainer in another cluster, which is not seen from here."""
        self._start_time = start_time or self._now
        self.set_condition("Running", True, RUNNING_REMOTELY)

    def set_interrupted(self, attempt: Attempt, cause: Cause) -> None:
        """Set Interrupted for an attempt that ended without being the user's error."""
        self.set_condition("Running", False, cause)
        again = "It is tried again after a pause, unless no retries are left."
        message = f"Attempt {attempt.number} ended: {cause.message} {again}"
        self.set_condition("Interrupted", True, Cause(cause.reason, message))

    def build_finished(self, success: bool, cause: Cause, completion_time: datetime) -> TrainingTaskStatus:
        """Return the terminal status, Complete or Failed."""
        self.set_condition("Running", False, ENDED)
        for kind in ("Interrupted", "Suspended"):
            if self.is_true(kind):
                self.set_condition(kind, False, ENDED)
        self.set_condition("Complete" if success else "Failed", True, cause)
        return self.build(completion_time=completion_time, failure=None if success else cause)

    def build(self, completion_time: datetime | None = None, failure: Cause | None = None) -> TrainingTaskStatus:
        """Return the status with these conditions."""
        begun = [attempt for attempt in self._attempts if attempt.has_begun]
        if begun and begun[-1].number < (self._before.attempt or 0):
            begun.append(self._get_stored_attempt())  # it was suspended, and its new pod has not begun
        latest = begun[-1] if begun else None
        is_latest_last = latest is None or latest.cause is None or latest is self._attempts[-1]
        start_times = [attempt.start_time for attempt in begun if attempt.start_time]
        state, reason = self._derive_state()
        start_time = self._before.start_time or min(start_times, default=self._start_time)
        self._set_summary(has_started=start_time is not None)
        return TrainingTaskStatus(
            observed_generation=self._task.metadata.generation,
            state=state,
            reason=reason,
            conditions=list(self._conditions.values()),
            job_name=build_workload_name(self._task),
            node=(latest and latest.nodes) or self._before.node,
            pod_uid=(latest and latest.pod_uid) or self._before.pod_uid,
            attempt=latest.number if latest else self._before.attempt,
            attempts=build_attempt_records(
                begun,
                completion_time=completion_time if is_latest_last else None,  # else its own end is recorded
                failure=failure.reason if failure else None,
            )
            or None,
            progress_stale=self._is_stale or None,
            start_time=start_time,
            completion_time=completion_time,
        )

    def _get_stored_attempt(self) -> Attempt:
        """Return the latest attempt that had begun by the status before."""
        number = self._before.attempt or 1
        stored = (record for record in self._before.attempts or () if record.number == number)
        return build_from_record(next(stored, AttemptRecord(number=number)))

    def _set_summary(self, *, has_started: bool) -> None:
        """Set Stalled of a refused or failed task, Reconciling of one that is to start, and remove them otherwise."""
        accepted, failed, running = (self._conditions.get(kind) for kind in ("Accepted", "Failed", "Running"))
        is_refused = accepted is not None and accepted.status == "False"
        has_reached_goal = has_started or self.is_true("Complete") or self.is_true("Suspended")
        sources = {
            "Stalled": failed or (accepted if is_refused else None),
            "Reconciling": None if failed or is_refused or has_reached_goal else running,
        }
        for kind, source in sources.items():
            if source is None:
                self._conditions.pop(kind, None)
            else:
                self.set_condition(kind, True, Cause(source.reason, source.message))

    def _derive_state(self) -> tuple[str, str]:
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
            # Starting adds nothing to Interrupted; any other reason why the next attempt waits does.
            return "Interrupted", waiting if waiting != Reason.STARTING else self._conditions["Interrupted"].reason
        return "Pending", waiting


def _explain_staleness(attempt: Attempt, heartbeat: datetime) -> Cause:
    minutes = int(HEARTBEAT_TIMEOUT.total_seconds() // 60)
    return Cause(
        Reason.PROGRESS_STALE,
        f"The trainer's pod runs, but it has not reported since {heartbeat:%Y-%m-%d %H:%M:%S} UTC, more than {minutes}"
        f" minutes: it may hang. kubectl logs {attempt.pod} tells more; deleting that pod ends the attempt.",
    )
