"""Rows that the trainer could not write, or not complete: made from status and pods, written in the background."""

import asyncio
import itertools
import logging
import uuid
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from sqlalchemy import Engine

from trainingtask_api import Reason, TrainingReport, TrainingTask, TrainingTaskStatus
from trainingtask_api.run import RunStatus, TrainingRun, run_id
from trainingtask_api.schema import migrate
from trainingtask_api.store import (
    HistoryError,
    HistoryUnavailable,
    OpenRun,
    cancel_run,
    open_history,
    open_runs,
    record_many,
    recorded,
)
from trainingtask_operator.attempts import Attempt

log = logging.getLogger(__name__)

RETRY_SECONDS = 5.0
FORGOTTEN = 1000  # attempts of a deleted task: more than any has, unless somebody wrote into its status


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
    if attempt and attempt.reported != attempt.number and _before(report.start_time, attempt.created):
        return None
    return report


def _before(one: datetime | None, other: datetime | None) -> bool:
    return one is not None and other is not None and one < other


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
    if attempt is not None and attempt.cause is not None:
        return RunStatus.INTERRUPTED, attempt.cause.reason, attempt.cause.message, None
    return RunStatus.RUNNING, None, None, None


def cancelled_rows(task: TrainingTask, attempts: list[Attempt], now: datetime) -> list[TrainingRun]:
    """Return the rows of a task that was deleted before it ended: what had not ended is cancelled."""
    status = task.status or TrainingTaskStatus()
    rows = rows_of(task, status, attempts) or [_row(task, status, None, is_last=True)]
    for run in rows:
        if run.finish_time is None:
            run.status, run.finish_time = RunStatus.CANCELLED.value, now
            run.total_time = (now - run.start_time).total_seconds() if run.start_time else None
            run.error_reason, run.error_message = Reason.CANCELLED.value, "The task was deleted before it ended."
    return rows


