"""Curves as charts and sparklines."""

import json
import math

from trainingtask_history.read_models import Point
from trainingtask_web.views import charts


def test_a_sparkline_fits_its_svg_and_has_a_text() -> None:
    curve = [Point(100, 0.2), Point(150, math.nan), Point(200, 0.5), Point(400, 0.4)]
    found = charts.build_sparkline(curve, "score")
    assert found is not None
    points = [tuple(map(float, pair.split(","))) for pair in found.points.split()]
    assert points == [(2.5, 21.5), (32.8, 2.5), (93.5, 8.8)]
    assert found.end == points[-1]
    assert found.label == "score from 0.200 to 0.400, highest 0.500"


def test_a_sparkline_of_one_point_or_of_none() -> None:
    one = charts.build_sparkline([Point(7, 0.3)], "score")
    assert one is not None
    assert one.points == "93.5,12"
    assert charts.build_sparkline([], "score") is None
    assert charts.build_sparkline([Point(1, math.inf)], "score") is None


def test_lines_of_a_chart_share_its_steps() -> None:
    loss, validation, _ = charts.build_run_charts(
        {
            "training_loss": [Point(1, 0.5), Point(2, 0.4), Point(4, 0.2)],
            "validation_loss": [Point(2, 0.45), Point(3, math.nan), Point(4, 0.3)],
            "mean_average_precision": [Point(4, 0.6)],
            "weight_norm": [Point(1, 3.0)],
        }
    )
    assert loss.steps == [1, 2, 4]
    assert loss.values == [[0.5, 0.4, 0.2], [None, 0.45, 0.3]]
    assert [(line.label, line.style, line.last) for line in loss.series] == [("training loss", 0, 0.2), ("validation loss", 1, 0.3)]  # fmt: skip
    assert loss.series[0].outline == "0,2 33.33,14 100,38"
    assert validation.title == "Mean average precision"


def test_unknown_curves_get_their_own_chart() -> None:
    assert [chart.title for chart in charts.build_run_charts({"weight_norm": [Point(1, 3.0)]})] == ["weight_norm"]


def test_charts_are_valid_json_without_infinities() -> None:
    drawn = [
        chart.to_json() for chart in charts.build_run_charts({"learning_rate": [Point(1, math.inf), Point(2, 1e-5)]})
    ]
    assert json.loads(json.dumps(drawn, allow_nan=False)) == [
        {"title": "Learning rate", "series": [{"label": "learning rate", "style": 0}], "data": [[2], [1e-05]]}
    ]


def test_the_table_of_a_chart_is_thinned_but_keeps_sparse_lines() -> None:
    dense = [Point(step, step / 500) for step in range(1, 501)]
    rare = [Point(step, 0.5) for step in (77, 301)]
    rows = charts.build_run_charts({"training_loss": dense, "validation_loss": rare})[0].rows
    steps = [step for step, _ in rows]
    assert {1, 77, 301, 500} <= set(steps)
    assert len(rows) < 40
    assert steps == sorted(steps)


def test_compared_runs_share_charts_and_keep_their_style() -> None:
    one: charts.Curves = {"training_loss": [Point(1, 0.5)], "own": [Point(1, 1.0)]}
    other: charts.Curves = {"mean_average_precision": [Point(5, 0.2)], "training_loss": [Point(2, 0.1)]}
    found = charts.build_comparison_charts([("A x", one), ("B y", other)])
    assert [(chart.title, [(line.label, line.style) for line in chart.series]) for chart in found] == [
        ("Training loss", [("A x", 0), ("B y", 1)]),
        ("Mean average precision", [("B y", 1)]),
        ("Own", [("A x", 0)]),
    ]
