"""The recorder: writes rows in the background, those that the trainer could not write, or not complete."""

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType

from sqlalchemy import Engine

from trainingtask_api import TrainingTask
from trainingtask_history.engine import open_history
from trainingtask_history.errors import HistoryError, HistoryLocked, HistoryUnavailable
from trainingtask_history.maintenance import OpenRun, cancel_run, find_recorded, list_open_runs
from trainingtask_history.migrations.runner import migrate
from trainingtask_history.store import record_many
from trainingtask_history.tables import RunEvent, TrainingRun, run_id
from trainingtask_operator.history.backlog import MAX_LOG_TRIES, MAX_TRIES, Backlog, PendingRow
from trainingtask_operator.history.trainer_sessions import ending_blocking_sessions, limit_transactions
from trainingtask_operator.kube_objects import Key, Object
from trainingtask_operator.malformed_records import MALFORMED, report_malformed

log = logging.getLogger(__name__)

BATCH_ROWS = 200
BATCH_SECONDS = 0.5  # rows that arrive within this time share a commit
RETRY_SECONDS = 5.0
LOCKED_SECONDS = 1.0


class Recorder:
    """The recorder without a database, which does nothing: the custom resources are the only record."""

    has_history = False

    @property
    def backlog(self) -> int:
        """Return the number of rows that wait to be written."""
        return 0

    def submit(
        self,
        rows: list[TrainingRun],
        log_pods: Mapping[uuid.UUID, str] = MappingProxyType({}),
        events: Sequence[RunEvent] = (),
    ) -> None:
        """Drop the rows."""

    def is_recorded(self, rows: list[TrainingRun]) -> bool:
        """Return True: there is no write to wait for."""
        return True

    def forget(self, task: TrainingTask) -> None:
        """Do nothing."""

    async def find_recorded(self, tasks: list[Object]) -> set[str]:
        """Return all uids: nothing will be recorded."""
        return {task["metadata"]["uid"] for task in tasks}

    async def flush(self, seconds: float) -> None:
        """Do nothing."""


