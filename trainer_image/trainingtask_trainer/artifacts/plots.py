"""The plots of a model card, drawn without a display. Importing matplotlib takes a second."""

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from trainingtask_api.scores import CalibrationScores, LabelScore
from trainingtask_trainer.reporting.progress import CurvePoint

# Okabe and Ito's palette, distinguishable with colour blindness; the markers are so in grey.
_BLUE, _ORANGE, _GREEN = "#0072B2", "#D55E00", "#009E73"
_PALE = "#9CC9E5"
_GREY = "#595959"

# The most labels that are legible in one plot; of more the best and the worst are shown.
MAX_BARS = 50
_MAX_NAME_LENGTH = 36
# The loss of a single batch is noisy; more points are averaged.
_MAX_CURVE_POINTS = 100


def draw_curve(points: Sequence[CurvePoint], path: Path) -> None:
    """Draw losses, and below them mean average precision where it was measured, by optimiser step."""
    scored = [
        (point.step, point.mean_average_precision) for point in points if point.mean_average_precision is not None
    ]
    figure = Figure(figsize=(7, 5.5 if scored else 3.5), layout="constrained")
    panels = figure.subplots(2 if scored else 1, 1, sharex=True, squeeze=False)[:, 0]
    trained = [(point.step, point.training_loss) for point in points if point.training_loss is not None]
    validated = [(point.step, point.validation_loss) for point in points if point.validation_loss is not None]
    group = math.ceil(len(trained) / _MAX_CURVE_POINTS)
    label = "training rows" if group == 1 else f"training rows, means of {group} points"
    panels[0].plot(*_unzip(_average_groups(trained, group)), color=_BLUE, linewidth=1.2, label=label)
    if validated:
        panels[0].plot(*_unzip(validated), color=_ORANGE, linestyle="--", marker="o", label="validation rows")
    panels[0].set_ylim(bottom=0)
    _style_axes(panels[0], "Training curve", "loss (nats per decision)")
    panels[0].legend(frameon=False)
    if scored:
        steps, values = _unzip(scored)
        best = max(range(len(values)), key=lambda index: values[index])
        panels[1].plot(steps, values, color=_ORANGE, linestyle="--", marker="o")
        panels[1].plot(steps[best], values[best], color=_GREEN, marker="*", markersize=15, linestyle="none")
        panels[1].set_ylim(0, _compute_upper_limit(values))
        panels[1].annotate(
            f"best: {values[best]:.3f}", (steps[best], values[best]), (0, 10), textcoords="offset points", ha="center"
        )
        _style_axes(panels[1], None, "mean average precision\n(validation rows)")
    panels[-1].set_xlabel("optimiser step")
    panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    _save_figure(figure, path)


def draw_label_scores(scores: Sequence[LabelScore], macro_f1: float | None, path: Path) -> None:
    """Draw F1 of each label as a bar, best first, with its average precision and its number of test rows."""
    defined = sorted((score for score in scores if score.f1 is not None), key=lambda score: -(score.f1 or 0))
    half = MAX_BARS // 2
    shown = defined if len(defined) <= MAX_BARS else defined[:half] + defined[-half:]
    figure = Figure(figsize=(7.5, 1.6 + 0.22 * max(4, len(shown))), layout="constrained")
    axes = figure.subplots()
    places = [index + (index >= half and len(shown) < len(defined)) for index in range(len(shown))]  # a gap between
    bars = axes.barh(places, [score.f1 or 0 for score in shown], height=0.75, color=_PALE, edgecolor=_BLUE, label="F1")
    legend: list[Any] = [bars]
    ranked = [
        (place, score.average_precision)
        for place, score in zip(places, shown, strict=True)
        if score.average_precision is not None
    ]
    ranked_places, precisions = _unzip(ranked)
    legend += axes.plot(
        precisions,
        ranked_places,
        color=_ORANGE,
        marker="D",
        markersize=4,
        linestyle="none",
        clip_on=False,
        label="average precision",
    )
    if macro_f1 is not None:
        legend.append(axes.axvline(macro_f1, color=_GREY, linestyle=":", label=f"macro-F1 {macro_f1:.3f}"))
    axes.set_yticks(places, [f"{_truncate(score.label)}  ({score.support})" for score in shown], parse_math=False)
    axes.set_ylim(places[-1] + 0.6 if places else 0.6, -0.6)  # the best on top
    axes.set_xlim(0, 1)
    axes.set_xlabel("score on the test rows")
    title = "F1 per label (number of test rows)"
    if len(shown) < len(defined):
        title += f": the {half} best and the {half} worst of {len(defined)}"
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    axes.grid(axis="x", color="#DDDDDD", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.legend(handles=legend, loc="outside lower center", ncols=3, frameon=False)
    _save_figure(figure, path)


def draw_reliability(calibration: CalibrationScores, path: Path) -> None:
    """Draw the fraction of right decisions by their probability, and below it how many decisions there are."""
    bins = calibration.bins
    probabilities = [one.probability for one in bins]
    figure = Figure(figsize=(5, 5.5), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    above.plot([0, 1], [0, 1], color=_GREY, linestyle=":", label="as probable as the model says")
    above.plot(probabilities, [one.fraction for one in bins], color=_BLUE, marker="o", label="the test rows")
    above.set_ylim(0, 1)
    above.legend(frameon=False)
    _style_axes(above, "Reliability of the probabilities", "fraction of decisions\nwhose label is there")
    below.bar(probabilities, [one.decisions for one in bins], width=0.06, color=_PALE, edgecolor=_BLUE)
    below.set_yscale("log")
    below.set_xlim(0, 1)
    below.set_xlabel("probability, mean of a bin")
    _style_axes(below, None, "decisions")
    _save_figure(figure, path)


def _average_groups(pairs: Sequence[tuple[int, float]], group: int) -> list[tuple[int, float]]:
    """Return the mean of each `group` successive values, at the group's last step."""
    parts = [pairs[start : start + group] for start in range(0, len(pairs), max(1, group))]
    return [(part[-1][0], sum(value for _, value in part) / len(part)) for part in parts]


def _unzip(pairs: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def _compute_upper_limit(values: Sequence[float]) -> float:
    """Return an upper axis limit with room for text above the highest value, which is at most 1."""
    return max(0.05, math.ceil(max(values) * 1.3 * 20) / 20)


def _style_axes(axes: Axes, title: str | None, y_label: str) -> None:
    if title is not None:
        axes.set_title(title, loc="left", fontsize=11)
    axes.set_ylabel(y_label)
    axes.grid(color="#DDDDDD", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)


def _truncate(name: str) -> str:
    return name if len(name) <= _MAX_NAME_LENGTH else name[: _MAX_NAME_LENGTH - 1] + "…"


def _save_figure(figure: Figure, path: Path) -> None:
    with warnings.catch_warnings():
        # A letter that the font lacks is drawn as a box; the card's table has the name.
        warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)
        figure.savefig(path, dpi=150, metadata={"Software": None})
