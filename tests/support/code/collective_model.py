"""A model of several processes for the launcher's tests: its steps are sums over all ranks, its faults are asked for."""

import os
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from trainingtask_api.reasons import Reason
from trainingtask_api.spec import TrainingTaskSpec
from trainingtask_api.status import Scalar
from trainingtask_trainer.errors import UserError
from trainingtask_trainer.models.base import FitResult, Predictor, TrainingRows
from trainingtask_trainer.reporting.progress import Progress, Step
from trainingtask_trainer.storage.folder_store import FolderStore
from trainingtask_trainer.volumes import Volumes

RANK = int(os.environ["RANK"])
FAULT = os.environ.get("FAULT", "")  # such as "crash 1": what rank 1 does at its third step
FOLDER = Path(os.environ["FOLDER"])  # each rank leaves its process id and its last step here
STEPS = int(os.environ.get("STEPS", "5"))
STEP_TIMEOUT = timedelta(seconds=float(os.environ.get("STEP_TIMEOUT", "100")))


class Collective:
    """Learns the labels' frequencies."""

    preprocessor: ClassVar[str] = "tfidf"
    packages: ClassVar[tuple[str, ...]] = ()
    is_distributed: ClassVar[bool] = True

    def __init__(self, spec: TrainingTaskSpec, volumes: Volumes) -> None:
        self._prior: Any = None
        if f"user-error {RANK}" == FAULT:
            raise UserError(Reason.INVALID_DATA, f"row 7 has no text; {os.environ['OMP_NUM_THREADS']} threads")

    def arguments(self) -> dict[str, Scalar]:
        """Return no arguments."""
        return {}

    def fit(
        self, rows: TrainingRows, preprocessor: object, progress: Progress, checkpoints: FolderStore | None
    ) -> FitResult:
        """Count steps together."""
        import torch
        from torch import distributed

        group = distributed.new_group(timeout=STEP_TIMEOUT)
        for step in range(1, STEPS + 1):
            progress(Step(epoch=1, epochs=1, step=step, total_steps=STEPS, rows=step, loss=1.0))
            done = torch.ones(1)
            distributed.all_reduce(done, group=group)
            if done.item() != distributed.get_world_size():
                raise AssertionError(done)
            if step == 3:
                (FOLDER / f"pid-{RANK}.tmp").write_text(str(os.getpid()))
                (FOLDER / f"pid-{RANK}.tmp").rename(FOLDER / f"pid-{RANK}")
                if f"crash {RANK}" == FAULT:
                    raise RuntimeError("wires crossed")
        self._prior = rows.labels.mean(axis=0)
        return FitResult(global_step=STEPS, training_loss=1.0, rows_seen=STEPS)

    def predict(self, features: Any) -> Any:
        """Return the frequencies for each row."""
        return np.tile(self._prior, (features.shape[0], 1))

    def save(self, folder: Path, preprocessor: object) -> None:
        """Write the frequencies."""
        np.save(folder / "prior.npy", self._prior)

    @staticmethod
    def load(folder: Path) -> Predictor:
        """Return the frequencies for each text."""
        prior = np.load(folder / "prior.npy")
        return lambda texts: np.tile(prior, (len(texts), 1))