class RunRecorder(Recorder):
    """Writes rows in batches, away from the reconciler; retries until the database answers again.

    Attributes
    ----------
    read_log
        Returns the tail of a pod's log, by namespace and name; "" when there is none, None when it cannot be read: the
        row is written without it, and is not final until the log was tried a few times more.
    request_rows
        Called with namespace and name of a task whose rows had no room, once there is room.
    get_namespace_uid
        Returns the uid of the namespace of this name, None while it is not known.
    """

    has_history = True

    def __init__(
        self,
        url: str,
        retry_seconds: float = RETRY_SECONDS,
        *,
        read_log: Callable[[str, str], Awaitable[str | None]] | None = None,
        trainers: Mapping[str, str | None] | None = None,
    ) -> None:
        """Make a recorder.

        Parameters
        ----------
        url
            The database's.
        retry_seconds
            The pause after it did not answer, and the first one of a row that it refuses.
        read_log
            See the attribute.
        trainers
            The namespaces whose trainers write to it, each with the password of its role, see `roles.grant`;
            None when they are not known.
        """
        self.read_log = read_log
        self.request_rows: Callable[[Key], None] = lambda _: None
        self.get_namespace_uid: Callable[[str], str | None] = lambda _: None
        self._url = url
        self._retry_seconds = retry_seconds
        self._trainers = trainers
        self._backlog = Backlog(retry_seconds)
        self._engine: Engine | None = None
        self._opened = asyncio.Event()
        self._locked: set[uuid.UUID] = set()  # rows of the last batch that another session locked

    @property
    def backlog(self) -> int:
        """Return the number of rows that wait to be written."""
        return len(self._backlog)

    def submit(
        self,
        rows: list[TrainingRun],
        log_pods: Mapping[uuid.UUID, str] = MappingProxyType({}),
        events: Sequence[RunEvent] = (),
    ) -> None:
        """Enqueue rows with their events; of two versions of a row the later one counts.

        The row of an attempt that has ended is written together with the tail of its pod's log, for those in `log_pods`.
        """
        for row in rows:
            row.namespace_uid = self.get_namespace_uid(row.namespace)
            self._backlog.add(row, events, log_pods.get(row.id))

    def is_recorded(self, rows: list[TrainingRun]) -> bool:
        """Return whether the final rows have been written as they are."""
        return all(self._backlog.is_final(row.id) for row in rows)

    def forget(self, task: TrainingTask) -> None:
        """Free the memory of a finished and deleted task."""
        self._backlog.forget(task)

    async def find_recorded(self, tasks: list[Object]) -> set[str]:
        """Return the uids of the raw tasks whose last attempt has its final row; wait until the database answers."""
        uids = {
            run_id(task["metadata"]["uid"], (task.get("status") or {}).get("attempt") or 1): task["metadata"]["uid"]
            for task in tasks
        }
        engine = await self.wait_for_engine()
        found: set[uuid.UUID] = set()

        async def query() -> None:
            found.update(await asyncio.to_thread(find_recorded, engine, list(uids)))

        await self._retry_until_answered(query)
        self._backlog.mark_final(found)
        return {uids[row_id] for row_id in found}

    async def close_orphans(self, exists: Callable[[OpenRun], Awaitable[bool]]) -> None:
        """Close the rows of tasks that were deleted while no operator ran.

        Raises
        ------
        HistoryError
        """
        engine = self._engine
        if engine is None:
            raise HistoryUnavailable("the history is not open yet")
        for run in await asyncio.to_thread(list_open_runs, engine):
            # A row in the backlog has the end: its task may have been deleted while the database was away.
            if run.id not in self._backlog and not await exists(run):
                log.info("%s/%s was deleted while no operator looked: its row is closed", run.namespace, run.name)
                try:
                    await asyncio.to_thread(cancel_run, engine, run, datetime.now(UTC))
                except HistoryUnavailable:
                    raise
                except HistoryError as error:  # of this row alone
                    log.warning("the row of %s/%s stays open: %s", run.namespace, run.name, error)

    async def wait_for_engine(self) -> Engine:
        """Wait until the database is open and migrated."""
        await self._opened.wait()
        assert self._engine is not None  # noqa: S101 - opened
        return self._engine

    async def flush(self, seconds: float) -> None:
        """Wait until all rows are written, for so many seconds; those that are left are submitted after the next start."""
        try:
            async with asyncio.timeout(seconds):
                await self._backlog.wait_until_empty()
        except TimeoutError:
            log.warning("%d rows are left for the next start", self.backlog)

    async def run(self) -> None:
        """Write rows until cancelled."""
        engine = open_history(self._url)
        limiting = asyncio.create_task(limit_transactions(engine))
        try:
            # Before there is a row: the trainers' own writes need the table.
            async with ending_blocking_sessions(engine):
                await self._retry_until_answered(lambda: asyncio.to_thread(migrate, engine, self._trainers))
            self._engine = engine
            self._opened.set()
            while True:
                await self._backlog.wait_until_added()
                if len(self._backlog.peek(BATCH_ROWS)) < BATCH_ROWS:
                    await asyncio.sleep(BATCH_SECONDS)
                try:
                    await self._write_batch(engine)
                except HistoryError as error:
                    await self._pause_after(error)
                for key in self._backlog.pop_dropped():
                    self.request_rows(key)
        finally:
            limiting.cancel()
            self._opened.clear()
            self._engine = None
            engine.dispose()

    async def _retry_until_answered(self, query: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                return await query()
            except HistoryError as error:
                await self._pause_after(error)

    async def _pause_after(self, error: HistoryError) -> None:
        log.warning("%s; %d rows wait, next try in %g s", error, self.backlog, self._retry_seconds)
        await asyncio.sleep(self._retry_seconds)

    async def _write_batch(self, engine: Engine) -> None:
        """Write the first rows, together; row by row if the database refuses them, so that a bad one delays no other."""
        batch = self._backlog.peek(BATCH_ROWS)
        await asyncio.gather(*(self._add_log(pending.row) for pending in batch))
        new = [pending for pending in batch if not self._backlog.get_tries(pending.row.id)]
        again = [pending for pending in batch if self._backlog.get_tries(pending.row.id)]
        try:
            locked = await self._write(engine, new)
        except HistoryUnavailable:
            raise
        except HistoryError:
            locked, again = set(), batch
        if again:
            async with ending_blocking_sessions(engine):
                locked |= await self._write_each(engine, again)
        if locked - self._locked:
            log.warning("%d rows wait: other sessions of the history database hold them", len(locked))
        self._locked = locked
        if locked and len(locked) == len(batch):
            await asyncio.sleep(LOCKED_SECONDS)

    async def _write(self, engine: Engine, batch: Sequence[PendingRow]) -> set[uuid.UUID]:
        """Write rows; postpone those that another session locked, and return their ids."""
        if not batch:
            return set()
        events = [event for pending in batch for event in pending.events.values()]
        try:
            locked = await asyncio.to_thread(record_many, engine, [pending.row for pending in batch], events=events)
        except MALFORMED as error:  # a value that no column holds, such as a time before the year 1
            raise HistoryError(f"a row cannot be written: {error}") from error
        for pending in batch:
            if pending.row.id in locked:
                self._backlog.postpone(pending.row.id)
            elif self._lacks_log(pending.row) and self._backlog.get_tries(pending.row.id) + 1 < MAX_LOG_TRIES:
                self._backlog.back_off(pending.row.id)
            else:
                self._backlog.mark_written(pending)
        return locked

    async def _write_each(self, engine: Engine, batch: Sequence[PendingRow]) -> set[uuid.UUID]:
        """Write rows one by one; each that is refused is tried again after a time of its own. Return the ids of locked ones."""
        refusal: HistoryError | None = None
        locked: set[uuid.UUID] = set()
        locked_namespaces: set[str] = set()  # with a row that had to be waited for: that is done once for each
        for pending in batch:
            row = pending.row
            if row.namespace in locked_namespaces:
                self._backlog.back_off(row.id, is_locked=True)
                continue
            try:
                locked |= await self._write(engine, [pending])
            except HistoryUnavailable:
                raise
            except HistoryLocked as error:
                locked_namespaces.add(row.namespace)
                self._backlog.back_off(row.id, is_locked=True)
                refusal = error
            except HistoryError as error:
                if self._backlog.is_of_deleted_task(row.id) and self._backlog.get_tries(row.id) + 1 >= MAX_TRIES:
                    report_malformed("row", f"of {row.namespace}/{row.name}", error)
                    self._backlog.discard(row.id)
                else:
                    self._backlog.back_off(row.id)
                    refusal = error
        if refusal is not None:
            log.warning("%s; %d rows wait", refusal, self.backlog)
        return locked

    async def _add_log(self, row: TrainingRun) -> None:
        pod = self._backlog.get_log_pod(row.id)
        if pod is not None and self.read_log is not None and row.log_tail is None:
            row.log_tail = await self.read_log(row.namespace, pod)

    def _lacks_log(self, row: TrainingRun) -> bool:
        return row.log_tail is None and self.read_log is not None and self._backlog.get_log_pod(row.id) is not None
