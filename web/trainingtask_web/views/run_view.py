"""A row of the history -> a line of the list, which is also the head of the run's page. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from trainingtask_api.formatting import format_duration
from trainingtask_history.read_models import Point, RunDetail, RunSummary
from trainingtask_history.tables import RunStatus
from trainingtask_web.views import formatting
from trainingtask_web.views.charts import CURVE_NAMES, Sparkline, build_sparkline
from trainingtask_web.views.numbers import to_finite

_STATES = {state.value for state in RunStatus}
# ASCII without blanks, and no user before the host: people see where the link leads.
_WEB_ADDRESS = re.compile(r"https?://[A-Za-z0-9.:\[\]-]+([/?#][!-~]*)?")
_ACTIVE_STATES = (RunStatus.PENDING, RunStatus.RUNNING, RunStatus.INTERRUPTED)


@dataclass(frozen=True)
class Progress:
    """How far a run is; the percentage is None while the number of steps is unknown."""

    percent: int | None
    text: str


@dataclass(frozen=True)
class RunView:
    """A run as the list shows it."""

    run: RunSummary
    state: str
    """A class of page.css; the text beside it is the row's status."""
    is_active: bool
    duration: str
    score: str
    progress: Progress | None
    spark: Sparkline | None
    started: str
    ago: str


def build_run_view(run: RunSummary, now: datetime, curve: Sequence[Point] = ()) -> RunView:
    """Return a run as the list shows it; the curve is its validation score over the steps."""
    active = is_active(run)
    seconds = run.total_time
    if seconds is None and run.start_time is not None and active:
        seconds = (now - run.start_time).total_seconds()
    return RunView(
        run=run,
        state=run.status.lower() if run.status in _STATES else "unknown",
        is_active=active,
        duration=formatting.or_absent(format_duration, seconds),
        score=formatting.format_score(to_finite(run.score)),
        progress=_build_progress(run) if active else None,
        spark=build_sparkline(curve, CURVE_NAMES["mean_average_precision"]),
        started=formatting.format_short_time(run.start_time, now) if run.start_time else "",
        ago=_format_age(run, now),
    )


def is_active(run: RunSummary) -> bool:
    """Return whether the run may still change without a user's action."""
    return run.finish_time is None and run.status in _ACTIVE_STATES


def get_tracking_url(run: RunDetail) -> str | None:
    """Return the address that the trainer reported if it is a plain one of http or https, None otherwise."""
    return run.tracking_url if _WEB_ADDRESS.fullmatch(run.tracking_url or "") else None


def _format_age(run: RunSummary, now: datetime) -> str:
    if run.start_time is not None:
        return formatting.format_age(run.start_time, now)
    return f"created {formatting.format_age(run.create_time, now)}" if run.create_time else ""


def _build_progress(run: RunSummary) -> Progress | None:
    if run.status == RunStatus.PENDING or run.phase is None:
        return None
    percent = None
    if run.step is not None and run.total_steps:
        percent = max(0, min(100, int(100 * run.step / run.total_steps)))
    parts = [run.phase if percent is None else f"{run.phase} {percent}%"]
    if run.eta:
        parts.append(f"{run.eta} left")
    return Progress(percent, ", ".join(parts))
