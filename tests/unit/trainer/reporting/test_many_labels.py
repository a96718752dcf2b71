"""What of the scores of thousands of labels is kept where."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from support.results import RESULTS
from support.specs import CLASSICAL
from trainingtask_api.scores import MAX_REPORTED_LABELS, MAX_SCORED_LABELS, LabelScore
from trainingtask_api.status import Phase, Results, TrainingReport
from trainingtask_api.task import TrainingTask
from trainingtask_history.access import ALL
from trainingtask_history.engine import open_history
from trainingtask_history.migrations.runner import migrate
from trainingtask_history.queries import get_run
from trainingtask_history.store import record
from trainingtask_history.tables import run_id
from trainingtask_trainer.reporting.history import RunOrigin, build_row
from trainingtask_trainer.reporting.kube_status import build_patch
from trainingtask_trainer.reporting.report_file import ReportFile

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ORIGIN = RunOrigin("uid-1", "image:1", "node-1")


def score_labels(count: int, undefined: int = 0, prefix: str = "label") -> Results:
    """Return results in which the F1 of a label grows with its number; the last ones have none."""
    labels = [
        LabelScore(
            label=f"{prefix} {number}",
            precision=1 / 3,
            recall=2 / 3,
            f1=number / 3 / count if number < count - undefined else None,
            average_precision=1 / 7,
            support=number,
            threshold=1 / 9,
        )
        for number in range(count)
    ]
    return RESULTS.model_copy(update={"evaluation": RESULTS.evaluation.model_copy(update={"per_label": labels})})


def report(results: Results) -> TrainingReport:
    return TrainingReport(attempt=1, phase=Phase.DONE, start_time=NOW, finish_time=NOW, results=results)


def numbers(labels: list[LabelScore]) -> list[int]:
    return [int(score.label.rpartition(" ")[2]) for score in labels]


def test_the_worst_and_the_best_labels_are_kept_in_their_order() -> None:
    kept = score_labels(100).evaluation.keep_labels(6)
    assert numbers(kept.per_label) == [0, 1, 2, 97, 98, 99]
    assert kept.undefined["perLabel"] == (
        "the 6 labels of 100 with the lowest and the highest F1; results.json has the others"
    )


def test_labels_without_f1_are_kept_last() -> None:
    assert numbers(score_labels(100, undefined=50).evaluation.keep_labels(6).per_label) == [0, 1, 2, 47, 48, 49]
    assert numbers(score_labels(100, undefined=99).evaluation.keep_labels(4).per_label) == [0, 1, 2]


def test_few_labels_are_all_kept() -> None:
    evaluation = score_labels(MAX_REPORTED_LABELS).evaluation
    assert evaluation.keep_labels(MAX_REPORTED_LABELS) is evaluation


def test_the_status_has_few_of_many_labels(make_task: Callable[..., TrainingTask], tmp_path: Path) -> None:
    last = report(score_labels(2_000))
    patch = build_patch(make_task(CLASSICAL).metadata, last)
    assert len(patch["status"]["training"]["results"]["evaluation"]["perLabel"]) == MAX_REPORTED_LABELS
    ReportFile(tmp_path).send(last)
    read = ReportFile(tmp_path).read()
    assert read is not None
    assert read.results is not None
    assert len(read.results.evaluation.per_label) == MAX_REPORTED_LABELS


def test_the_history_has_all_of_ten_thousand(make_task: Callable[..., TrainingTask], tmp_path: Path) -> None:
    engine = open_history(f"sqlite:///{tmp_path}/history.db")
    migrate(engine)
    record(engine, build_row(make_task(CLASSICAL), ORIGIN, report(score_labels(MAX_SCORED_LABELS))))
    run = get_run(engine, ALL, run_id("uid-1", 1))
    engine.dispose()
    assert run is not None
    assert run.evaluate_result is not None
    labels = run.evaluate_result["per_label"]
    assert (len(labels), labels[1]["precision"], labels[1]["support"]) == (MAX_SCORED_LABELS, 0.3333, 1)


@pytest.mark.parametrize("prefix", ["a" * 190, "\N{GRINNING FACE}" * 190])
def test_labels_that_a_row_has_no_room_for_are_left_out(make_task: Callable[..., TrainingTask], prefix: str) -> None:
    row = build_row(make_task(CLASSICAL), ORIGIN, report(score_labels(MAX_SCORED_LABELS, prefix=prefix)))
    assert row.evaluate_result is not None
    assert 500 < len(row.evaluate_result["per_label"]) < MAX_SCORED_LABELS
    assert "perLabel" in row.evaluate_result["undefined"]
    assert len(json.dumps(row.evaluate_result)) < 2 << 20
