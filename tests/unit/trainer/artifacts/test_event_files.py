"""Event files beside a model, as TensorBoard reads them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from support.results import RESULTS
from support.specs import CLASSICAL, changed
from trainingtask_trainer.__main__ import main
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


@pytest.mark.parametrize("is_wanted", [True, False])
def test_a_task_gets_event_files_if_it_asks(
    tmp_path: Path, write_task: Callable[..., Path], read_json: Callable[[Path], Any], is_wanted: bool
) -> None:
    spec = changed(CLASSICAL, dataset__sampleSize=100, output__volumeClaim="models", output__tensorboard=is_wanted)
    history = f"--history=sqlite:///{tmp_path}/history.db"
    assert main(["run", str(write_task(spec)), f"--output-dir={tmp_path}/out", history]) == 0
    folder = tmp_path / "out" / "a-task"
    assert (folder / "tensorboard").exists() == is_wanted
    if is_wanted:
        scalars = read_scalars(folder / "tensorboard")
        results = read_json(folder / "results.json")
        assert scalars["evaluation.micro.f1"] == [
            (results["globalStep"], pytest.approx(results["evaluation"]["micro"]["f1"]))
        ]
