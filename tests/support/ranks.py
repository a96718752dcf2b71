"""Trainings of tiny models in several processes of this machine, which exchange through gloo as those of a task do.

`train_in_ranks` starts one process, which imports torch and forks the ranks: an import for all of them.
"""

import multiprocessing
import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from support.fine_tuning import Run, fit
from support.ports import free_port
from trainingtask_api.spec import Device
from trainingtask_trainer.errors import Interrupted
from trainingtask_trainer.models.base import FitResult
from trainingtask_trainer.models.transformers.training_state import TrainingSession
from trainingtask_trainer.reporting.progress import Step
from trainingtask_trainer.runtime.process_group import join_process_group
from trainingtask_trainer.runtime.processes import Processes

_TIMEOUT = 600.0  # seconds


@dataclass(frozen=True)
class Training:
    """A training in so many processes."""

    name: str
    world_size: int
    spec: dict[str, Any]
    stops: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Rank to the step, and how often it is reported, at which a signal reaches that rank."""
    checkpoints: str | None = None
    """The folder that trainings share."""


@dataclass
class Outcome:
    """What one rank has seen."""

    losses: list[float]
    learning_rates: list[float]
    rng_seed: int
    fitted: FitResult | None = None
    probabilities: Any = None
    weights: dict[str, Any] | None = None
    interrupted_at: int | None = None


def train_in_ranks(trainings: Sequence[Training], models: Path, folder: Path) -> dict[str, list[Outcome]]:
    """Return what each rank of each training has seen, by the training's name; they run one after the other."""
    ports = [free_port() for _ in trainings]
    (folder / "plan.pkl").write_bytes(pickle.dumps((trainings, ports, models)))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "GLOO_SOCKET_IFNAME": "lo"}
    script = "import sys; from support import ranks; sys.exit(ranks.fork_ranks(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", script, folder], env=environment, check=True, timeout=_TIMEOUT)
    return {
        training.name: [
            pickle.loads((folder / f"{training.name}.{rank}.pkl").read_bytes()) for rank in range(training.world_size)
        ]
        for training in trainings
    }


def _run_rank(rank: int, folder: Path) -> None:
    trainings, ports, models = pickle.loads((folder / "plan.pkl").read_bytes())
    os.environ |= {"MASTER_ADDR": "127.0.0.1"}
    for training, port in zip(trainings, ports, strict=True):
        if rank < training.world_size:
            os.environ |= {name: str(rank) for name in ("RANK", "LOCAL_RANK")}
            os.environ |= {name: str(training.world_size) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE")}
            os.environ["MASTER_PORT"] = str(port)
            if training.world_size == 1:
                for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
                    del os.environ[name]
            with join_process_group(Processes.from_environment(), Device.CPU):
                outcome = _train(training, rank, models, folder)
            (folder / f"{training.name}.{rank}.pkl").write_bytes(pickle.dumps(outcome))


def _train(training: Training, rank: int, models: Path, folder: Path) -> Outcome:
    losses: list[float] = []
    rates: list[float] = []
    record_step = TrainingSession.record_step

    def spy(self: TrainingSession, loss: torch.Tensor, rows: int, tokens: int) -> None:
        losses.append(loss.item())
        record_step(self, loss, rows, tokens)

    last, reported = -1, 0
    stop_step, times = training.stops.get(rank, (-1, 0))

    def progress(now: Step) -> None:
        nonlocal last, reported
        last = now.step
        reported += now.step == stop_step
        if reported and reported == times:
            raise Interrupted("SIGTERM")

    hook = register_optimizer_step_pre_hook(lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"]))
    checkpoints = folder / training.checkpoints if training.checkpoints else None
    TrainingSession.record_step = spy  # type: ignore[method-assign]
    try:
        run: Run = fit(training.spec, models, progress=progress, checkpoints=checkpoints)
    except Interrupted:
        return Outcome(losses, rates, torch.initial_seed(), interrupted_at=last)
    finally:
        hook.remove()
        TrainingSession.record_step = record_step  # type: ignore[method-assign]
    return Outcome(losses, rates, torch.initial_seed(), run.fitted, run.probabilities, run.weights())


def fork_ranks(path: str) -> int:
    """Run the trainings of a folder; return 0 when all ranks did theirs."""
    folder = Path(path)
    trainings, _, _ = pickle.loads((folder / "plan.pkl").read_bytes())
    torch.set_num_threads(1)
    context = multiprocessing.get_context("fork")
    ranks = range(max(training.world_size for training in trainings))
    processes = [context.Process(target=_run_rank, args=(rank, folder)) for rank in ranks]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return max(abs(process.exitcode or 0) for process in processes)