class HistoryWriter:
    """Writes rows in batches, away from the reconciler; a database that is away is tried until it is back.

    The backlog lives in memory only and is bounded: a task whose rows find no place, and every task after a restart,
    brings them again, and writing a row twice changes nothing.

    Attributes
    ----------
    read_log
        Returns the tail of a pod's log, by namespace and name; "" when there is none, None when nobody could tell: such
        a row is looked at again after the next start.
    again
        Called with namespace and name of a task whose rows had no place, when there is room.
    """

    BATCH = 200
    BACKLOG = 2000

    def __init__(
        self,
        url: str,
        retry_seconds: float = RETRY_SECONDS,
        *,
        read_log: Callable[[str, str], Awaitable[str | None]] | None = None,
    ) -> None:
        """Make a writer for the database at `url`, with a pause of `retry_seconds` after it did not answer."""
        self._url = url
        self._retry_seconds = retry_seconds
        self.read_log = read_log
        self.again: Callable[[tuple[str, str]], None] = lambda _: None
        self._engine: Engine | None = None
        self._open = asyncio.Event()
        self._logs: dict[uuid.UUID, str] = {}  # id -> the pod whose log belongs into the row
        self._backlog: dict[uuid.UUID, TrainingRun] = {}
        self._written: dict[uuid.UUID, int] = {}  # id -> digest of the row as last written, if it is not final
        self._final: set[uuid.UUID] = set()
        self._without_place: set[tuple[str, str]] = set()
        self._some = asyncio.Event()
        self._none = asyncio.Event()

    def submit(self, rows: list[TrainingRun], logs: Mapping[uuid.UUID, str] = MappingProxyType({})) -> None:
        """Take rows to be written; of two versions of a row the later one counts.

        A final row is written together with the tail of the log of its pod, for those that `logs` names.
        """
        for row in rows:
            if self._is_written(row):
                continue
            if row.id not in self._backlog and len(self._backlog) >= self.BACKLOG:
                self._without_place.add((row.namespace, row.name))
                continue
            self._backlog[row.id] = row
            if row.finish_time is not None and row.id in logs:
                self._logs[row.id] = logs[row.id]
            self._some.set()
            self._none.clear()

    def stored(self, rows: list[TrainingRun]) -> bool:
        """Tell whether the rows, as they are, have been written."""
        return all(self._is_written(row) for row in rows)

    def _is_written(self, row: TrainingRun) -> bool:
        return row.id in self._final or self._written.get(row.id) == _digest(row)

    def forget(self, task: TrainingTask) -> None:
        """Free what is known of a task that ended and was deleted."""
        last = (task.status and task.status.attempt) or 1
        for number in range(max(1, last - FORGOTTEN), last + 1):
            key = run_id(task.metadata.uid or "", number)
            self._final.discard(key)
            self._written.pop(key, None)

    async def recorded(self, tasks: list[Mapping[str, Any]]) -> set[str]:
        """Return the uids of those raw tasks whose last attempt has its final row; wait for a database that is away."""
        ids = {
            run_id(task["metadata"]["uid"], (task.get("status") or {}).get("attempt") or 1): task["metadata"]["uid"]
            for task in tasks
        }
        await self._open.wait()
        found: set[uuid.UUID] = set()

        async def ask() -> None:
            assert self._engine is not None  # noqa: S101 - open
            found.update(await asyncio.to_thread(recorded, self._engine, list(ids)))

        await self._until_answered(ask)
        self._final |= found
        return {ids[key] for key in found}

    async def close_orphans(self, exists: Callable[[OpenRun], Awaitable[bool]]) -> None:
        """Close the rows of tasks that were deleted while no operator was there to see it.

        Raises
        ------
        HistoryError
        """
        engine = self._engine
        if engine is None:
            raise HistoryUnavailable("the history is not open yet")
        for run in await asyncio.to_thread(open_runs, engine):
            # What waits to be written knows the end better: a task may have been deleted while the database was away.
            if run.id not in self._backlog and not await exists(run):
                log.info("%s/%s was deleted while no operator looked: its row is closed", run.namespace, run.name)
                await asyncio.to_thread(cancel_run, engine, run, datetime.now(UTC))

    @property
    def backlog(self) -> int:
        """Number of rows that wait to be written."""
        return len(self._backlog)

    async def flush(self, seconds: float) -> None:
        """Wait until all rows are written, but not for long: those that are left come again after the next start."""
        if not self._backlog:
            return
        try:
            async with asyncio.timeout(seconds):
                await self._none.wait()
        except TimeoutError:
            log.warning("%d rows are left for the next start", self.backlog)

    async def run(self) -> None:
        """Write rows until cancelled."""
        engine = open_history(self._url)
        try:
            # Before there is a row: the trainers' own writes need the table.
            await self._until_answered(lambda: asyncio.to_thread(migrate, engine))
            self._engine = engine
            self._open.set()
            while True:
                while not self._backlog:
                    self._none.set()
                    self._some.clear()
                    await self._some.wait()
                await self._until_answered(lambda: self._write_some(engine))
                if self._without_place and len(self._backlog) < self.BACKLOG // 2:
                    for key in list(self._without_place)[: self.BACKLOG // 2]:
                        self._without_place.discard(key)
                        self.again(key)
        finally:
            self._engine = None
            engine.dispose()

    async def _until_answered(self, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                return await work()
            except HistoryError as error:
                log.warning("%s; %d rows wait, next try in %g s", error, self.backlog, self._retry_seconds)
                await asyncio.sleep(self._retry_seconds)

    async def _write_some(self, engine: Engine) -> None:
        """Write the next batch; if the database refuses it, row by row, so that the bad one holds up no other."""
        rows = list(itertools.islice(self._backlog.values(), self.BATCH))
        await asyncio.gather(*(self._add_log(row) for row in rows))
        try:
            await asyncio.to_thread(record_many, engine, rows)
        except HistoryUnavailable:
            raise
        except HistoryError:
            await self._write_each(engine, rows)
        else:
            for row in rows:
                self._has_written(row)

    async def _write_each(self, engine: Engine, rows: list[TrainingRun]) -> None:
        refusal: HistoryError | None = None
        for row in rows:
            try:
                await asyncio.to_thread(record_many, engine, [row])
            except HistoryUnavailable:
                raise
            except HistoryError as error:
                # This row's own trouble: it goes to the end.
                self._backlog[row.id] = self._backlog.pop(row.id)
                refusal = error
            else:
                self._has_written(row)
        if refusal is not None:
            raise refusal

    async def _add_log(self, row: TrainingRun) -> None:
        pod = self._logs.get(row.id)
        if pod is not None and self.read_log is not None and row.log_tail is None:
            row.log_tail = await self.read_log(row.namespace, pod)

    def _has_written(self, row: TrainingRun) -> None:
        if row.finish_time is None:
            self._written[row.id] = _digest(row)
        else:
            self._written.pop(row.id, None)
            if row.status != RunStatus.CANCELLED:  # nobody asks for those again
                self._final.add(row.id)
        if self._backlog[row.id] is row:
            del self._backlog[row.id]
            self._logs.pop(row.id, None)


class NoHistory:
    """`History` of a cluster without a database: the custom resources are the only record."""

    backlog = 0

    def submit(self, rows: list[TrainingRun], logs: Mapping[uuid.UUID, str] = MappingProxyType({})) -> None:
        """Drop the rows."""

    def stored(self, rows: list[TrainingRun]) -> bool:
        """Tell that there is nothing to wait for."""
        return True

    def forget(self, task: TrainingTask) -> None:
        """Know nothing to forget."""

    async def recorded(self, tasks: list[Mapping[str, Any]]) -> set[str]:
        """Return all uids: nothing will be recorded."""
        return {task["metadata"]["uid"] for task in tasks}

    async def flush(self, seconds: float) -> None:
        """Have nothing to write."""


def _digest(row: TrainingRun) -> int:
    return hash(
        (
            row.status,
            row.finish_time,
            row.start_time,
            row.error_reason,
            row.node,
            bool(row.training_result),
        )
    )
