"""Files to download: a list of runs, streamed page by page, so that memory does not grow with its length; small tables."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any, Literal

from fastapi.responses import Response, StreamingResponse
from pydantic import TypeAdapter

from trainingtask_api.formatting import escape_formula
from trainingtask_history.read_models import RunSummary

MAX_RUNS = 50_000
DESCRIPTION = (
    f"The newest {MAX_RUNS} runs at most, as `X-Export-Limit` says; in JSON, `truncated` says if there are more."
)
_COLUMNS = list(RunSummary.model_fields)
_BATCH_SIZE = 500
_RUNS = TypeAdapter(list[RunSummary])


def stream_file(runs: Iterator[RunSummary], kind: Literal["csv", "json"]) -> StreamingResponse:
    """Return the runs as a download, truncated after `MAX_RUNS`.

    The first batch is read before the response starts, so that an unavailable history is still answered with an error.
    """
    first = list(islice(runs, _BATCH_SIZE))
    every = chain(first, runs)
    content, media_type = (_iter_csv(every), "text/csv") if kind == "csv" else (_iter_json(every), "application/json")
    headers = {"Content-Disposition": f'attachment; filename="runs.{kind}"', "X-Export-Limit": str(MAX_RUNS)}
    return StreamingResponse(content, media_type=media_type, headers=headers)


def _iter_batches(runs: Iterator[RunSummary]) -> Iterator[list[RunSummary]]:
    limited = islice(runs, MAX_RUNS)
    while batch := list(islice(limited, _BATCH_SIZE)):
        yield batch


def _iter_csv(runs: Iterator[RunSummary]) -> Iterator[str]:
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(_COLUMNS)
    for batch in _iter_batches(runs):
        writer.writerows([escape_formula(value) for value in run.model_dump(mode="json").values()] for run in batch)
        yield buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()
    yield buffer.getvalue()  # the header line, where there are no runs


def _iter_json(runs: Iterator[RunSummary]) -> Iterator[bytes]:
    start = b'{"items": ['
    for batch in _iter_batches(runs):
        yield start + _RUNS.dump_json(batch)[1:-1]
        start = b","
    empty = start if start != b"," else b""
    yield empty + (b'], "truncated": true}' if next(runs, None) else b'], "truncated": false}')


def create_csv(columns: Sequence[str], rows: Iterable[Sequence[Any]], name: str) -> Response:
    """Return a small table as a download called `name`."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(columns)
    writer.writerows([escape_formula(cell) for cell in row] for row in rows)
    headers = {"Content-Disposition": f'attachment; filename="{name}.csv"'}
    return Response(buffer.getvalue(), media_type="text/csv", headers=headers)
