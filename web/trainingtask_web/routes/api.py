"""/api/v1: the runs of a principal's scope as JSON. Field names are those of the history's columns.

Responses are serialized by pydantic straight into bytes; the declared models are for the OpenAPI document.
"""

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import Field, TypeAdapter
from starlette.exceptions import HTTPException

from trainingtask_history import queries
from trainingtask_history.filters import RunFilter
from trainingtask_history.pagination import Page
from trainingtask_history.queries import MAX_LIMIT, MAX_POINTS
from trainingtask_history.read_models import Event, Point, RunDetail, RunSummary
from trainingtask_web.auth.authorization import CurrentPrincipal
from trainingtask_web.http.errors import RUN_NOT_FOUND, ErrorResponse
from trainingtask_web.routes import export
from trainingtask_web.routes.dependencies import get_engine, get_run_or_404
from trainingtask_web.views.compare_view import MAX_COMPARED
from trainingtask_web.views.diff import PathValues, collect_scores, diff_specs
from trainingtask_web.views.error_tables import LabelErrorRow, PairRow, build_errors

router = APIRouter(
    prefix="/api/v1/runs",
    tags=["runs"],
    responses={
        401: {"model": ErrorResponse, "description": "Nobody known asks."},
        404: {"model": ErrorResponse, "description": "There is no such run to see."},
        422: {
            "model": ErrorResponse,
            "description": "A parameter is refused; the sentence says which, and what is allowed.",
        },
        503: {"model": ErrorResponse, "description": "The history or Kubernetes is away: try again."},
    },
)


class ListQuery(RunFilter):
    """A page of a list."""

    limit: int = Field(50, ge=1, le=MAX_LIMIT, description="Runs of this page.")
    cursor: str | None = Field(None, max_length=200, description="`next` of the page before.")


class ExportQuery(RunFilter):
    """A list as a file."""

    format: Literal["csv", "json"] = "csv"


@dataclass(frozen=True)
class Events:
    """What happened to a run, oldest first."""

    items: list[Event]


@dataclass(frozen=True)
class Curves:
    """The curves of a run by name: pairs of step and value."""

    curves: dict[str, list[Point]]


@dataclass(frozen=True)
class Comparison:
    """Runs side by side. The values of a line are in the order of `runs`."""

    runs: list[RunSummary]
    differences: list[PathValues]
    """Paths of the spec at which the runs differ."""
    scores: list[PathValues]
    curves: dict[str, list[list[Point]]]


_SERIALIZERS: dict[Any, TypeAdapter[Any]] = {
    model: TypeAdapter(model) for model in (Page, RunDetail, Events, Curves, Comparison)
}


def _serialize(value: Any) -> Response:
    return Response(_SERIALIZERS[type(value)].dump_json(value), media_type="application/json")


@router.get("", response_model=Page, summary="List runs, newest first")
def list_runs(request: Request, principal: CurrentPrincipal, query: Annotated[ListQuery, Query()]) -> Response:
    """Return some runs that fit all filters. `next` is the cursor of those that follow, null on the last page."""
    try:
        page = queries.list_runs(get_engine(request), principal.scope, query, limit=query.limit, cursor=query.cursor)
    except ValueError as error:
        raise HTTPException(422, f"cursor: {error}") from None
    return _serialize(page)


@router.get("/compare", response_model=Comparison, summary="Compare up to 10 runs")
def compare_runs(
    request: Request,
    principal: CurrentPrincipal,
    ids: Annotated[str, Query(max_length=37 * MAX_COMPARED, description="Ids of runs, separated by commas.")],
) -> Response:
    """Return what differs in their specs, and their scores and curves side by side."""
    keys = _parse_ids(ids)
    runs = queries.get_runs(get_engine(request), principal.scope, keys)
    if missing := [str(key) for key in keys if key not in {run.id for run in runs}]:
        raise HTTPException(404, f"{RUN_NOT_FOUND} ({', '.join(missing)})")
    curves = queries.get_metrics(get_engine(request), principal.scope, keys)
    names = sorted({name for one in curves.values() for name in one})
    return _serialize(
        Comparison(
            runs=[RunSummary.model_validate(run) for run in runs],
            differences=diff_specs([run.spec for run in runs]),
            scores=collect_scores([run.evaluate_result for run in runs]),
            curves={name: [curves.get(key, {}).get(name, []) for key in keys] for name in names},
        )
    )


