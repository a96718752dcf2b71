"""Reading the history: lists by keyset, one run with all there is, curves thinned out. Whoever asks sees only what is theirs.

Every function takes who is asking as `AccessScope`, and the restriction is part of each SQL statement. What is forbidden
looks like what does not exist. Every function blocks, and raises `HistoryError` or `HistoryUnavailable` of the store.
"""

import base64
import binascii
import json
import math
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter
from sqlalchemy import (
    JSON,
    Column,
    ColumnElement,
    DateTime,
    Engine,
    Row,
    Select,
    String,
    Text,
    and_,
    case,
    cast,
    false,
    func,
    literal,
    literal_column,
    select,
    true,
    tuple_,
    union_all,
)
from sqlalchemy.dialects.postgresql import JSONB

from trainingtask_history.store import EVENTS, POINTS, TABLE, translate_db_errors
from trainingtask_history.tables import RunStatus

MAX_POINTS = 500  # of one curve
MAX_LIMIT = 500  # runs of one page
MAX_CURVES = 32  # of one run
MAX_EVENTS = 1000  # of one run
MAX_ATTEMPTS = 1000  # of one task
MAX_TEXT = 2**19  # characters of one column, JSON included
MAX_PARTS = 20_000  # of one column's JSON, which grows in memory; the scores of 1,000 labels have 8,000
_MANY_ROWS = 8  # as much as these may hold is read of more rows together
_MAX_DEPTH = 32  # of JSON
# What Python can hold, in any zone; Postgres has earlier and later times, and infinity.
_FIRST_TIME = datetime(1, 1, 2, tzinfo=UTC)
_LAST_TIME = datetime(9999, 12, 30, tzinfo=UTC)
_MANY_NAMESPACES = 100
_MAX_WORDS = 8
# Words are what stands between punctuation; the same expression as in the index `training_run_words`.
_WORDS: ColumnElement[Any] = literal_column(
    "to_tsvector('simple', regexp_replace(name || ' ' || namespace || ' ' || dataset || ' ' || model || ' ' ||"
    " coalesce(error_reason, '') || ' ' || coalesce(error_message, ''), '[^[:alnum:]]+', ' ', 'g'))"
)


@dataclass(frozen=True)
class AccessScope:
    """Which runs somebody may see: all (None), or those of these namespaces, by their uids.

    Where `names` says what the namespaces are called, by uid, a list of one of them is looked for in that one alone.
    """

    namespace_uids: frozenset[str] | None
    names: Mapping[str, str] | None = field(default=None, compare=False)

    def called(self, name: str | None) -> "AccessScope":
        """Return what of this can be in a namespace of that name; None: of any name."""
        if self.namespace_uids is None or self.names is None or name is None:
            return self
        return AccessScope(frozenset(uid for uid in self.namespace_uids if self.names.get(uid) == name), self.names)


ALL = AccessScope(None)


def _with_zone(value: Any) -> Any:
    return value.replace(tzinfo=UTC) if isinstance(value, datetime) and value.tzinfo is None else value


def _in_utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("is outside of the years 1 to 9999 in UTC") from None


# SQLite keeps no zone; all is stored in UTC
Time = Annotated[AwareDatetime, BeforeValidator(_with_zone), AfterValidator(_in_utc)]


def _finite(value: Any) -> Any:
    return value if not isinstance(value, float) or math.isfinite(value) else None


def _parse_object(value: Any) -> dict[str, Any] | None:
    """Return a JSON object, from text where need be; None for what is none, or nested too deeply to be walked through."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    return value if isinstance(value, dict) and _is_shallow(value, _MAX_DEPTH) else None


def _is_shallow(value: Any, most: int) -> bool:
    """Return whether an object holds others at most `most` deep."""
    level = [value]
    for _ in range(most):
        parts = [part for one in level for part in (one.values() if isinstance(one, dict) else one)]
        level = [part for part in parts if isinstance(part, (dict, list))]
        if not level:
            return True
    return False


def _parse_labels(value: Any) -> dict[str, str] | None:
    found = _parse_object(value)
    return None if found is None else {key: label for key, label in found.items() if isinstance(label, str)}


Number = Annotated[float | None, BeforeValidator(_finite)]
Object = Annotated[dict[str, Any] | None, BeforeValidator(_parse_object)]
_NO_NUL = r"^[^\x00]*$"  # Postgres' texts cannot hold it


class RunFilter(BaseModel):
    """Which runs to list. What is None is not asked for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    namespace: Annotated[str, Field(max_length=253, pattern=_NO_NUL)] | None = None
    state: RunStatus | None = None
    dataset: Annotated[str, Field(max_length=200, pattern=_NO_NUL)] | None = None
    model: Annotated[str, Field(max_length=200, pattern=_NO_NUL)] | None = None
    label: Annotated[str, Field(max_length=320, pattern=r"^[^=\x00]+=[^=\x00]*$")] | None = Field(
        None, description="A label of the task, as 'key=value'."
    )
    since: Time | None = Field(None, description="Created then or later.")
    until: Time | None = Field(None, description="Created before then.")
    text: Annotated[str, Field(max_length=200, pattern=_NO_NUL)] | None = Field(
        None,
        description="Beginnings of words in name, namespace, data set, model, reason or message; all must be there.",
    )


