"""The HTML pages: list, run, comparison and sign-in. Rendered on the server; no page needs a script."""

import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import chain
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from trainingtask_api import describe_errors, names
from trainingtask_api.capabilities import DATASETS, MODELS
from trainingtask_api.nested import flatten, get_path
from trainingtask_history import queries
from trainingtask_history.filters import RunFilter
from trainingtask_history.pagination import Page
from trainingtask_history.read_models import Point, RunDetail, RunSummary
from trainingtask_history.tables import RunStatus
from trainingtask_web.auth.authorization import CurrentPrincipal
from trainingtask_web.http.errors import RUN_NOT_FOUND
from trainingtask_web.routes.dependencies import get_engine, get_run_or_404
from trainingtask_web.routes.rendering import render
from trainingtask_web.views import charts, compare_view, formatting, manifest, run_view, score_tables
from trainingtask_web.views.compare_view import LETTERS, MAX_COMPARED
from trainingtask_web.views.error_tables import build_errors
from trainingtask_web.views.remediation import get_next_step
from trainingtask_web.views.timeline import build_timeline

_SPARKLINE_CURVE = "mean_average_precision"
_MAX_SPARKLINE_POINTS = 30
_FILTERS = tuple(RunFilter.model_fields)

FIRST_TASK = f"""\
apiVersion: {names.API_VERSION}
kind: {names.KIND}
metadata:
  name: first-task
spec:
  dataset:
    name: support_tickets
  model:
    name: logistic_regression
"""

_SIGN_IN_PROBLEMS = {
    "unknown": "Kubernetes does not know this token, or it has expired. Get a new one as described below.",
}
_REASON_HEADINGS: dict[str, str] = {
    RunStatus.FAILED: "Why it failed",
    RunStatus.CANCELLED: "Why it ended",
    RunStatus.INTERRUPTED: "Why it was interrupted",
}

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)


@router.get("/session")
def sign_in(request: Request, problem: str = "", next: str = "") -> HTMLResponse:
    """Ask for a token."""
    return render(request, "session.html", problem=_SIGN_IN_PROBLEMS.get(problem), next=next)


@router.get("/runs")
def list_runs(
    request: Request,
    principal: CurrentPrincipal,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
) -> HTMLResponse:
    """List runs, newest first."""
    form = {name: request.query_params.get(name, "").strip() for name in _FILTERS}
    filters = {name: value for name, value in form.items() if value}
    page, problem = Page([], None), None
    try:
        page = queries.list_runs(
            get_engine(request), principal.scope, _parse_filters(filters), limit=limit, cursor=cursor or None
        )
    except ValidationError as error:
        problem = describe_errors(error)
    except ValueError as error:
        raise HTTPException(422, f"cursor: {error}") from None
    now = datetime.now(UTC)
    curves = _fetch_sparklines(request, principal, page.items)
    kept = filters | ({"limit": str(limit)} if "limit" in request.query_params else {})
    views = [run_view.build_run_view(run, now, curves.get(run.id, ())) for run in page.items]
    return render(
        request,
        "runs.html",
        422 if problem else 200,
        here="runs",
        principal=principal,
        views=views,
        active=any(view.is_active for view in views),
        form=form,
        filtered=bool(filters),
        problem=problem,
        states=[state.value for state in RunStatus],
        known=_suggest_values(page.items),
        newest=_list_url(kept) if cursor else None,
        older=_list_url(kept | {"cursor": page.next}) if page.next else None,
        first_task=FIRST_TASK,
    )


def _parse_filters(filters: Mapping[str, str]) -> RunFilter:
    """Return the filter; a time may be a date alone, which means its midnight in UTC."""
    days = {
        name: f"{value}T00:00:00Z" for name, value in filters.items() if name in ("since", "until") and len(value) == 10
    }
    return RunFilter.model_validate({**filters, **days})


def _list_url(query: Mapping[str, str]) -> str:
    return f"/runs?{urlencode(query)}" if query else "/runs"


def _fetch_sparklines(
    request: Request, principal: CurrentPrincipal, runs: Sequence[RunSummary]
) -> dict[uuid.UUID, list[Point]]:
    if not runs:
        return {}
    keys = [run.id for run in runs]
    found = queries.get_metrics(
        get_engine(request), principal.scope, keys, names=[_SPARKLINE_CURVE], max_points=_MAX_SPARKLINE_POINTS
    )
    return {key: curves[_SPARKLINE_CURVE] for key, curves in found.items()}