@router.get(
    "/export",
    response_class=StreamingResponse,
    summary="Export runs as a file",
    responses={200: {"content": {"text/csv": {}, "application/json": {}}, "description": export.DESCRIPTION}},
)
def export_runs(request: Request, principal: CurrentPrincipal, query: Annotated[ExportQuery, Query()]) -> Response:
    """Return all runs that fit the filters, newest first, up to the number in the header `X-Export-Limit`."""
    runs = queries.export_runs(get_engine(request), principal.scope, query, export.MAX_RUNS + 1)
    return export.stream_file(runs, query.format)


RunId = Annotated[uuid.UUID, Path(alias="id", description="Id of the run.")]


@router.get("/{id}", response_model=RunDetail, summary="One run")
def get_run(request: Request, principal: CurrentPrincipal, key: RunId) -> Response:
    """Return all there is of a run, but its curves and events."""
    return _serialize(get_run_or_404(request, principal, key))


@router.get("/{id}/metrics", response_model=Curves, summary="Curves of a run")
def get_metrics(
    request: Request,
    principal: CurrentPrincipal,
    key: RunId,
    name: Annotated[list[Annotated[str, Field(max_length=64, pattern=r"^[a-z_]+$")]], Query(max_length=16)] = [],  # noqa: B006
    points: Annotated[int, Query(ge=2, le=MAX_POINTS, description="Most points of each curve.")] = MAX_POINTS,
) -> Response:
    """Return its curves, or those named, each thinned out evenly; the first and the last point are always there."""
    curves = queries.get_metrics(get_engine(request), principal.scope, [key], names=name, max_points=points)
    if not curves:
        get_run_or_404(request, principal, key)
    return _serialize(Curves(curves.get(key, {})))


@router.get("/{id}/events", response_model=Events, summary="Events of a run")
def get_events(request: Request, principal: CurrentPrincipal, key: RunId) -> Response:
    """Return what happened to a run, oldest first."""
    events = queries.get_events(get_engine(request), principal.scope, key)
    if not events:
        get_run_or_404(request, principal, key)
    return _serialize(Events(events))


@router.get(
    "/{id}/errors",
    response_class=Response,
    summary="Mistakes of a run as CSV",
    responses={
        200: {"content": {"text/csv": {}}, "description": "Header and lines; the header alone without mistakes."}
    },
)
def get_errors(
    request: Request,
    principal: CurrentPrincipal,
    key: RunId,
    table: Annotated[Literal["labels", "pairs"], Query(description="By label, or which label is predicted for which.")],
) -> Response:
    """Return how often the model and the given labels disagree; the most frequent first, at most 50."""
    errors = build_errors(get_run_or_404(request, principal, key).training_result)
    if table == "labels":
        return export.create_csv(LabelErrorRow._fields, errors.labels if errors else [], "errors-by-label")
    return export.create_csv(PairRow._fields, errors.pairs if errors else [], "label-pairs")


def _parse_ids(ids: str) -> Sequence[uuid.UUID]:
    found = list(dict.fromkeys(_iter_ids(ids)))
    if len(found) > MAX_COMPARED:
        raise HTTPException(422, f"ids: {len(found)} runs are too many: up to {MAX_COMPARED} can be compared")
    return found


def _iter_ids(ids: str) -> Iterator[uuid.UUID]:
    for part in ids.split(","):
        try:
            yield uuid.UUID(part.strip())
        except ValueError:
            raise HTTPException(422, f"ids: {part!r} is no id of a run: ids are UUIDs, separated by commas") from None
