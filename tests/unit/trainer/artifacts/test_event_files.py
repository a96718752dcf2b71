"""Event files beside a model, as TensorBoard reads them."""

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from support.results import RESULTS
from trainingtask_trainer.artifacts.event_files import write_event_files
from trainingtask_trainer.reporting.progress import CurvePoint

NAN = float("nan")


def read_scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_reads_curves_and_scores(tmp_path: Path) -> None:
    curve = [CurvePoint(step, training_loss=1 / step, validation_loss=NAN) for step in range(1, 1001)]
    write_event_files(tmp_path, RESULTS, curve)
    scalars = read_scalars(tmp_path / "tensorboard")
    assert scalars["training_loss"] == [(step, pytest.approx(1 / step)) for step in range(1, 1001)]
    assert "validation_loss" not in scalars
    assert scalars["evaluation.micro.f1"] == [(8, pytest.approx(0.5454))]
    assert scalars["validation.loss"] == [(8, pytest.approx(0.3))]