class RunSummary(BaseModel):
    """A run in a list. The names are those of the table's columns."""

    model_config = ConfigDict(from_attributes=True, frozen=True)

    id: uuid.UUID
    task_uid: str
    namespace: str
    name: str
    attempt: int
    dataset: str
    model: str
    device: str
    status: str
    create_time: Time | None
    start_time: Time | None
    finish_time: Time | None
    total_time: Number
    score: Number
    error_reason: str | None
    phase: str | None
    step: int | None
    total_steps: int | None
    eta: Annotated[str | None, BeforeValidator(lambda eta: eta or None)]


class RunDetail(RunSummary):
    """All there is of one run, but its curves and events."""

    labels: Annotated[dict[str, str] | None, BeforeValidator(_parse_labels)]
    report_time: Time | None
    spec: Object
    training_args: Object
    training_result: Object
    evaluate_result: Object
    error_message: str | None
    trainer_image: str | None
    node: str | None
    log_tail: str | None


class Event(BaseModel):
    """Something that happened to a run."""

    model_config = ConfigDict(from_attributes=True, frozen=True)

    time: Time
    type: str
    reason: str
    message: str


class Point(NamedTuple):
    """One value of a curve."""

    step: int
    value: float


@dataclass(frozen=True)
class Page:
    """Some runs, newest first, and the cursor of those that follow."""

    items: list[RunSummary]
    next: str | None


def _readable(column: Column[Any], rows: int = 1) -> ColumnElement[Any]:
    """Return a column's value, or NULL where it cannot be read or is too long: trainers write rows as they like."""
    share = min(1.0, _MANY_ROWS / max(1, rows))
    if isinstance(column.type, DateTime):
        return case((column.between(_FIRST_TIME, _LAST_TIME), column)).label(column.name)
    if isinstance(column.type, JSON):  # as text, so that what no parser takes does no harm to the rest
        text = cast(column, Text)
        rest = func.replace(func.replace(func.replace(text, "[", ""), "{", ""), ",", "")
        is_short = func.length(text) <= int(MAX_TEXT * share)
        has_few_parts = func.length(text) - func.length(rest) <= int(MAX_PARTS * share)
        return case((and_(is_short, has_few_parts), text)).label(column.name)
    if isinstance(column.type, Text):
        return func.substr(column, 1, int(MAX_TEXT * share)).label(column.name)
    return column


_SUMMARY = [_readable(TABLE.c[name]) for name in RunSummary.model_fields]
# As it is where the conditions hold it within bounds: by an expression no index gives the order.
_LISTED = [TABLE.c.create_time if column.name == "create_time" else column for column in _SUMMARY]
_SUMMARIES = TypeAdapter(list[RunSummary])
_NEWEST_FIRST = (TABLE.c.create_time.desc(), TABLE.c.id.desc())


def list_runs(
    engine: Engine, visible: AccessScope, wanted: RunFilter | None = None, *, limit: int = 50, cursor: str | None = None
) -> Page:
    """Return the newest runs, or those that follow a cursor.

    Raises
    ------
    ValueError
        When the cursor is not one of ours.
    """
    statement = list_statement(engine.dialect.name, visible, wanted or RunFilter(), min(limit, MAX_LIMIT), cursor)
    rows = _all(engine, statement)
    items = _SUMMARIES.validate_python([row._asdict() for row in rows[:limit]])
    return Page(items, _cursor(items[-1]) if len(rows) > limit else None)


