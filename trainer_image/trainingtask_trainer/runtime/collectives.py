"""What ranks exchange: sums, and values of rank 0. With a single process each function returns what it was given.

Every rank calls the same functions in the same order; one that calls none leaves the others waiting.
"""

import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from trainingtask_trainer.errors import Interrupted


def is_group_joined() -> bool:
    """Return whether this process trains together with others."""
    return dist.is_available() and dist.is_initialized()


def sum_over_ranks(value: float) -> float:
    """Return the sum of the values of all ranks, once each rank has called this."""
    if not is_group_joined():
        return value
    total = torch.tensor(value, dtype=torch.float64)
    dist.all_reduce(total)
    return float(total)


def min_over_ranks(value: float) -> float:
    """Return the least of the values of all ranks, once each rank has called this."""
    if not is_group_joined():
        return value
    least = torch.tensor(value, dtype=torch.float64)
    dist.all_reduce(least, dist.ReduceOp.MIN)
    return float(least)


def merge_rows(rows: NDArray[Any]) -> None:
    """Fill in a matrix the rows of the other ranks; a rank has zeros in the rows that are not its own."""
    if is_group_joined():
        dist.all_reduce(torch.from_numpy(rows))


def send_rows(rows: NDArray[np.float32]) -> None:
    """Send a matrix to rank 0, which calls `receive_rows`."""
    dist.send(torch.from_numpy(rows), 0)


def receive_rows(shape: tuple[int, int], source: int) -> NDArray[np.float32]:
    """Return the matrix that rank `source` sends."""
    rows = np.empty(shape, np.float32)
    dist.recv(torch.from_numpy(rows), source)
    return rows


def broadcast_tensors(tensors: Iterable[torch.Tensor]) -> None:
    """Overwrite tensors with those of rank 0."""
    if is_group_joined():
        for tensor in tensors:
            dist.broadcast(tensor, 0)


def broadcast_value(value: Any) -> Any:
    """Return the value of rank 0: tensors, numbers, strings, None, and lists and dictionaries of them.

    It is read as a checkpoint of torch's weights, so that what arrives cannot run code.
    """
    if not is_group_joined():
        return value
    is_source = dist.get_rank() == 0
    buffer = io.BytesIO()
    if is_source:
        torch.save(value, buffer)
    size = torch.tensor(buffer.tell())
    dist.broadcast(size, 0)
    content = torch.empty(int(size), dtype=torch.uint8)
    if is_source:
        content = torch.from_numpy(np.frombuffer(buffer.getbuffer(), dtype=np.uint8))
    dist.broadcast(content, 0)
    return (
        value if is_source else torch.load(io.BytesIO(content.numpy().tobytes()), map_location="cpu", weights_only=True)
    )


@contextmanager
def share_interruption() -> Iterator[None]:
    """Raise `Interrupted` on all ranks where the block raised it on one: a signal reaches them at different steps."""
    interruption: Interrupted | None = None
    try:
        yield
    except Interrupted as error:
        if not is_group_joined():
            raise
        interruption = error
    if sum_over_ranks(interruption is not None):
        raise interruption or Interrupted("a signal to another process")
