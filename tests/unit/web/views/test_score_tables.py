"""Scores of a run as tables."""

import math
from typing import Any

import pytest

from support.sample_runs import detail
from trainingtask_web.views import compare_view, score_tables


def test_scores_are_compared_to_the_baselines() -> None:
    scores = score_tables.build_scores(detail())
    assert scores is not None
    assert [title for title, _ in scores.headline] == ["micro-F1", "macro-F1", "mean average precision"]
    by_title = {row.title: row for row in scores.against_baselines}
    assert by_title["micro-F1"].verdict == "better"
    assert (by_title["loss"].prior, by_title["loss"].zero, by_title["loss"].verdict) == (0.155, None, "better")
    assert scores.about == "5,427 test rows, threshold 0.310, tuned on rows held out from training"
    assert scores.undefined == [("macro.precision", "a mean over 27 of 28 labels: grief is never predicted")]


@pytest.mark.parametrize(("accuracy", "verdict"), [(0.97, "better"), (0.95, "worse"), (0.958, "worse")])
def test_a_score_that_only_equals_a_baseline_does_not_beat_it(accuracy: float, verdict: str) -> None:
    result = {
        "accuracy_thresh": accuracy,
        "all_zero": {"accuracy_thresh": 0.958},
        "label_prior": {"accuracy_thresh": 0.9},
    }
    scores = score_tables.build_scores(detail(evaluate_result=result))
    assert scores is not None
    assert [(row.title, row.verdict) for row in scores.against_baselines] == [("accuracy_thresh", verdict)]


def test_labels_are_sorted_by_f1_and_those_without_come_last() -> None:
    labels = [{"label": "a", "f1": 0.1}, {"label": "b"}, {"label": "c", "f1": 0.9, "support": 3}]
    assert [row.label for row in score_tables.build_label_rows({"per_label": labels})] == ["c", "a", "b"]


@pytest.mark.parametrize(
    "result",
    [
        {"per_label": "none", "micro": [1], "all_zero": 3, "undefined": "no", "threshold": "0.5"},
        {"per_label": [None, 3, {"label": {"x": 1}, "f1": "high", "support": True}], "micro": {"f1": math.nan}},
        {"threshold_source": ["x"], "rows": "many", "split": 3},
    ],
)
def test_malformed_scores_are_skipped(result: dict[str, Any]) -> None:
    run = detail(evaluate_result=result, training_result={"warnings": 3, "versions": "new", "train_rows": [1]})
    scores = score_tables.build_scores(run)
    assert scores is not None
    assert scores.headline == []
    assert score_tables.get_warnings(run) == []
    assert [name for name, _ in score_tables.list_training_facts(run)] == []
    assert compare_view.compare_labels([run, run]) is not None


def test_what_is_cut_is_told() -> None:
    lengths = {"p50": 20, "p95": 100, "p99": 150, "max_length": 64, "cut_fraction": 0.126}
    facts = score_tables.list_training_facts(detail(training_result={"text_lengths": lengths}))
    assert facts == [("Text lengths", "p50 20, p95 100, p99 150 tokens; 12.6% cut to 64")]
    assert score_tables.list_training_facts(detail(training_result={"text_lengths": lengths | {"p95": "x"}})) == []


def test_of_many_labels_the_best_and_the_worst_are_shown() -> None:
    labels = [{"label": str(number), "f1": number / 1000, "support": 1} for number in range(900)]
    scores = score_tables.build_scores(
        detail(evaluate_result={"per_label": [*labels, {"label": "never", "support": 0}]})
    )
    assert scores is not None
    assert scores.label_count == 901
    assert [row.label for row in scores.labels] == [
        str(number) for number in [*range(899, 849, -1), *range(49, -1, -1)]
    ]


def test_exports_are_facts_and_those_of_another_shape_are_left_out() -> None:
    export = {
        "format": "onnx_int8",
        "is_written": False,
        "size": 24_000_000,
        "micro_f1": 0.58,
        "f1_loss": 0.02,
        "max_probability_difference": 0.034,
        "rows_per_second": 180.4,
    }
    facts = dict(score_tables.list_training_facts(detail(training_result={"exports": [export, {"format": "next"}, 3]})))
    assert facts["Export onnx_int8"] == (
        "not written: 23 MiB, micro-F1 0.5800 (-0.0200), probabilities within 0.034, 180 rows/s on one core"
    )
    assert "Export next" not in facts
