"""What is recorded of a task: rows that the trainer could not write, or not complete, made from status and pods. Pure."""

import uuid
from datetime import datetime

from trainingtask_api import Reason, TrainingReport, TrainingTask, TrainingTaskStatus
from trainingtask_history.rows import build_run
from trainingtask_history.tables import RunEvent, RunStatus, TrainingRun, run_id
from trainingtask_operator.controller.attempts import Attempt


def rows_of(task: TrainingTask, status: TrainingTaskStatus, attempts: list[Attempt]) -> list[TrainingRun]:
    """Return one row per attempt that has begun, and one for what is waited for, or ended before it began."""
    rows = [
        _row(task, status, attempt, is_last=attempt is attempts[-1])
        for attempt in attempts
        if attempt.started or attempt.cause
    ]
    if not rows or rows[-1].attempt < (status.attempt or 1):
        rows.append(_row(task, status, None, is_last=True))
    return rows


def events_of(status: TrainingTaskStatus, rows: list[TrainingRun], attempts: list[Attempt]) -> list[RunEvent]:
    """Return what the conditions tell of the last of `rows`; what came before its pod is an earlier attempt's."""
    run = rows[-1]
    pod = next((attempt for attempt in attempts if attempt.number == run.attempt), None)
    since = pod.created if pod and run.attempt > 1 else None
    return [
        RunEvent(
            run_id=run.id,
            time=condition.last_transition_time,
            type=condition.type,
            reason=condition.reason,
            message=condition.message,
        )
        for condition in status.conditions or ()
        if not _before(condition.last_transition_time, since)
    ]


def logs_of(task: TrainingTask, attempts: list[Attempt], *, going: bool = False) -> dict[uuid.UUID, str]:
    """Return the pods whose logs are kept, by the id of the attempt's row.

    Of every attempt that failed while its node answers, and of any if its pod is `going`, with its task or by its TTL:
    otherwise ``kubectl logs`` shows it for as long as the task is there.
    """
    going = going or task.spec.run_policy.ttl_seconds_after_finished is not None
    return {
        run_id(task.metadata.uid or "", attempt.number): attempt.pod
        for attempt in attempts
        if attempt.exists
        and attempt.pod
        and attempt.started
        and (going or attempt.phase == "Failed")
        and not (attempt.cause and attempt.cause.reason == Reason.NODE_LOST)
    }


def _row(task: TrainingTask, status: TrainingTaskStatus, attempt: Attempt | None, *, is_last: bool) -> TrainingRun:
    number = attempt.number if attempt else status.attempt or 1
    report = _report_of(task, attempt, number)
    run_status, reason, message, finished = _end(status, attempt, is_last=is_last)
    started = (attempt and attempt.started) or (report and report.start_time) or None
    return build_run(
        task,
        task_uid=task.metadata.uid or "",
        attempt=number,
        status=run_status,
        create_time=task.metadata.creation_timestamp,
        start_time=started,
        finish_time=finished,
        results=report.results if report else None,
        labels=task.metadata.labels,
        error_reason=reason,
        error_message=message,
        trainer_image=attempt.image if attempt else task.spec.image,
        node=attempt.node if attempt else status.node,
    )


def _report_of(task: TrainingTask, attempt: Attempt | None, number: int) -> TrainingReport | None:
    """Return what the trainer reported if it was in this attempt, by its own count and by the time."""
    report = task.status.training if task.status else None
    if report is None or report.attempt != (attempt.reported if attempt else number):
        return None
    # After a suspension the trainer's count may be an earlier attempt's; then the time tells whose report it is.
    if attempt and attempt.reported != attempt.number and _before(report.start_time, attempt.created):
        return None
    return report


def _before(one: datetime | None, other: datetime | None) -> bool:
    return one is not None and other is not None and one < other


def _end(
    status: TrainingTaskStatus, attempt: Attempt | None, *, is_last: bool
) -> tuple[RunStatus, str | None, str | None, datetime | None]:
    """Return the row's status, reason, message and finish time; a finish time makes the row final."""
    failed = status.get_condition("Failed")
    if is_last and status.finished_at is not None:
        finished = (attempt and attempt.finished) or status.finished_at
        if status.is_true("Complete"):
            return RunStatus.SUCCEEDED, None, None, finished
        assert failed is not None  # noqa: S101 - finished, and not complete
        if failed.reason == Reason.CANCELLED:
            return RunStatus.CANCELLED, failed.reason, failed.message, finished
        if failed.reason == Reason.RETRIES_EXHAUSTED and attempt is not None and attempt.cause is not None:
            return RunStatus.FAILED, attempt.cause.reason, attempt.cause.message, finished
        return RunStatus.FAILED, failed.reason, failed.message, finished
    if attempt is not None and attempt.cause is not None and not is_last:
        ended = attempt.finished or attempt.created or status.start_time
        return RunStatus.FAILED, attempt.cause.reason, attempt.cause.message, ended
    # The last attempt is not over before the task is: it may be suspended, and go on as the same attempt.
    if status.is_true("Suspended"):
        return RunStatus.SUSPENDED, None, None, None
    if attempt is None:  # why it waits is told by its events: a row's reason would stay when it runs
        return RunStatus.PENDING, None, None, None
    if attempt.cause is not None:
        return RunStatus.INTERRUPTED, attempt.cause.reason, attempt.cause.message, None
    return RunStatus.RUNNING, None, None, None


def cancelled_rows(task: TrainingTask, attempts: list[Attempt], now: datetime) -> list[TrainingRun]:
    """Return the rows of a task that was deleted before it ended: what had not ended is cancelled."""
    status = task.status or TrainingTaskStatus()
    rows = rows_of(task, status, attempts)
    for run in rows:
        if run.finish_time is None:
            run.status, run.finish_time = RunStatus.CANCELLED.value, now
            run.total_time = (now - run.start_time).total_seconds() if run.start_time else None
            run.error_reason, run.error_message = Reason.CANCELLED.value, "The task was deleted before it ended."
    return rows