def list_statement(
    dialect: str, visible: AccessScope, wanted: RunFilter, limit: int, cursor: str | None
) -> Select[Any]:
    """Return the statement of `list_runs`: at most one row more than `limit`, which tells whether more follow."""
    conditions = [TABLE.c.create_time.between(_FIRST_TIME, _LAST_TIME), *_conditions(dialect, wanted)]
    if cursor is not None:
        create_time, key = _read_cursor(cursor)
        place = tuple_(literal(create_time, TABLE.c.create_time.type), literal(key, TABLE.c.id.type))
        conditions.append(tuple_(TABLE.c.create_time, TABLE.c.id) < place)

    def newest(*more: ColumnElement[bool]) -> Select[Any]:
        return select(*_LISTED).where(*conditions, *more).order_by(*_NEWEST_FIRST).limit(limit + 1)

    visible = visible.called(wanted.namespace)
    uids = sorted(visible.namespace_uids or ())
    # By text or label all matches are found at once, in no order: that is not to be done for each namespace.
    if not 1 < len(uids) <= _MANY_NAMESPACES or wanted.text is not None or wanted.label is not None:
        return newest(_is_visible(visible))
    # The newest of each namespace come straight from its index; of these few the newest are taken.
    each = union_all(*(select(newest(TABLE.c.namespace_uid == uid).subquery()) for uid in uids)).subquery()
    return select(each).order_by(each.c.create_time.desc(), each.c.id.desc()).limit(limit + 1)


def export_runs(engine: Engine, visible: AccessScope, wanted: RunFilter, most: int) -> Iterator[RunSummary]:
    """Yield the runs of a filter, newest first, page by page, up to `most`."""
    cursor = None
    while most > 0:
        page = list_runs(engine, visible, wanted, limit=min(most, MAX_LIMIT), cursor=cursor)
        yield from page.items
        most -= len(page.items)
        cursor = page.next
        if cursor is None:
            return


def get_run(engine: Engine, visible: AccessScope, key: uuid.UUID) -> RunDetail | None:
    """Return one run, None when there is none to see."""
    return next(iter(get_runs(engine, visible, [key])), None)


def get_runs(engine: Engine, visible: AccessScope, keys: Sequence[uuid.UUID]) -> list[RunDetail]:
    """Return these runs, in this order, without those that are not there to see; of many, each as far as it is small."""
    columns = [_readable(TABLE.c[name], len(keys)) for name in RunDetail.model_fields]
    rows = _all(engine, select(*columns).where(TABLE.c.id.in_(keys), _is_visible(visible)))
    found = {row.id: RunDetail.model_validate(row) for row in rows}
    return [found[key] for key in keys if key in found]


def get_attempts(engine: Engine, visible: AccessScope, task_uid: str) -> list[RunSummary]:
    """Return all attempts of a task, the first one first."""
    mine = select(*_SUMMARY).where(TABLE.c.task_uid == task_uid, _is_visible(visible)).order_by(TABLE.c.attempt)
    mine = mine.limit(MAX_ATTEMPTS)
    return [RunSummary.model_validate(row) for row in _all(engine, mine)]


def get_events(engine: Engine, visible: AccessScope, key: uuid.UUID) -> list[Event]:
    """Return what happened to a run, oldest first."""
    statement = (
        select(EVENTS)
        .join(TABLE, TABLE.c.id == EVENTS.c.run_id)
        .where(EVENTS.c.run_id == key, EVENTS.c.time.between(_FIRST_TIME, _LAST_TIME), _is_visible(visible))
        .order_by(EVENTS.c.time, EVENTS.c.type)
        .limit(MAX_EVENTS)
    )
    return [Event.model_validate(row) for row in _all(engine, statement)]


def get_metrics(
    engine: Engine,
    visible: AccessScope,
    keys: Sequence[uuid.UUID],
    *,
    names: Sequence[str] = (),
    most: int = MAX_POINTS,
) -> dict[uuid.UUID, dict[str, list[Point]]]:
    """Return the curves of runs by name, each of at most `most` points: evenly picked, the first and last among them."""
    # Two statements: in one, the planner may look through all that is visible instead of these few runs.
    known = [row.id for row in _all(engine, select(TABLE.c.id).where(TABLE.c.id.in_(keys), _is_visible(visible)))]
    curves: dict[uuid.UUID, dict[str, list[Point]]] = {}
    for row in _all(engine, _metrics_statement(known, names, most)) if known else ():
        curves.setdefault(row.run_id, {}).setdefault(row.name, []).append(Point(row.step, row.value))
    return curves


