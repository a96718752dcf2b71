"""Rows that the trainer could not write, or not complete: made from status and pods, written in the background."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

from sqlalchemy import Engine

from trainingtask_api import TrainingReport, TrainingTask, TrainingTaskStatus
from trainingtask_api.run import RunStatus, TrainingRun, run_id
from trainingtask_api.store import HistoryError, HistoryUnavailable, migrate, open_history, record
from trainingtask_operator.attempts import Attempt

log = logging.getLogger(__name__)

RETRY_SECONDS = 5.0


def rows_of(task: TrainingTask, status: TrainingTaskStatus, attempts: list[Attempt]) -> list[TrainingRun]:
    """Return one row per attempt that has begun, and one for a task that ended before any did."""
    rows = [
        _row(task, status, attempt, is_last=attempt is attempts[-1])
        for attempt in attempts
        if attempt.started or attempt.cause
    ]
    if status.finished_at is not None and (not rows or rows[-1].attempt < (status.attempt or 1)):
        rows.append(_row(task, status, None, is_last=True))
    return rows


def _row(task: TrainingTask, status: TrainingTaskStatus, attempt: Attempt | None, *, is_last: bool) -> TrainingRun:
    number = attempt.number if attempt else status.attempt or 1
    report = _report_of(task, attempt, number)
    run_status, reason, message, finished = _end(status, attempt, is_last=is_last)
    started = (attempt and attempt.started) or (report and report.start_time) or None
    run = TrainingRun(
        id=run_id(task.metadata.uid or "", number),
        task_uid=task.metadata.uid or "",
        namespace=task.metadata.namespace,
        name=task.metadata.name,
        attempt=number,
        dataset=task.spec.dataset.name,
        model=task.spec.model.name,
        device=task.spec.device.value,
        status=run_status.value,
        create_time=task.metadata.creation_timestamp,
        start_time=started,
        finish_time=finished,
        total_time=(finished - started).total_seconds() if finished and started else None,
        spec=task.spec.to_json(),
        error_reason=reason,
        error_message=message,
        trainer_image=attempt.image if attempt else task.spec.image,
        node=attempt.node if attempt else status.node,
    )
    if report is not None and report.results is not None:
        run.sqlmodel_update(report.results.as_columns())
    return run


def _report_of(task: TrainingTask, attempt: Attempt | None, number: int) -> TrainingReport | None:
    """Return what the trainer reported if it was in this attempt, by its own count and by the time."""
    report = task.status.training if task.status else None
    if report is None or report.attempt != (attempt.reported if attempt else number):
        return None
    # After a suspension the trainer's count may be an earlier attempt's; then the time tells whose report it is.
    if attempt and attempt.reported != attempt.number and report.start_time and report.start_time < attempt.created:
        return None
    return report


def _end(
    status: TrainingTaskStatus, attempt: Attempt | None, *, is_last: bool
) -> tuple[RunStatus, str | None, str | None, datetime | None]:
    """Return the row's status, reason, message and finish time; a finish time makes the row final."""
    failed = status.condition("Failed")
    if is_last and status.finished_at is not None:
        finished = (attempt and attempt.finished) or status.finished_at
        if status.is_true("Complete"):
            return RunStatus.SUCCEEDED, None, None, finished
        assert failed is not None  # noqa: S101 - finished, and not complete
        return RunStatus.FAILED, failed.reason, failed.message, finished
    if attempt is not None and attempt.cause is not None and not is_last:
        return RunStatus.FAILED, attempt.cause.reason, attempt.cause.message, attempt.finished or attempt.created
    # The last attempt is not over before the task is: it may be suspended, and go on as the same attempt.
    if status.is_true("Suspended"):
        return RunStatus.SUSPENDED, None, None, None
    if attempt is not None and attempt.cause is not None:
        return RunStatus.INTERRUPTED, attempt.cause.reason, attempt.cause.message, None
    return RunStatus.RUNNING, None, None, None


def cancelled_row(task: TrainingTask, now: datetime) -> TrainingRun:
    """Return the row of a task that was deleted before it ended."""
    run = _row(task, task.status or TrainingTaskStatus(), None, is_last=True)
    run.status, run.finish_time = RunStatus.CANCELLED.value, now
    if run.start_time is not None:
        run.total_time = (now - run.start_time).total_seconds()
    run.error_reason, run.error_message = "Cancelled", "The task was deleted before it ended."
    return run


class HistoryWriter:
    """Writes rows one after the other, away from the reconciler; a database that is away is tried until it is back.

    The backlog lives in memory only: after a restart the tasks themselves bring their rows again, and writing a row
    twice changes nothing.
    """

    def __init__(self, url: str, retry_seconds: float = RETRY_SECONDS) -> None:
        self._url = url
        self._retry_seconds = retry_seconds
        self._backlog: dict[Any, TrainingRun] = {}
        self._done: dict[Any, str] = {}  # id -> the row as last written, so that an unchanged one costs nothing
        self._some = asyncio.Event()

    def submit(self, rows: list[TrainingRun]) -> None:
        """Take rows to be written; of two versions of a row the later one counts."""
        for row in rows:
            if self._done.get(row.id) != _digest(row):
                self._backlog[row.id] = row
                self._some.set()

    @property
    def backlog(self) -> int:
        """Number of rows that wait to be written."""
        return len(self._backlog)

    async def run(self) -> None:
        """Write rows until cancelled."""
        engine = open_history(self._url)
        try:
            # Before there is a row: the trainers' own writes need the table.
            await self._until_answered(lambda: asyncio.to_thread(migrate, engine))
            while True:
                while not self._backlog:
                    self._some.clear()
                    await self._some.wait()
                await self._until_answered(lambda: self._write_next(engine))
        finally:
            engine.dispose()

    async def _until_answered(self, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                return await work()
            except HistoryError as error:
                log.warning("%s; %d rows wait, next try in %g s", error, self.backlog, self._retry_seconds)
                await asyncio.sleep(self._retry_seconds)

    async def _write_next(self, engine: Engine) -> None:
        row = next(iter(self._backlog.values()))
        try:
            await asyncio.to_thread(record, engine, row)
        except HistoryUnavailable:
            raise
        except HistoryError:
            # This row's own trouble: it goes to the end, so that it does not hold up the others.
            self._backlog[row.id] = self._backlog.pop(row.id)
            raise
        self._done[row.id] = _digest(row)
        if self._backlog[row.id] is row:
            del self._backlog[row.id]


class NoHistory:
    """`History` of a cluster without a database: the custom resources are the only record."""

    def submit(self, rows: list[TrainingRun]) -> None:
        """Drop the rows."""


def _digest(row: TrainingRun) -> str:
    return "\x00".join(
        str(value)
        for value in (
            row.status,
            row.finish_time,
            row.start_time,
            row.error_reason,
            row.node,
            bool(row.training_result),
        )
    )
