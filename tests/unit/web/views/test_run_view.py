"""From rows to what pages show: pure functions, so no server and no database."""

import json
import math
import re
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.sample_history import two_weeks
from trainingtask_api import Reason, TrainingTask, names
from trainingtask_api.formatting import format_duration, format_size
from trainingtask_api.nested import flatten
from trainingtask_history.queries import Event, Point, RunDetail, RunSummary
from trainingtask_web.routes import pages
from trainingtask_web.views import charts, compare_view, formatting, run_view, score_tables
from trainingtask_web.views.manifest import list_commands, to_manifest
from trainingtask_web.views.remediation import NEXT_STEPS, get_next_step
from trainingtask_web.views.timeline import build_timeline

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
SCENE = two_weeks(NOW)


def detail(**changes: Any) -> RunDetail:
    return RunDetail.model_validate(SCENE.named("emotions-bert-base", 2)).model_copy(update=changes)


def summary(**changes: Any) -> RunSummary:
    return RunSummary.model_validate(SCENE.named("emotions-distilbert-focal")).model_copy(update=changes)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (None, "—"), (0, "0s"), (0.04, "0s"), (4.21, "4.2s"), (8.0, "8s"), (9.97, "10s"), (45, "45s"), (59.7, "1m"), (60, "1m"),
        (130, "2m 10s"), (3599.6, "1h"), (12_000, "3h 20m"), (86_400, "1d"), (190_800, "2d 5h"), (-3, "0s"),
    ],
)  # fmt: skip
def test_durations(seconds: float | None, shown: str) -> None:
    assert formatting.or_absent(format_duration, seconds) == shown


def test_times_are_utc_and_as_short_as_they_are_clear() -> None:
    there = datetime(2026, 3, 1, 1, 30, tzinfo=UTC).astimezone()
    assert formatting.format_time(there) == "2026-03-01 01:30:00 UTC"
    assert formatting.format_short_time(there, NOW) == "Mar 01 01:30"
    assert formatting.format_short_time(there, NOW.replace(year=2027)) == "2026-03-01"
    assert formatting.format_age(NOW - timedelta(seconds=2), NOW) == "just now"
    assert formatting.format_age(NOW - timedelta(minutes=130), NOW) == "2h ago"
    assert formatting.format_age(NOW + timedelta(minutes=5), NOW) == "just now"  # a clock that goes ahead


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "—"), (43_410, "43,410"), (43_410.0, "43,410"), (0.123456, "0.1235"), (5e-5, "5e-05"), (1e30, "1e+30")],
)
def test_numbers(value: float | None, shown: str) -> None:
    assert formatting.format_number(value) == shown


def test_sizes_and_scores() -> None:
    assert [formatting.or_absent(format_size, value) for value in (None, 12, 2048, 3 * 2**20, 5 * 2**30)] == ["—", "12 B", "2 KiB", "3 MiB", "5.0 GiB"]  # fmt: skip
    assert [formatting.format_score(value) for value in (None, 0.0, 0.58349)] == ["—", "0.000", "0.583"]


