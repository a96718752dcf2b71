"""History rows of a task, from its status and attempts: those that the trainer could not write, or not complete. Pure."""

import uuid
from datetime import datetime

from trainingtask_api import Reason, TrainingReport, TrainingTask, TrainingTaskStatus
from trainingtask_api.status import SUMMARY_CONDITIONS
from trainingtask_history.rows import build_run
from trainingtask_history.tables import RunEvent, RunStatus, TrainingRun, run_id
from trainingtask_operator.controller.attempts import Attempt


def build_rows(task: TrainingTask, status: TrainingTaskStatus, attempts: list[Attempt]) -> list[TrainingRun]:
    """Return one row per attempt that has begun, and one for an attempt that waits, or ended before it began."""
    rows = [
        _build_row(task, status, attempt, is_last=attempt is attempts[-1]) for attempt in attempts if attempt.has_begun
    ]
    if not rows or rows[-1].attempt < (status.attempt or 1):
        rows.append(_build_row(task, status, None, is_last=True))
    return rows


def build_run_events(status: TrainingTaskStatus, rows: list[TrainingRun], attempts: list[Attempt]) -> list[RunEvent]:
    """Return the transitions of conditions as events of the last row; those before its pod belong to an earlier attempt."""
    run = rows[-1]
    pod = next((attempt for attempt in attempts if attempt.number == run.attempt), None)
    created = pod.create_time if pod and run.attempt > 1 else None
    return [
        RunEvent(
            run_id=run.id,
            time=condition.last_transition_time,
            type=condition.type,
            reason=condition.reason,
            message=condition.message,
        )
        for condition in status.conditions or ()
        if condition.type not in SUMMARY_CONDITIONS and not _is_earlier(condition.last_transition_time, created)
    ]


def select_log_pods(task: TrainingTask, attempts: list[Attempt], *, is_deleting: bool = False) -> dict[uuid.UUID, str]:
    """Return the pods whose logs are recorded, by the id of the attempt's row.

    Those are the failed attempts, and every attempt if its pod is to be deleted: with its task, by its TTL, or because
    of its sidecars. Otherwise ``kubectl logs`` shows the log for as long as the task exists. The log of a lost node cannot be read.
    """
    is_deleting = is_deleting or task.spec.run_policy.ttl_seconds_after_finished is not None
    return {
        run_id(task.metadata.uid or "", attempt.number): attempt.pod
        for attempt in attempts
        if attempt.pod_exists
        and attempt.pod
        and attempt.start_time
        and (is_deleting or attempt.phase == "Failed" or attempt.sidecars)
        and not (attempt.cause and attempt.cause.reason == Reason.NODE_LOST)
    }


def _build_row(
    task: TrainingTask, status: TrainingTaskStatus, attempt: Attempt | None, *, is_last: bool
) -> TrainingRun:
    number = attempt.number if attempt else status.attempt or 1
    report = _find_report(task, attempt, number)
    run_status, reason, message, finish_time = _find_outcome(status, attempt, is_last=is_last)
    start_time = (attempt and attempt.start_time) or (report and report.start_time) or None
    if attempt is None and task.spec.run_policy.managed_by is not None:
        start_time = start_time or status.start_time
    return build_run(
        task,
        task_uid=task.metadata.uid or "",
        attempt=number,
        status=run_status,
        create_time=task.metadata.creation_timestamp,
        start_time=start_time,
        finish_time=finish_time,
        results=report.results if report else None,
        labels=task.metadata.labels,
        error_reason=reason,
        error_message=message,
        trainer_image=attempt.image if attempt else task.spec.image,
        node=attempt.node if attempt else status.node,
        tracking_url=report.tracking_url if report else None,
    )


def _find_report(task: TrainingTask, attempt: Attempt | None, number: int) -> TrainingReport | None:
    """Return the trainer's report if it belongs to this attempt, by its number and by the time."""
    report = task.status.training if task.status else None
    if report is None or report.attempt != (attempt.reported_number if attempt else number):
        return None
    # After a suspension the trainer's number may be an earlier attempt's: then the times decide.
    if attempt and attempt.reported_number != attempt.number and _is_earlier(report.start_time, attempt.create_time):
        return None
    return report


def _is_earlier(one: datetime | None, other: datetime | None) -> bool:
    return one is not None and other is not None and one < other


def _find_outcome(
    status: TrainingTaskStatus, attempt: Attempt | None, *, is_last: bool
) -> tuple[RunStatus, str | None, str | None, datetime | None]:
    """Return the row's status, reason, message and finish time; a finish time makes the row final."""
    failed = status.get_condition("Failed")
    if is_last and status.finished_at is not None:
        finished = (attempt and attempt.finish_time) or status.finished_at
        if status.is_true("Complete"):
            return RunStatus.SUCCEEDED, None, None, finished
        assert failed is not None  # noqa: S101 - finished, and not complete
        if failed.reason == Reason.CANCELLED:
            return RunStatus.CANCELLED, failed.reason, failed.message, finished
        if failed.reason == Reason.RETRIES_EXHAUSTED and attempt is not None and attempt.cause is not None:
            return RunStatus.FAILED, attempt.cause.reason, attempt.cause.message, finished
        return RunStatus.FAILED, failed.reason, failed.message, finished
    if attempt is not None and attempt.cause is not None and not is_last:
        ended = attempt.finish_time or attempt.create_time or status.start_time
        return RunStatus.FAILED, attempt.cause.reason, attempt.cause.message, ended
    # The last attempt stays open until the task has finished: after a suspension it continues as the same attempt.
    if status.is_true("Suspended"):
        return RunStatus.SUSPENDED, None, None, None
    if attempt is None and status.is_true("Running"):  # in another cluster
        return RunStatus.RUNNING, None, None, None
    if attempt is None:  # the row's events hold why it waits: a reason in the row would stay when it runs
        return RunStatus.PENDING, None, None, None
    if attempt.cause is not None:
        return RunStatus.INTERRUPTED, attempt.cause.reason, attempt.cause.message, None
    return RunStatus.RUNNING, None, None, None


def build_cancelled_rows(task: TrainingTask, attempts: list[Attempt], now: datetime) -> list[TrainingRun]:
    """Return the rows of a task that was deleted before it finished: open ones are cancelled."""
    status = task.status or TrainingTaskStatus()
    rows = build_rows(task, status, attempts)
    for run in rows:
        if run.finish_time is None:
            run.status, run.finish_time = RunStatus.CANCELLED.value, now
            run.total_time = (now - run.start_time).total_seconds() if run.start_time else None
            run.error_reason, run.error_message = Reason.CANCELLED.value, "The task was deleted before it ended."
    return rows
