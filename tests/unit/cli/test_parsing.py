"""A status is parsed leniently: invalid parts are dropped, and nothing else."""

from types import SimpleNamespace
from typing import Any

import pytest

from trainingtask_cli.parsing import parse_status, primary_condition


def test_a_valid_status_is_parsed_whole(make: SimpleNamespace) -> None:
    task = make.task("a", "Succeeded", training=make.result(), attempt=1)
    status = parse_status(task)
    assert status.to_json() == {**task["status"], "training": status.training.to_json()}
    assert status.training.results.evaluation.micro.f1 == 0.5454


def test_unknown_fields_are_ignored_at_any_depth(make: SimpleNamespace) -> None:
    task = make.task("a", "Succeeded", training=make.result(), attempt=3)
    expected = parse_status(task)
    status = task["status"]
    status["colour"] = "blue"
    status["training"]["mood"] = {"good": True}
    status["training"]["results"]["evaluation"]["calibration"] = 0.1
    for label in status["training"]["results"]["evaluation"]["perLabel"]:
        label["brier"] = 0.2
    for condition in status["conditions"]:
        condition["severity"] = "Info"
    assert parse_status(task) == expected


@pytest.mark.parametrize(
    ("change", "lost"),
    [
        ({"state": 7}, "state"),
        ({"state": "x" * 500}, "state"),
        ({"conditions": "none"}, "conditions"),
        ({"training": ["?"]}, "training"),
        ({"training": {"phase": "Dreaming", "attempt": 1}}, "training"),
        ({"startTime": "yesterday"}, "start_time"),
    ],
)
def test_an_invalid_field_is_dropped_alone(make: SimpleNamespace, change: dict[str, Any], lost: str) -> None:
    good = make.task("a", "Running", attempt=2, node="n1", startTime="2026-05-04T10:00:00Z", training=make.report())
    read = parse_status({**good, "status": good["status"] | change})
    assert getattr(read, lost) is None
    assert read.model_copy(update={lost: getattr(parse_status(good), lost)}) == parse_status(good)


def test_invalid_conditions_are_dropped_alone(make: SimpleNamespace) -> None:
    good = make.condition("Failed", "True", "OOMKilled", "Too small.", 2)
    spoilt = [{"type": "Accepted"}, good, {**good, "lastTransitionTime": None}, "?", {**good, "type": 4}]
    read = parse_status({"status": {"conditions": spoilt, "state": "Failed", "reason": "OOMKilled"}})
    assert [condition.reason for condition in read.conditions or ()] == ["OOMKilled"]
    condition = primary_condition(read)
    assert condition is not None
    assert condition.message == "Too small."


@pytest.mark.parametrize("status", [None, "?", [], 3])
def test_a_missing_status_is_an_empty_one(status: Any) -> None:
    read = parse_status({"status": status})
    assert (read.state, read.conditions, read.training, primary_condition(read)) == (None, None, None, None)
