"""Writes the history in the background: rows that the trainer could not write, or not complete."""

import asyncio
import contextlib
import itertools
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, NamedTuple

from sqlalchemy import Engine

from trainingtask_api import TrainingTask
from trainingtask_history.engine import open_history
from trainingtask_history.errors import HistoryError, HistoryLocked, HistoryUnavailable
from trainingtask_history.maintenance import OpenRun, cancel_run, find_recorded, list_open_runs, prune
from trainingtask_history.migrations.runner import migrate
from trainingtask_history.roles import end_blocking_sessions, end_long_transactions
from trainingtask_history.store import record_many
from trainingtask_history.tables import RunEvent, RunStatus, TrainingRun, run_id
from trainingtask_operator.malformed import MALFORMED

log = logging.getLogger(__name__)

RETRY_SECONDS = 5.0
# What comes within a moment is one batch, not a commit for each row.
GATHER_SECONDS = 0.5
PRUNE_SECONDS = 3600.0
SESSIONS_SECONDS = 30.0
LOCKED_SECONDS = 1.0
BLOCKED_SECONDS = 0.2
FORGOTTEN = 1000  # attempts of a deleted task: more than any has, unless somebody wrote into its status


class Waiting(NamedTuple):
    """A row that waits to be written, with events that may not have been, and what tells it from an earlier version."""

    row: TrainingRun
    events: dict[tuple[str, str, datetime], RunEvent]
    digest: int


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
    namespace_uid
        Returns the uid of the namespace of this name, None while it is not known.
    """

    BATCH = 200
    BACKLOG = 500  # with the scores of 28 labels a row takes 40 KB

    def __init__(
        self,
        url: str,
        retry_seconds: float = RETRY_SECONDS,
        *,
        read_log: Callable[[str, str], Awaitable[str | None]] | None = None,
        trainers: Mapping[str, str | None] = MappingProxyType({}),
    ) -> None:
        """Make a writer for the database at `url`, with a pause of `retry_seconds` after it did not answer.

        `trainers` are the namespaces whose trainers write to it, each with the password of its role, see `roles.grant`.
        """
        self._url = url
        self._trainers = trainers
        self._retry_seconds = retry_seconds
        self.read_log = read_log
        self.again: Callable[[tuple[str, str]], None] = lambda _: None
        self.namespace_uid: Callable[[str], str | None] = lambda _: None
        self._engine: Engine | None = None
        self._open = asyncio.Event()
        self._logs: dict[uuid.UUID, str] = {}  # id -> the pod whose log belongs into the row
        self._backlog: dict[uuid.UUID, Waiting] = {}
        self._written: dict[uuid.UUID, int] = {}  # id -> digest of the row as last written, if it is not final
        self._final: set[uuid.UUID] = set()
        self._without_place: set[tuple[str, str]] = set()
        self._locked: set[uuid.UUID] = set()  # rows of the last batch that another session held
        self._some = asyncio.Event()
        self._none = asyncio.Event()

    def submit(
        self,
        rows: list[TrainingRun],
        logs: Mapping[uuid.UUID, str] = MappingProxyType({}),
        events: Sequence[RunEvent] = (),
    ) -> None:
        """Take rows and events of theirs to be written; of two versions of a row the later one counts.

        A final row is written together with the tail of the log of its pod, for those that `logs` names.
        """
        for row in rows:
            row.namespace_uid = self.namespace_uid(row.namespace)
            told = {(event.type, event.reason, event.time): event for event in events if event.run_id == row.id}
            digest = _digest(row, told)
            if row.id in self._final or self._written.get(row.id) == digest:
                continue
            earlier = self._backlog.get(row.id)
            if earlier is None and len(self._backlog) >= self.BACKLOG:
                self._without_place.add((row.namespace, row.name))
                continue
            self._backlog[row.id] = Waiting(row, earlier.events | told if earlier else told, digest)
            if row.finish_time is not None and row.id in logs:
                self._logs[row.id] = logs[row.id]
            self._some.set()
            self._none.clear()

    def stored(self, rows: list[TrainingRun]) -> bool:
        """Tell whether the final rows, as they are, have been written."""
        return all(row.id in self._final for row in rows)

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
            found.update(await asyncio.to_thread(find_recorded, self._engine, list(ids)))

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
        for run in await asyncio.to_thread(list_open_runs, engine):
            # What waits to be written knows the end better: a task may have been deleted while the database was away.
            if run.id not in self._backlog and not await exists(run):
                log.info("%s/%s was deleted while no operator looked: its row is closed", run.namespace, run.name)
                try:
                    await asyncio.to_thread(cancel_run, engine, run, datetime.now(UTC))
                except HistoryUnavailable:
                    raise
                except HistoryError as error:  # this row's own trouble
                    log.warning("the row of %s/%s stays open: %s", run.namespace, run.name, error)

    async def prune(self, age: timedelta) -> None:
        """Delete runs that ended longer than `age` ago, now and then, until cancelled."""
        while True:
            await self._open.wait()
            engine, before = self._engine, datetime.now(UTC) - age
            try:
                while engine is not None and (deleted := await asyncio.to_thread(prune, engine, before)):
                    log.info("%d runs that ended before %s are deleted", deleted, before.date())
            except HistoryError as error:
                log.warning("old runs stay for now: %s", error)
            await asyncio.sleep(PRUNE_SECONDS)

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
        bounding = asyncio.create_task(self._bound_transactions(engine))
        try:
            # Before there is a row: the trainers' own writes need the table.
            async with self._ending_blockers(engine):
                await self._until_answered(lambda: asyncio.to_thread(migrate, engine, self._trainers))
            self._engine = engine
            self._open.set()
            while True:
                while not self._backlog:
                    self._none.set()
                    self._some.clear()
                    await self._some.wait()
                if len(self._backlog) < self.BATCH:
                    await asyncio.sleep(GATHER_SECONDS)
                try:
                    await self._write_some(engine)
                except HistoryError as error:
                    await self._wait_after(error)
                self._ask_again()
        finally:
            bounding.cancel()
            self._engine = None
            engine.dispose()

    async def _bound_transactions(self, engine: Engine) -> None:
        """End trainers' transactions that last, now and then: what they hold would keep a migration waiting."""
        while True:
            try:
                if ended := await asyncio.to_thread(end_long_transactions, engine):
                    log.warning("%d sessions of trainers were ended: their transactions had lasted too long", ended)
            except HistoryUnavailable:
                pass  # whoever writes rows tells of it
            except HistoryError as error:
                log.warning("transactions of trainers are not bounded: %s", error)
            await asyncio.sleep(SESSIONS_SECONDS)

    async def _until_answered(self, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                return await work()
            except HistoryError as error:
                await self._wait_after(error)

    async def _wait_after(self, error: HistoryError) -> None:
        log.warning("%s; %d rows wait, next try in %g s", error, self.backlog, self._retry_seconds)
        await asyncio.sleep(self._retry_seconds)

    def _ask_again(self) -> None:
        """Ask for tasks whose rows had no place, as far as there is room now; the namespaces take turns."""
        if len(self._backlog) >= self.BACKLOG // 2:
            return
        waiting: dict[str, list[tuple[str, str]]] = {}
        for key in sorted(self._without_place):
            waiting.setdefault(key[0], []).append(key)
        turns = (key for turn in itertools.zip_longest(*waiting.values()) for key in turn if key is not None)
        for key in list(itertools.islice(turns, self.BACKLOG // 2)):
            self._without_place.discard(key)
            self.again(key)

    async def _write_some(self, engine: Engine) -> None:
        """Write the next batch; if the database refuses it, row by row, so that the bad one holds up no other."""
        some = list(itertools.islice(self._backlog.values(), self.BATCH))
        await asyncio.gather(*(self._add_log(waiting.row) for waiting in some))
        try:
            locked = await self._record(engine, some)
        except HistoryUnavailable:
            raise
        except HistoryError:
            await self._write_each(engine, some)
            return
        if locked - self._locked:
            log.warning("%d rows wait: other sessions of the history database hold them", len(locked))
        self._locked = locked
        if len(locked) == len(some):
            await asyncio.sleep(LOCKED_SECONDS)

    async def _record(self, engine: Engine, some: Sequence[Waiting]) -> set[uuid.UUID]:
        """Write rows, but for those that another session holds: they are postponed, and their ids returned."""
        events = [event for waiting in some for event in waiting.events.values()]
        try:
            locked = await asyncio.to_thread(record_many, engine, [waiting.row for waiting in some], events=events)
        except MALFORMED as error:  # a value that no column holds, such as a time before the year 1
            raise HistoryError(f"a row cannot be written: {error}") from error
        for waiting in some:
            if waiting.row.id in locked:
                self._postpone(waiting.row.id)
            else:
                self._has_written(waiting)
        return locked

    @contextlib.asynccontextmanager
    async def _ending_blockers(self, engine: Engine) -> AsyncIterator[None]:
        """End trainers' sessions that the work inside has to wait for."""

        async def watch() -> None:
            while True:
                await asyncio.sleep(BLOCKED_SECONDS)
                with contextlib.suppress(HistoryError):  # the work itself tells of a database that does not answer
                    if ended := await asyncio.to_thread(end_blocking_sessions, engine):
                        log.warning("%d sessions of trainers were ended: the operator waited for them", ended)

        watching = asyncio.create_task(watch())
        try:
            yield
        finally:
            watching.cancel()

    async def _write_each(self, engine: Engine, some: Sequence[Waiting]) -> None:
        async with self._ending_blockers(engine):
            await self._write_each_watched(engine, some)

    async def _write_each_watched(self, engine: Engine, some: Sequence[Waiting]) -> None:
        refusal: HistoryError | None = None
        held: set[str] = set()  # namespaces one of whose rows had to be waited for: that is done once for each
        for waiting in some:
            if waiting.row.namespace in held:
                self._postpone(waiting.row.id)
                continue
            try:
                await self._record(engine, [waiting])
            except HistoryUnavailable:
                raise
            except HistoryError as error:
                if isinstance(error, HistoryLocked):
                    held.add(waiting.row.namespace)
                self._postpone(waiting.row.id)
                refusal = error
        if refusal is not None:
            raise refusal

    def _postpone(self, key: uuid.UUID) -> None:
        """Move a row that cannot be written to the end of the backlog; of a long one, out of it, to be asked for again."""
        waiting = self._backlog.pop(key, None)
        if waiting is None:
            return
        if len(self._backlog) < self.BACKLOG // 4:  # so that there is room for others
            self._backlog[key] = waiting
        else:
            self._without_place.add((waiting.row.namespace, waiting.row.name))

    async def _add_log(self, row: TrainingRun) -> None:
        pod = self._logs.get(row.id)
        if pod is not None and self.read_log is not None and row.log_tail is None:
            row.log_tail = await self.read_log(row.namespace, pod)

    def _has_written(self, waiting: Waiting) -> None:
        row = waiting.row
        if row.finish_time is None:
            self._written[row.id] = waiting.digest
        else:
            self._written.pop(row.id, None)
            if row.status != RunStatus.CANCELLED:  # nobody asks for those again
                self._final.add(row.id)
        if self._backlog[row.id] is waiting:
            del self._backlog[row.id]
            self._logs.pop(row.id, None)


class NoHistory:
    """`History` of a cluster without a database: the custom resources are the only record."""

    backlog = 0

    def submit(
        self,
        rows: list[TrainingRun],
        logs: Mapping[uuid.UUID, str] = MappingProxyType({}),
        events: Sequence[RunEvent] = (),
    ) -> None:
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


def _digest(row: TrainingRun, told: Collection[tuple[str, str, datetime]]) -> int:
    return hash(
        (
            row.status,
            row.finish_time,
            row.start_time,
            row.error_reason,
            row.node,
            row.namespace_uid,
            bool(row.training_result),
            frozenset(told),
        )
    )