def test_the_advice_is_that_of_the_page_about_reasons() -> None:
    page = (Path(__file__).parents[4] / "docs" / "reasons.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in re.findall(r"^\| `.*$", page, re.MULTILINE)]
    assert {reason.value: step for reason, step in NEXT_STEPS.items()} == {row[0].strip("`"): row[-1] for row in rows}


def test_there_is_no_advice_where_there_is_nothing_to_do() -> None:
    assert get_next_step("OOMKilled") == NEXT_STEPS[Reason.OOM_KILLED]
    assert get_next_step("Evicted") == "Nothing: it is tried again and goes on from the last checkpoint."
    assert [get_next_step(word) for word in ("Cancelled", "OfSomebodysOwnImage", "", None)] == [None] * 4


def test_an_active_run_has_progress_and_its_duration_goes_on() -> None:
    run = summary(start_time=NOW - timedelta(minutes=2), step=50, total_steps=200, phase="Training", eta="2m10s")
    view = run_view.build_run_view(run, NOW)
    assert view.is_active
    assert view.duration == "2m"
    assert view.progress == run_view.Progress(25, "Training 25%, 2m10s left")


@pytest.mark.parametrize(
    ("changes", "progress"),
    [
        ({"step": None, "total_steps": None, "eta": ""}, run_view.Progress(None, "Training")),
        ({"step": 300, "total_steps": 200, "eta": None}, run_view.Progress(100, "Training 100%")),
        ({"step": 3, "total_steps": 0, "eta": None}, run_view.Progress(None, "Training")),
        ({"phase": None}, None),
        ({"status": "Suspended"}, None),
        ({"finish_time": NOW}, None),
    ],
)
def test_progress_says_what_is_known(changes: dict[str, Any], progress: run_view.Progress | None) -> None:
    assert run_view.build_run_view(summary(phase="Training").model_copy(update=changes), NOW).progress == progress


def test_a_run_that_has_not_started_says_when_it_was_created() -> None:
    view = run_view.build_run_view(
        summary(status="Pending", start_time=None, create_time=NOW - timedelta(minutes=3)), NOW
    )
    assert (view.started, view.ago, view.duration) == ("", "created 3m ago", "—")


def test_a_state_of_a_later_release_has_a_style() -> None:
    assert run_view.build_run_view(summary(status='Paused"><script>'), NOW).state == "unknown"


def test_a_sparkline_lies_within_its_picture_and_says_its_course() -> None:
    curve = [Point(100, 0.2), Point(150, math.nan), Point(200, 0.5), Point(400, 0.4)]
    found = charts.build_sparkline(curve, "score")
    assert found is not None
    places = [tuple(map(float, pair.split(","))) for pair in found.points.split()]
    assert places == [(2.5, 21.5), (32.8, 2.5), (93.5, 8.8)]
    assert found.end == places[-1]
    assert found.label == "score from 0.200 to 0.400, highest 0.500"


def test_a_sparkline_of_one_point_or_of_none() -> None:
    one = charts.build_sparkline([Point(7, 0.3)], "score")
    assert one is not None
    assert one.points == "93.5,12"
    assert charts.build_sparkline([], "score") is None
    assert charts.build_sparkline([Point(1, math.inf)], "score") is None


def test_the_timeline_is_in_order_and_speaks_of_trouble() -> None:
    start = NOW - timedelta(hours=1)
    run = detail(create_time=start, start_time=start + timedelta(seconds=30), finish_time=None)

    def event(seconds: int, kind: str, reason: str, message: str = "") -> Event:
        return Event(time=start + timedelta(seconds=seconds), type=kind, reason=reason, message=message)

    events = [
        event(40, "Phase", "Loading"),
        event(90, "Failed", "OOMKilled", "Too much."),
        event(3, "Running", "Unschedulable", "No node."),
        event(70, "Interrupted", "Evicted"),
        event(30, "Running", "TrainerRunning"),
    ]
    told = [(entry.after, entry.title, entry.reason, entry.tone) for entry in build_timeline(run, events)]
    assert told == [
        ("", "Created", None, "plain"),
        ("+3s", "Waiting", "Unschedulable", "warn"),
        ("+30s", "Running", "TrainerRunning", "plain"),
        ("+40s", "Loading", None, "plain"),
        ("+1m 10s", "Interrupted", "Evicted", "warn"),
        ("+1m 30s", "Failed", "OOMKilled", "bad"),
    ]


@pytest.mark.parametrize(
    ("kind", "reason", "title", "rest"),
    [
        ("Accepted", "Accepted", "Accepted", None),
        ("Accepted", "DeviceNotOffered", "Not accepted", "DeviceNotOffered"),
        ("Running", "Starting", "Starting", None),
        ("Running", "Ended", "Ended", None),
        ("Running", "ProgressStale", "Running", "ProgressStale"),
        ("Running", "WordOfALaterRelease", "Not running", "WordOfALaterRelease"),
        ("Suspended", "SuspendedByUser", "Suspended", "SuspendedByUser"),
        ("Suspended", "Resumed", "Resumed", None),
        ("Complete", "Succeeded", "Complete", "Succeeded"),
    ],
)
def test_an_entry_says_what_became_so(kind: str, reason: str, title: str, rest: str | None) -> None:
    entry = build_timeline(detail(), [Event(time=NOW, type=kind, reason=reason, message="")])[-1]
    assert (entry.title, entry.reason) == (title, rest)


def test_without_events_the_rows_own_times_are_told() -> None:
    run = detail()
    assert [(entry.title, entry.tone) for entry in build_timeline(run, [])] == [
        ("Created", "plain"),
        ("Started", "plain"),
        ("Succeeded", "good"),
    ]


def test_the_yaml_is_a_task_that_could_be_applied() -> None:
    written = to_manifest(detail(labels={"note": "a: b # c", "emoji": "🦜"}))
    assert written is not None
    task = TrainingTask.model_validate(yaml.safe_load(written))
    assert task.metadata.name == "emotions-bert-base"
    assert task.metadata.namespace == "ml-team"
    assert task.metadata.labels == {"note": "a: b # c", "emoji": "🦜"}
    assert task.spec.model.name == "bert"
    assert to_manifest(detail(spec=None)) is None


def shuffled(spec: dict[str, Any] | None) -> dict[str, Any]:
    return {key: shuffled(value) if isinstance(value, dict) else value for key, value in reversed((spec or {}).items())}


def test_the_yaml_has_the_order_of_the_contract_whatever_the_database_made_of_it() -> None:
    run = detail()
    assert list(yaml.safe_load(to_manifest(run) or "")["spec"])[:3] == ["dataset", "preprocessor", "model"]
    assert to_manifest(detail(spec=shuffled(run.spec), labels=shuffled(run.labels))) == to_manifest(run)


def test_a_spec_in_the_words_of_the_columns_is_shown_as_it_is() -> None:
    written = {"model": {"name": "knn"}, "run_policy": {"suspend": True}, "dataset": {"name": "support_tickets"}}
    assert yaml.safe_load(to_manifest(detail(spec=written)) or "")["spec"] == written


def test_a_spec_of_another_release_is_shown_as_it_is() -> None:
    later = {"model": {"name": "bert", "layers": 3}, "dataset": {"name": "table"}}
    assert yaml.safe_load(to_manifest(detail(spec=later)) or "")["spec"] == later


def test_the_first_task_is_valid() -> None:
    assert TrainingTask.model_validate(yaml.safe_load(pages.FIRST_TASK)).spec.output is None


def test_commands_are_quoted_for_the_shell() -> None:
    run = detail(name="a b; rm -rf /", namespace="$(id)", task_uid="u")
    lines = [line for _, line in list_commands(run, is_active=False)]
    assert lines == [
        "kubectl describe trainingtask -n '$(id)' 'a b; rm -rf /'",
        f"kubectl get pods -n '$(id)' -l {names.TASK_UID_LABEL}=u",
        f"kubectl logs -n '$(id)' -l {names.TASK_UID_LABEL}=u --tail=-1",
    ]


def test_the_log_of_an_active_run_is_followed() -> None:
    assert list_commands(summary(), is_active=True)[-1][1].endswith(" --tail=-1 -f")


def test_leaves_are_written_as_in_yaml() -> None:
    value = {"a": {"b": True, "c": None}, "d": [1, "x"], "e": {}, "f": 3e-5, "g": "yes", "h": {"i": "ü"}}
    assert [(path, formatting.format_leaf(leaf)) for path, leaf in flatten(value)] == [
        ("a.b", "true"), ("a.c", "null"), ("d", "[1, x]"), ("e", "{}"), ("f", "3.0e-05"), ("g", "yes"), ("h.i", "ü"),
    ]  # fmt: skip


def test_scores_stand_beside_the_baselines() -> None:
    scores = score_tables.build_scores(detail())
    assert scores is not None
    assert [title for title, _ in scores.headline] == ["micro-F1", "macro-F1", "mean average precision"]
    by_title = {row.title: row for row in scores.against_baselines}
    assert by_title["micro-F1"].verdict == "better"
    assert (by_title["loss"].prior, by_title["loss"].zero, by_title["loss"].verdict) == (0.155, None, "better")
    assert scores.about == "5,427 test rows, threshold 0.310, tuned on the validation rows"
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


def test_labels_come_by_f1_and_those_without_last() -> None:
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
def test_rows_of_somebodys_own_image_are_shown_as_far_as_they_go(result: dict[str, Any]) -> None:
    run = detail(evaluate_result=result, training_result={"warnings": 3, "versions": "new", "train_rows": [1]})
    scores = score_tables.build_scores(run)
    assert scores is not None
    assert scores.headline == []
    assert score_tables.get_warnings(run) == []
    assert [name for name, _ in score_tables.list_training_facts(run)] == []
    assert compare_view.compare_labels([run, run]) is not None


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


def test_curves_of_no_known_name_are_drawn_too() -> None:
    assert [chart.title for chart in charts.build_run_charts({"weight_norm": [Point(1, 3.0)]})] == ["weight_norm"]


def test_what_the_script_reads_is_json_of_numbers() -> None:
    drawn = [
        chart.to_json() for chart in charts.build_run_charts({"learning_rate": [Point(1, math.inf), Point(2, 1e-5)]})
    ]
    assert json.loads(json.dumps(drawn, allow_nan=False)) == [
        {"title": "Learning rate", "series": [{"label": "learning rate", "style": 0}], "data": [[2], [1e-05]]}
    ]


def test_the_table_of_a_chart_is_thinned_but_keeps_what_is_rare() -> None:
    dense = [Point(step, step / 500) for step in range(1, 501)]
    rare = [Point(step, 0.5) for step in (77, 301)]
    rows = charts.build_run_charts({"training_loss": dense, "validation_loss": rare})[0].rows
    steps = [step for step, _ in rows]
    assert {1, 77, 301, 500} <= set(steps)
    assert len(rows) < 40
    assert steps == sorted(steps)


def test_runs_share_charts_and_keep_their_style() -> None:
    one: charts.Curves = {"training_loss": [Point(1, 0.5)], "own": [Point(1, 1.0)]}
    other: charts.Curves = {"mean_average_precision": [Point(5, 0.2)], "training_loss": [Point(2, 0.1)]}
    found = charts.build_comparison_charts([("A x", one), ("B y", other)])
    assert [(chart.title, [(line.label, line.style) for line in chart.series]) for chart in found] == [
        ("Training loss", [("A x", 0), ("B y", 1)]),
        ("Mean average precision", [("B y", 1)]),
        ("Own", [("A x", 0)]),
    ]


def test_what_differs_is_shown_with_what_is_not_set() -> None:
    runs = [
        detail(spec={"model": {"name": "bert"}, "training": {"epochs": 3, "seed": 42}}),
        detail(spec={"model": {"name": "knn"}, "training": {"seed": 42}, "device": "cpu"}),
    ]
    assert dict(compare_view.format_differences(runs)) == {
        "model.name": ["bert", "knn"],
        "training.epochs": ["3", None],
        "device": [None, "cpu"],
    }


@pytest.mark.parametrize(
    ("values", "less", "places"),
    [
        ([0.1, 0.3, None], False, {1}),
        ([0.1, 0.3, None], True, {0}),
        ([0.3, 0.1, 0.3], False, {0, 2}),
        ([0.2, 0.2], False, set()),
        ([0.2, None], False, set()),
        ([], False, set()),
    ],
)
def test_the_best_is_marked_where_there_is_a_choice(values: list[float | None], less: bool, places: set[int]) -> None:
    assert compare_view.find_best(values, less_is_better=less) == places


def test_labels_on_which_runs_differ_most_come_first() -> None:
    def run(**f1: float | None) -> RunDetail:
        return detail(evaluate_result={"per_label": [{"label": name, "f1": value} for name, value in f1.items()]})

    lines = compare_view.compare_labels([run(a=0.5, b=0.1, c=None), run(a=0.6, b=0.9, d=0.2)])
    assert [(line.title, line.values, set(line.best)) for line in lines] == [
        ("b", [0.1, 0.9], {1}),
        ("a", [0.5, 0.6], {1}),
        ("d", [None, 0.2], set()),
        ("c", [None, None], set()),
    ]


def test_runs_of_other_data_are_told_apart() -> None:
    mine = detail()
    other = detail(training_result={"data_fingerprint": "f" * 64})
    unknown = detail(training_result=None)
    unscored = detail(training_result={"data_fingerprint": "e" * 64}, evaluate_result=None)
    assert compare_view.has_same_data([mine, mine, unknown, unscored])
    assert not compare_view.has_same_data([mine, other])


def test_the_scene_is_the_same_for_the_same_time() -> None:
    again = two_weeks(NOW)
    assert [run.id for run in again.runs] == [run.id for run in SCENE.runs]
    assert [run.score for run in again.runs] == [run.score for run in SCENE.runs]
    assert {run.status for run in again.runs} == set(run_view._STATES)
    assert len({uuid.UUID(str(run.id)) for run in again.runs}) == 60
