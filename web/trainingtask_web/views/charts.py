"""Curves -> charts as JSON for the script, as outlines and as tables; sparklines. Pure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainingtask_history.read_models import Point
from trainingtask_web.views.formatting import format_score

_MAX_ROWS, _MIN_ROWS = 60, 12
_SPARKLINE_WIDTH, _SPARKLINE_HEIGHT, _SPARKLINE_MARGIN = 96, 24, 2.5  # the margin keeps line and end whole

Curves = Mapping[str, Sequence[Point]]

# Name of a curve -> its title.
CURVE_NAMES = {
    "training_loss": "training loss",
    "validation_loss": "validation loss",
    "mean_average_precision": "mean average precision",
    "learning_rate": "learning rate",
}
# Which curves share a chart of a run, in this order; a curve of another name gets a chart of its own.
_CHARTS = (
    ("Loss", ("training_loss", "validation_loss")),
    ("Mean average precision", ("mean_average_precision",)),
    ("Learning rate", ("learning_rate",)),
)


@dataclass(frozen=True)
class Series:
    """A line of a chart; `style` is one of ten, each a colour and a dash."""

    label: str
    style: int
    last: float | None
    outline: str
    """Coordinates of the line in an SVG of 100 by 40, for readers without script."""


@dataclass(frozen=True)
class Chart:
    """Lines over optimiser steps: `values` holds a list for each, as long as `steps`, with None where it has no point."""

    title: str
    series: list[Series]
    steps: list[int]
    values: list[list[float | None]]

    @property
    def rows(self) -> list[tuple[int, list[float | None]]]:
        """The same numbers by step, thinned out for a table; the first and the last of each line are kept."""
        most = max(_MIN_ROWS, _MAX_ROWS // len(self.series))
        chosen: set[int] = set()
        for line in self.values:
            own = [index for index, value in enumerate(line) if value is not None]
            chosen.update(own[:: max(1, math.ceil(len(own) / most))], own[-1:])
        return [(self.steps[index], [line[index] for line in self.values]) for index in sorted(chosen)]

    def to_json(self) -> dict[str, Any]:
        """Return the data that charts.js draws."""
        series = [{"label": series.label, "style": series.style} for series in self.series]
        return {"title": self.title, "series": series, "data": [self.steps, *self.values]}


def build_run_charts(curves: Curves) -> list[Chart]:
    """Return the charts of one run."""
    known = {name for _, members in _CHARTS for name in members}
    others = [(name, (name,)) for name in sorted(curves) if name not in known]
    charts = []
    for title, members in (*_CHARTS, *others):
        lines = [
            (CURVE_NAMES.get(name, name), style, curves[name]) for style, name in enumerate(members) if name in curves
        ]
        if lines:
            charts.append(build_chart(title, lines))
    return charts


def build_comparison_charts(runs: Sequence[tuple[str, Curves]]) -> list[Chart]:
    """Return a chart for each curve that any of the runs has, with a labelled line for each run."""
    found = {name for _, curves in runs for name in curves}
    ordered = [name for name in CURVE_NAMES if name in found] + sorted(found - set(CURVE_NAMES))
    return [
        build_chart(
            CURVE_NAMES.get(name, name).capitalize(),
            [(label, style, curves[name]) for style, (label, curves) in enumerate(runs) if name in curves],
        )
        for name in ordered
    ]


def build_chart(title: str, lines: Sequence[tuple[str, int, Sequence[Point]]]) -> Chart:
    """Return lines over one axis, which has each step at which a line has a point."""
    finite_lines = [[point for point in curve if math.isfinite(point.value)] for _, _, curve in lines]
    steps = sorted({point.step for line in finite_lines for point in line})
    by_step = [{point.step: point.value for point in line} for line in finite_lines]
    every = [value for line in by_step for value in line.values()]
    frame = (steps[0], steps[-1], min(every), max(every)) if steps else (0, 0, 0.0, 0.0)
    return Chart(
        title=title,
        series=[
            Series(label, style, line[-1].value if line else None, _format_outline(line, frame))
            for (label, style, _), line in zip(lines, finite_lines, strict=True)
        ],
        steps=steps,
        values=[[line.get(step) for step in steps] for line in by_step],
    )


def _format_outline(line: Sequence[Point], frame: tuple[int, int, float, float]) -> str:
    first, last, low, high = frame
    across, up = (last - first) or 1, (high - low) or 1.0
    return " ".join(
        f"{100 * (point.step - first) / across:.4g},{38 - 36 * (point.value - low) / up:.4g}" for point in line
    )


@dataclass(frozen=True)
class Sparkline:
    """A curve as coordinates of an SVG of 96 by 24, its last point, and a text for screen readers."""

    points: str
    end: tuple[float, float]
    label: str


def build_sparkline(curve: Sequence[Point], title: str) -> Sparkline | None:
    """Return a curve scaled between its own lowest and highest value, None without a finite point."""
    points = [point for point in curve if math.isfinite(point.value)]
    if not points:
        return None
    first, last = points[0], points[-1]
    low, high = min(point.value for point in points), max(point.value for point in points)

    def scale(point: Point) -> tuple[float, float]:
        across = (point.step - first.step) / (last.step - first.step) if last.step > first.step else 1.0
        up = (point.value - low) / (high - low) if high > low else 0.5
        width, height = _SPARKLINE_WIDTH - 2 * _SPARKLINE_MARGIN, _SPARKLINE_HEIGHT - 2 * _SPARKLINE_MARGIN
        return round(_SPARKLINE_MARGIN + across * width, 1), round(
            _SPARKLINE_HEIGHT - _SPARKLINE_MARGIN - up * height, 1
        )

    scaled = [scale(point) for point in points]
    course = f"from {format_score(first.value)} to {format_score(last.value)}, highest {format_score(high)}"
    return Sparkline(" ".join(f"{x:g},{y:g}" for x, y in scaled), scaled[-1], f"{title} {course}")
