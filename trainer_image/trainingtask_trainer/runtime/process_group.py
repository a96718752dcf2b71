"""The process group of torch in which the ranks of a task exchange gradients and predictions."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Final

from trainingtask_api.spec import Device
from trainingtask_trainer.runtime.processes import Processes

COLLECTIVE_TIMEOUT: Final = timedelta(minutes=10)
"""A collective fails that waits longer for another rank. What rank 0 does alone for longer, the others await in `meet_ranks`."""


@contextmanager
def join_process_group(processes: Processes, device: Device) -> Iterator[None]:
    """Join the process group of the task, while entered; do nothing for a task of one process.

    Tensors on the CPU are exchanged through gloo, those on a GPU through NCCL.

    Parameters
    ----------
    processes
        The place of this process, which stands in the environment as well: torch reads the address of rank 0 there.
    device
        The device of the task.

    Raises
    ------
    Fault
        When the task wants a GPU and there is none.
    """
    if processes.world_size == 1:
        yield
        return
    # Their import takes seconds, which a classical model of one process does not need.
    import torch.distributed as dist  # noqa: PLC0415

    from trainingtask_trainer.runtime.device import prepare_torch  # noqa: PLC0415

    on_gpu = prepare_torch(device).type == "cuda"
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=COLLECTIVE_TIMEOUT)
    yield
    # Not after an error, when it could wait for ranks that have left; the process ends then, and its connections.
    dist.destroy_process_group()


def meet_ranks(processes: Processes, place: str) -> None:
    """Return once all ranks of the task have called this with the same `place`, which has no time limit."""
    if processes.world_size > 1:
        from trainingtask_trainer.runtime.rank_store import RankStore  # noqa: PLC0415

        RankStore(processes).meet(place)