def _metrics_statement(keys: Sequence[uuid.UUID], names: Sequence[str], most: int) -> Select[Any]:
    curve = (POINTS.c.run_id, POINTS.c.name)
    numbered = (
        select(
            POINTS,
            (func.row_number().over(partition_by=curve, order_by=POINTS.c.step) - 1).label("place"),
            func.count().over(partition_by=curve).label("total"),
        )
        .where(POINTS.c.run_id.in_(keys), POINTS.c.name.in_(names) if names else true())
        .subquery()
    )
    every = (numbered.c.total + most - 2) // (most - 1)  # so that the last one finds room
    picked = (numbered.c.place % every == 0) | (numbered.c.place == numbered.c.total - 1)
    return (
        select(numbered.c.run_id, numbered.c.name, numbered.c.step, numbered.c.value)
        .where(picked)
        .order_by(numbered.c.run_id, numbered.c.name, numbered.c.step)
        .limit(len(keys) * MAX_CURVES * most)
    )


def namespaces_with_runs(engine: Engine) -> set[str]:
    """Return the uids of all namespaces that have runs: a step in an index for each, whatever the number of runs."""
    uid = TABLE.c.namespace_uid
    found = select(func.min(uid).label("uid")).cte("found", recursive=True)
    following = select(func.min(uid)).where(uid > found.c.uid).scalar_subquery()
    found = found.union_all(select(following).where(found.c.uid.is_not(None)))
    return {row.uid for row in _all(engine, select(found.c.uid).where(found.c.uid.is_not(None)))}


def answers(engine: Engine) -> None:
    """Return if the history answers and has its tables.

    Raises
    ------
    HistoryError, HistoryUnavailable
    """
    for table in (TABLE, POINTS, EVENTS):
        _all(engine, select(literal(1)).select_from(table).limit(1))


def _all(engine: Engine, statement: Select[Any]) -> Sequence[Row[Any]]:
    with translate_db_errors(engine), engine.begin() as connection:
        return connection.execute(statement).all()


def _is_visible(visible: AccessScope) -> ColumnElement[bool]:
    if visible.namespace_uids is None:
        return true()
    uids = sorted(visible.namespace_uids)
    if not uids:
        return false()
    return TABLE.c.namespace_uid == uids[0] if len(uids) == 1 else TABLE.c.namespace_uid.in_(uids)


def _conditions(dialect: str, wanted: RunFilter) -> Iterator[ColumnElement[bool]]:
    for column in ("namespace", "dataset", "model"):
        value = getattr(wanted, column)
        if value is not None:
            yield TABLE.c[column] == value
    if wanted.state is not None:
        yield TABLE.c.status == wanted.state.value
    if wanted.since is not None:
        yield TABLE.c.create_time >= wanted.since
    if wanted.until is not None:
        yield TABLE.c.create_time < wanted.until
    if wanted.label is not None:
        key, _, value = wanted.label.partition("=")
        yield _has_label(dialect, key, value)
    if wanted.text is not None:
        yield _has_words(dialect, re.findall(r"[^\W_]+", wanted.text)[:_MAX_WORDS])


def _has_label(dialect: str, key: str, value: str) -> ColumnElement[bool]:
    if dialect == "postgresql":
        return cast(TABLE.c.labels, JSONB).contains({key: value})
    label = func.json_each(cast(TABLE.c.labels, String)).table_valued("key", "value")
    return select(literal(1)).select_from(label).where(label.c.key == key, label.c.value == value).exists()


def _has_words(dialect: str, words: Sequence[str]) -> ColumnElement[bool]:
    if not words:
        return true()
    if dialect == "postgresql":
        return _WORDS.op("@@")(func.to_tsquery("simple", " & ".join(f"{word}:*" for word in words)))
    nothing = literal("")
    parts: list[ColumnElement[Any]] = [TABLE.c[name] for name in ("name", "namespace", "dataset", "model")]
    parts += [func.coalesce(TABLE.c[name], nothing) for name in ("error_reason", "error_message")]
    text = _joined(parts)
    return and_(*(text.regexp_match(rf"(?i)(?<![^\W_]){word}") for word in words))


def _joined(parts: Sequence[ColumnElement[Any]]) -> ColumnElement[Any]:
    joined = parts[0]
    for part in parts[1:]:
        joined = joined + literal(" ") + part
    return joined


def _cursor(last: RunSummary) -> str:
    assert last.create_time is not None  # noqa: S101 - rows without it are not listed
    return base64.urlsafe_b64encode(f"{last.create_time.isoformat()} {last.id}".encode()).decode()


def _read_cursor(cursor: str) -> tuple[datetime, uuid.UUID]:
    try:
        create_time, _, key = base64.urlsafe_b64decode(cursor.encode()).decode().partition(" ")
        return datetime.fromisoformat(create_time).astimezone(UTC), uuid.UUID(key)
    except (ValueError, OverflowError, binascii.Error):
        raise ValueError("the cursor is not one of this list: leave it out to begin with the newest run") from None
