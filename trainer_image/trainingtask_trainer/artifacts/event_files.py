"""The curves and final scores beside a saved model, as TensorBoard reads them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from trainingtask_api.status import Results
from trainingtask_trainer.reporting.progress import CurvePoint
from trainingtask_trainer.reporting.scalars import Scalar, collect_scores, iterate_curve

EVENTS_FOLDER: Final = "tensorboard"


def write_event_files(folder: Path, results: Results, curve: Sequence[CurvePoint]) -> None:
    """Write the event file of a training into the folder of a model's files.

    Parameters
    ----------
    folder
        The folder of the model's files.
    results
        Their numbers stand at the last optimizer step, by their paths in ``results.json``.
    curve
        Losses and scores by optimizer step; empty for a model without steps.
    """
    from tensorboardX import SummaryWriter  # noqa: PLC0415 - imports torch where it is installed

    scores = [Scalar(name, results.global_step, value) for name, value in collect_scores(results).items()]
    with SummaryWriter(str(folder / EVENTS_FOLDER)) as writer:
        for scalar in (*iterate_curve(curve), *scores):
            writer.add_scalar(scalar.name, scalar.value, scalar.step)