def _suggest_values(runs: Sequence[RunSummary]) -> dict[str, list[str]]:
    """Return the suggestions of the filter's fields: the built-in names, and the values on the page."""
    own = {"namespace": (), "dataset": DATASETS, "model": MODELS}
    return {name: sorted({*known, *(getattr(run, name) for run in runs)}) for name, known in own.items()}


@router.get("/runs/compare")
def compare_runs(
    request: Request,
    principal: CurrentPrincipal,
    ids: Annotated[list[str], Query()] = [],  # noqa: B006
) -> HTMLResponse:
    """Show several runs side by side."""
    keys = list(dict.fromkeys(_parse_ids(ids)))
    if not 2 <= len(keys) <= MAX_COMPARED:
        raise HTTPException(422, f"Choose 2 to {MAX_COMPARED} runs to compare: these are {len(keys)}.")
    engine = get_engine(request)
    runs = queries.get_runs(engine, principal.scope, keys)
    if not runs:
        raise HTTPException(404, RUN_NOT_FOUND)
    curves = queries.get_metrics(engine, principal.scope, [run.id for run in runs])
    now = datetime.now(UTC)
    compared = [
        {
            "letter": letter,
            "view": run_view.build_run_view(run, now),
            "without": _compare_url(key.id for key in runs if key is not run) if len(runs) > 2 else None,
        }
        for letter, run in zip(LETTERS, runs, strict=False)
    ]
    lines = [(f"{one['letter']} {run.name}", curves.get(run.id, {})) for one, run in zip(compared, runs, strict=True)]
    return render(
        request,
        "compare.html",
        principal=principal,
        runs=compared,
        active=any(run_view.is_active(run) for run in runs),
        missing=len(keys) - len(runs),
        same_data=compare_view.has_same_data(runs),
        differences=compare_view.format_differences(runs),
        scores=compare_view.compare_scores(runs),
        labels=compare_view.compare_labels(runs),
        charts=charts.build_comparison_charts(lines),
    )


def _parse_ids(ids: Sequence[str]) -> Iterator[uuid.UUID]:
    for part in chain.from_iterable(one.split(",") for one in ids):
        if part.strip():
            yield _parse_id(part.strip())


def _compare_url(keys: Iterator[uuid.UUID]) -> str:
    return f"/runs/compare?ids={','.join(map(str, keys))}"


@router.get("/runs/{key}")
def show_run(request: Request, principal: CurrentPrincipal, key: str) -> HTMLResponse:
    """Show one run."""
    engine = get_engine(request)
    run = get_run_or_404(request, principal, _parse_id(key))
    now = datetime.now(UTC)
    curves = queries.get_metrics(engine, principal.scope, [run.id])
    return render(
        request,
        "run.html",
        principal=principal,
        run=run,
        view=run_view.build_run_view(run, now),
        why=_REASON_HEADINGS.get(run.status, "Why it waits"),
        next_step=get_next_step(run.error_reason),
        timeline=build_timeline(run, queries.get_events(engine, principal.scope, run.id)),
        attempts=[
            run_view.build_run_view(one, now) for one in queries.get_attempts(engine, principal.scope, run.task_uid)
        ],
        scores=score_tables.build_scores(run),
        errors=build_errors(run.training_result),
        warnings=score_tables.get_warnings(run),
        charts=charts.build_run_charts(curves.get(run.id, {})),
        facts=_list_facts(run),
        tracking_url=run_view.get_tracking_url(run),
        commands=manifest.list_commands(run, is_active=run_view.is_active(run)),
        manifest=manifest.to_manifest(run),
        arguments=_list_leaves(run.training_args),
        versions=_list_leaves(get_path(run.training_result, "versions")),
    )


def _list_facts(run: RunDetail) -> list[tuple[str, str]]:
    times = {
        "Created": run.create_time,
        "Started": run.start_time,
        "Ended": run.finish_time,
        "Last heard of": run.report_time,
    }
    return [
        *((name, formatting.format_time(when)) for name, when in times.items() if when is not None),
        *((name, value) for name, value in (("Node", run.node), ("Image", run.trainer_image)) if value),
        *score_tables.list_training_facts(run),
        ("Task's uid", run.task_uid),
        ("Run's id", str(run.id)),
    ]


def _parse_id(text: str) -> uuid.UUID:
    try:
        return uuid.UUID(text)
    except ValueError:
        raise HTTPException(404, RUN_NOT_FOUND) from None


def _list_leaves(value: Any) -> list[tuple[str, str]]:
    return sorted((path, formatting.format_leaf(leaf)) for path, leaf in flatten(value))
