from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

from trainingtask_api.status import UNOBSERVED_STATUS
from trainingtask_cli.describe import build_sections
from trainingtask_cli.formatting import format_time
from trainingtask_cli.output import Table

NOW = datetime(2026, 5, 4, 10, 7, 30, tzinfo=UTC)


def sections(task: dict[str, Any]) -> dict[str, Table]:
    return {part.title: part for part in build_sections(task, NOW) if isinstance(part, Table)}


def facts(task: dict[str, Any]) -> dict[str, object]:
    return {str(name).rstrip(":"): value for name, value in sections(task)[""].rows}


def test_a_task_without_a_status_is_explained(make: SimpleNamespace) -> None:
    for task in (make.task("a"), make.task("a") | {"status": UNOBSERVED_STATUS}):
        found = facts(task)
        assert found["State"] == "none"
        assert "the operator has not looked at it yet" in str(found["Reason"])
        assert list(sections(task)) == [""]


def test_a_running_task_shows_its_progress(make: SimpleNamespace) -> None:
    task = make.task("a", "Running", startTime="2026-05-04T10:01:00Z", progressStale=True, training=make.report())
    found = facts(task)
    assert found["Progress"] == (
        "Training 42%, epoch 2 of 3, step 42 of 100, loss 0.2100, 12.5 rows/s, 2m10s left, not heard of for some minutes"
    )
    assert found["Started"] == f"{format_time(datetime(2026, 5, 4, 10, 1, tzinfo=UTC))} (6m30s ago)"
    assert not {"Ended", "Tracked at"} & set(found)
    task["status"]["training"]["trackingUrl"] = "https://mlflow.example.com/#/experiments/1/runs/a"
    assert facts(task)["Tracked at"] == "https://mlflow.example.com/#/experiments/1/runs/a"


def test_a_failed_task_shows_reason_conditions_and_attempts(make: SimpleNamespace) -> None:
    attempts = [
        {"number": 1, "pod": "a-1", "node": "n1", "startTime": "2026-05-04T10:00:10Z", "finishTime": "2026-05-04T10:00:30Z", "exitCode": 137, "reason": "OOMKilled"},
        {"number": 2, "pod": "a-2", "startTime": "2026-05-04T10:05:00Z"},
    ]  # fmt: skip
    task = make.task("a", "Failed", reason="RetriesExhausted", attempts=attempts)
    task["spec"]["dataset"] |= {"volumeClaim": "data", "path": "x.csv"}
    assert facts(task)["Reason"] == "RetriesExhausted: a is Failed."
    assert facts(task)["Data set"] == "support_tickets (data:x.csv)"
    task["spec"]["model"] |= {"checkpoint": "owner/name"}
    assert facts(task)["Model"] == "logistic_regression (owner/name)"
    task["spec"]["dataset"] = {"name": "table", "uri": "https://host/x.csv?signature=secret"}
    assert facts(task)["Data set"] == "table (https://host/x.csv)"
    assert facts(task | {"spec": task["spec"] | {"output": {"uri": "s3://bucket/a"}}})["Output"] == "s3://bucket/a"
    (failed,) = (condition for condition in task["status"]["conditions"] if condition["type"] == "Failed")
    task["status"]["conditions"].append(failed | {"type": "Stalled"})
    timeline = sections(task)["Conditions"].rows
    assert [row[1:4] for row in timeline] == [
        ("+0s", "Accepted=True", "Accepted"),
        ("+60s", "Failed=True", "RetriesExhausted"),
    ]
    assert [row[2:] for row in sections(task)["Attempts"].rows] == [
        ("20s", 137, "OOMKilled", "n1", "a-1"),
        ("2m30s", None, None, None, "a-2"),
    ]


def test_scores_are_compared_to_the_baselines(make: SimpleNamespace) -> None:
    parts = sections(make.task("a", "Succeeded", training=make.result()))
    scores = next(
        part for title, part in parts.items() if title.startswith("Scores on 20 test rows, threshold 0.400 (global)")
    )
    assert scores.columns == ("", "MODEL", "LABEL PRIOR", "NO LABEL", "95 %")
    assert ("micro-F1", 0.5454, 0.3, 0.0, "0.510-0.581") in scores.rows
    assert parts["Warnings"].rows == [("! rare labels were not learnt",)]
    assert [row[0] for row in parts["Labels"].rows] == ["a|b", "c", "d"]
