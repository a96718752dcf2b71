"""The filter of a list of runs, and its SQL conditions on Postgres and on SQLite."""

import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import ColumnElement, String, and_, cast, func, literal, literal_column, select, true
from sqlalchemy.dialects.postgresql import JSONB

from trainingtask_history.read_models import UtcTime
from trainingtask_history.tables import RUNS, RunStatus

_MAX_WORDS = 8
# Words are the parts between punctuation; the same expression as in the index `training_run_words`.
_WORDS: ColumnElement[Any] = literal_column(
    "to_tsvector('simple', regexp_replace(name || ' ' || namespace || ' ' || dataset || ' ' || model || ' ' ||"
    " coalesce(error_reason, '') || ' ' || coalesce(error_message, ''), '[^[:alnum:]]+', ' ', 'g'))"
)
_NO_NUL = r"^[^\x00]*$"  # Postgres' texts cannot hold it


class RunFilter(BaseModel):
    """The filter of a list of runs; a field that is None admits all."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    namespace: Annotated[str, Field(max_length=253, pattern=_NO_NUL)] | None = None
    state: RunStatus | None = None
    dataset: Annotated[str, Field(max_length=200, pattern=_NO_NUL)] | None = None
    model: Annotated[str, Field(max_length=200, pattern=_NO_NUL)] | None = None
    label: Annotated[str, Field(max_length=320, pattern=r"^[^=\x00]+=[^=\x00]*$")] | None = Field(
        None, description="A label of the task, as 'key=value'."
    )
    since: UtcTime | None = Field(None, description="Created then or later.")
    until: UtcTime | None = Field(None, description="Created before then.")
    text: Annotated[str, Field(max_length=200, pattern=_NO_NUL)] | None = Field(
        None,
        description="Beginnings of words in name, namespace, data set, model, reason or message; all must be there.",
    )


def build_conditions(dialect: str, run_filter: RunFilter) -> Iterator[ColumnElement[bool]]:
    """Yield the conditions of a filter on the table of runs."""
    for column in ("namespace", "dataset", "model"):
        value = getattr(run_filter, column)
        if value is not None:
            yield RUNS.c[column] == value
    if run_filter.state is not None:
        yield RUNS.c.status == run_filter.state.value
    if run_filter.since is not None:
        yield RUNS.c.create_time >= run_filter.since
    if run_filter.until is not None:
        yield RUNS.c.create_time < run_filter.until
    if run_filter.label is not None:
        key, _, value = run_filter.label.partition("=")
        yield _has_label(dialect, key, value)
    if run_filter.text is not None:
        yield _matches_words(dialect, re.findall(r"[^\W_]+", run_filter.text)[:_MAX_WORDS])


def _has_label(dialect: str, key: str, value: str) -> ColumnElement[bool]:
    if dialect == "postgresql":
        return cast(RUNS.c.labels, JSONB).contains({key: value})
    label = func.json_each(cast(RUNS.c.labels, String)).table_valued("key", "value")
    return select(literal(1)).select_from(label).where(label.c.key == key, label.c.value == value).exists()


def _matches_words(dialect: str, words: Sequence[str]) -> ColumnElement[bool]:
    if not words:
        return true()
    if dialect == "postgresql":
        return _WORDS.op("@@")(func.to_tsquery("simple", " & ".join(f"{word}:*" for word in words)))
    parts: list[ColumnElement[Any]] = [RUNS.c[name] for name in ("name", "namespace", "dataset", "model")]
    parts += [func.coalesce(RUNS.c[name], literal("")) for name in ("error_reason", "error_message")]
    text = _join(parts)
    return and_(*(text.regexp_match(rf"(?i)(?<![^\W_]){word}") for word in words))


def _join(parts: Sequence[ColumnElement[Any]]) -> ColumnElement[Any]:
    joined = parts[0]
    for part in parts[1:]:
        joined = joined + literal(" ") + part
    return joined
