"""The row of a run, as trainer and operator build it."""

import math

import pytest

from support.results import RESULTS
from support.specs import CLASSICAL, changed, task
from trainingtask_api.status import Results
from trainingtask_api.task import TrainingTask
from trainingtask_history.rows import build_result_columns, build_run
from trainingtask_history.tables import RunStatus


@pytest.mark.parametrize(
    ("uri", "stored"),
    [
        ("https://host/rows.csv?X-Amz-Signature=s3cret", "https://host/rows.csv"),
        ("s3://bucket/what?.csv", "s3://bucket/what?.csv"),
    ],
)
def test_a_row_keeps_an_address_without_its_signature(uri: str, stored: str) -> None:
    dataset = {"name": "go_emotions", "uri": uri}
    signed = TrainingTask.model_validate(task("signed", changed(CLASSICAL, dataset=dataset)))
    run = build_run(
        signed,
        task_uid="uid",
        attempt=1,
        status=RunStatus.RUNNING,
        create_time=None,
        start_time=None,
        finish_time=None,
        results=None,
    )
    assert run.spec is not None
    assert run.spec["dataset"]["uri"] == stored
    assert "s3cret" not in str(run.spec)
    assert run.spec["model"] == signed.spec.to_json()["model"]


@pytest.mark.parametrize(
    ("score", "stored"), [(0.0, 0.0), (1.0, 1.0), (5.0, None), (-0.1, None), (math.nan, None), (math.inf, None)]
)
def test_a_score_that_is_no_fraction_is_left_out(score: float, stored: float | None) -> None:
    forged = RESULTS.to_json()
    forged["evaluation"]["micro"]["f1"] = score
    columns = build_result_columns(Results.model_validate(forged))
    assert columns["score"] == stored
    assert columns["training_result"] == build_result_columns(RESULTS)["training_result"]
