"""What the owner of the tables does to rows: find the recorded ones, cancel orphaned runs and delete old ones."""

import uuid
from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Table,
    and_,
    delete,
    func,
    literal_column,
    or_,
    select,
    update,
)

from trainingtask_api.reasons import Reason
from trainingtask_history.errors import translate_db_errors
from trainingtask_history.tables import EVENTS, POINTS, RUNS, RunStatus

_MAX_OPEN_RUNS = 10_000  # of one list
_MAX_DELETED_CHILDREN = 100_000  # points or events of one statement, which takes well under a second


def find_recorded(engine: Engine, ids: Collection[uuid.UUID]) -> set[uuid.UUID]:
    """Return those of `ids` whose rows are final and complete: that of a failed run has the tail of its log.

    A row without `namespace_uid` was finished by its trainer and not confirmed by the operator yet.

    Raises
    ------
    HistoryError, HistoryUnavailable
    """
    complete = (RUNS.c.status == RunStatus.SUCCEEDED.value) | RUNS.c.log_tail.is_not(None)
    statement = select(RUNS.c.id).where(
        RUNS.c.id.in_(ids), RUNS.c.finish_time.is_not(None), RUNS.c.namespace_uid.is_not(None), complete
    )
    with translate_db_errors(engine), engine.begin() as connection:
        return set(connection.execute(statement).scalars())


class OpenRun(NamedTuple):
    """A row that is not final, with the columns that identify its task."""

    id: Any
    task_uid: str
    namespace: str
    name: str
    start_time: datetime | None


def list_open_runs(engine: Engine) -> list[OpenRun]:
    """Return the rows that are not final, without those of runs on a laptop, which have neither namespace nor node.

    Namespaces take turns, oldest rows first, so that the limit excludes no namespace.

    Raises
    ------
    HistoryError, HistoryUnavailable
    """
    columns = [RUNS.c[name] for name in OpenRun._fields]
    turn = func.row_number().over(partition_by=RUNS.c.namespace, order_by=RUNS.c.create_time)
    statement = (
        select(*columns)
        .where(RUNS.c.finish_time.is_(None), RUNS.c.namespace_uid.is_not(None) | RUNS.c.node.is_not(None))
        .order_by(turn)
        .limit(_MAX_OPEN_RUNS)
    )
    with translate_db_errors(engine), engine.begin() as connection:
        return [OpenRun(*row) for row in connection.execute(statement)]


def cancel_run(engine: Engine, run: OpenRun, now: datetime) -> None:
    """Finish the row of a deleted task as cancelled, unless it became final meanwhile or another session holds it.

    Raises
    ------
    HistoryError, HistoryUnavailable
    """
    start = run.start_time and (run.start_time if run.start_time.tzinfo else run.start_time.replace(tzinfo=UTC))
    end = {
        "status": RunStatus.CANCELLED.value,
        "finish_time": now.astimezone(UTC),
        "total_time": (now - start).total_seconds() if start else None,
        "error_reason": Reason.CANCELLED.value,
        "error_message": "The task was deleted, and nobody could record how it had ended.",
    }
    free = select(RUNS.c.id).where(RUNS.c.id == run.id, RUNS.c.finish_time.is_(None))
    with translate_db_errors(engine), engine.begin() as connection:
        free = free.with_for_update(skip_locked=True, key_share=True)
        connection.execute(update(RUNS).where(RUNS.c.id.in_(free)).values(end))


def prune(engine: Engine, before: datetime, limit: int = 1000) -> int:
    """Delete up to `limit` runs that ended before `before`, oldest first, with events and points.

    Rows that the operator never confirmed are deleted when their last report is that old. Rows that another session
    holds stay until the next call. A run may have more points than one statement can delete in its time: each call
    deletes a part of them, and the runs once they have few left.

    Returns
    -------
    Number of deleted rows, 0 when nothing is left to delete. Those that go with their run are not counted.

    Raises
    ------
    HistoryError, HistoryUnavailable
    """
    last_seen = func.coalesce(RUNS.c.report_time, RUNS.c.start_time, RUNS.c.create_time)
    old = (
        select(RUNS.c.id)
        .where(
            or_(
                # A run is created before it ends: the index on create_time leads to it.
                and_(RUNS.c.create_time < before, RUNS.c.finish_time < before),
                # A row that only a trainer has written may lack any time.
                and_(
                    RUNS.c.namespace_uid.is_(None),
                    RUNS.c.create_time.is_(None) | RUNS.c.finish_time.is_(None),
                    func.coalesce(RUNS.c.finish_time, last_seen, before - timedelta(days=1)) < before,
                ),
            )
        )
        .order_by(RUNS.c.create_time, RUNS.c.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    with translate_db_errors(engine), engine.begin() as connection:
        ids = connection.execute(old).scalars().all()
        deleted = sum(_delete_children(connection, table, ids) for table in (POINTS, EVENTS))
        if deleted < _MAX_DELETED_CHILDREN:
            deleted += connection.execute(delete(RUNS).where(RUNS.c.id.in_(ids))).rowcount
        return deleted


def _delete_children(connection: Connection, table: Table, ids: Sequence[uuid.UUID]) -> int:
    """Delete rows of these runs, at most `_MAX_DELETED_CHILDREN`; return their number."""
    row: ColumnElement[Any] = literal_column("ctid" if connection.dialect.name == "postgresql" else "rowid")
    some = select(row).select_from(table).where(table.c.run_id.in_(ids)).limit(_MAX_DELETED_CHILDREN)
    return connection.execute(delete(table).where(row.in_(some))).rowcount
