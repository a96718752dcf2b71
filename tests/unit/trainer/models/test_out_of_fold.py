"""Out-of-fold predictions: which rows a model has seen, and what is reported meanwhile."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from trainingtask_trainer.evaluation.metrics import Probabilities
from trainingtask_trainer.models.base import FitResult, TrainingRows
from trainingtask_trainer.models.out_of_fold import SharedProgress, predict_out_of_fold
from trainingtask_trainer.reporting.progress import CurvePoint, Step

FOLDS = np.array([0, 1, 2, 0, 1, 2, 0])
LABELS = np.eye(7, 2, dtype=np.uint8)


@dataclass
class Remembering:
    """A model whose features are the rows' numbers, and that predicts whether it was trained on them."""

    seen: set[int] = field(default_factory=set)

    def fit(self, rows: TrainingRows, preprocessor: Any, progress: Any, checkpoints: Any) -> FitResult:
        assert checkpoints is None
        assert (rows.labels == LABELS[[int(number) for number in rows.features]]).all()
        self.seen = {int(number) for number in rows.features}
        progress(Step(epoch=1, epochs=1, step=4, total_steps=4, rows=len(self.seen), loss=0.5))
        return FitResult(4, 0.5, len(self.seen))

    def predict(self, features: Any) -> Probabilities:
        return np.array([[float(int(number) in self.seen), int(number) / 10] for number in features])


@pytest.mark.parametrize("features", [np.arange(7), list(range(7))], ids=["an array", "a list"])
def test_no_model_has_seen_the_row_that_it_predicts(features: Any) -> None:
    rows = TrainingRows(features, LABELS, None, LABELS, ["a", "b"])
    models: Any = [Remembering() for _ in range(3)]
    progress = SharedProgress(lambda step: None, trainings=4)
    found = predict_out_of_fold(models, rows, FOLDS, None, progress)  # type: ignore[arg-type]
    assert found.tolist() == [[0.0, number / 10] for number in range(7)]


def test_steps_of_all_trainings_count_as_those_of_one() -> None:
    steps: list[Step] = []
    progress = SharedProgress(steps.append, trainings=3)
    curve = (CurvePoint(2, training_loss=0.7),)
    for fold in range(3):
        if fold:
            progress.start_next()
        for number in (0, 2):
            loss = None if fold else 0.7
            progress(Step(1, 1, number, 2, 10 * number, loss, None, () if fold else curve))
    assert [(step.step, step.total_steps, step.rows) for step in steps] == [
        (0, 6, 0),
        (2, 6, 20),
        (2, 6, 20),
        (4, 6, 40),
        (4, 6, 40),
        (6, 6, 60),
    ]
    assert {(step.loss, step.curve) for step in steps} == {(0.7, curve)}
