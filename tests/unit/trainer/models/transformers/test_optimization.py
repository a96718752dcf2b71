import pytest
import torch

from trainingtask_api.training import Scheduler, Training
from trainingtask_trainer.models.transformers.optimization import (
    create_learning_rate_function,
    create_optimizer_and_scheduler,
)
from trainingtask_trainer.models.transformers.settings import Settings

STEPS = 10


@pytest.mark.parametrize("scheduler", list(Scheduler))
def test_the_curve_shows_the_rates_that_the_optimiser_uses(scheduler: Scheduler) -> None:
    training = Training.model_validate({"scheduler": scheduler.value, "warmupFraction": 0.2, "learningRate": 3e-4})
    settings = Settings.from_spec(training, on_gpu=False)
    optimiser, schedule = create_optimizer_and_scheduler(torch.nn.Linear(2, 2), settings, STEPS)
    used = []
    for _ in range(STEPS):
        used.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    rate = create_learning_rate_function(settings, STEPS)
    assert [rate(step) for step in range(1, STEPS + 1)] == used
    assert max(used) == pytest.approx(3e-4)
    assert used[0] == 0.0, "warm-up begins at nothing"
