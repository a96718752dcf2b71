"""A run from top to bottom with all that it reads on a hub."""

from collections.abc import Callable
from pathlib import Path

import pytest
from datasets import Dataset

from support.hub_server import Hub, to_parquet
from trainingtask_api.status import Source
from trainingtask_api.task import TrainingTask
from trainingtask_trainer.pipeline import train
from trainingtask_trainer.reporting.reporter import Reporter
from trainingtask_trainer.volumes import Volumes

SPEC = {
    "dataset": {"name": "table", "hub": {"id": "me/colours"}},
    "model": {"name": "logistic_regression"},
    "preprocessor": {"name": "embedding", "checkpoint": "me/bert"},
}


def test_the_results_have_the_commits_and_warnings_of_a_hub(
    hub: Hub,
    tiny_models: Path,
    volumes: Volumes,
    make_task: Callable[..., TrainingTask],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = to_parquet(Dataset.from_dict({"text": ["red", "blue", "both"] * 20, "labels": ["r", "b", "r,b"] * 20}))
    data = hub.add("datasets/me/colours", {"README.md": b"# Colours", "train.parquet": rows})
    files = {file.name: file.read_bytes() for file in (tiny_models / "bert").iterdir()}
    encoder = hub.add("models/me/bert", files)
    sources = [
        Source(field="preprocessor.checkpoint", address="me/bert", commit=encoder.main),
        Source(field="dataset.hub", address="me/colours", commit=data.main),
    ]
    reporter = Reporter([])
    results = train(make_task(SPEC), volumes, reporter)
    assert results.sources == reporter.report.sources == sources
    assert reporter.report.rows_read == 60
    assert not any("hub" in warning for warning in results.warnings)

    hub.outage = 503
    monkeypatch.setattr("trainingtask_trainer.storage.hub_client.MAX_WAIT", 0)
    again = train(make_task(SPEC), volumes, Reporter([]))
    assert (again.sources, again.data_fingerprint) == (sources, results.data_fingerprint)
    assert [warning for warning in again.warnings if "hub" in warning] == [
        f"the hub did not answer for {what} at revision 'main': commit {commit} of the cache was taken"
        for what, commit in (("checkpoint 'me/bert'", encoder.main), ("dataset.hub 'me/colours'", data.main))
    ]
