"""The sum of all ranks' gradients, and which share of their time the ranks compute.

Not DistributedDataParallel: the ranks of a step may have different numbers of micro-batches, or none
(docs/adr/0013-gradients-are-summed-by-the-loop.md).
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist

from trainingtask_trainer.runtime.collectives import is_group_joined, sum_over_ranks

_BUCKET_BYTES = 25 << 20  # of gradients that are exchanged at once, as in DistributedDataParallel
_MARKS_PER_STEP = 4
_STEPS_PER_READING = 32  # reading the marks waits for the GPU


class GradientExchange:
    """Sums gradients and losses over the ranks, once in each optimizer step; does nothing with a single process."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._buckets: list[list[torch.nn.Parameter]] | None = None
        self._timer = StepTimer(self._parameters[0].device.type == "cuda") if is_group_joined() else None

    def sum_gradients(self, loss: torch.Tensor) -> torch.Tensor:
        """Replace each parameter's gradient by the sum over all ranks, a missing one counting as zeros.

        Parameters
        ----------
        loss
            This rank's part of the step's loss.

        Returns
        -------
        The sum of all parts; on a GPU reading it waits for the step.
        """
        if self._timer is None:
            return loss
        self._timer.mark()
        if self._buckets is None:
            self._buckets = _fill_buckets(_find_used(self._parameters))
        for bucket in self._buckets:
            _sum_bucket(bucket)
        loss = loss.clone()
        dist.all_reduce(loss)
        self._timer.mark()
        return loss

    @contextmanager
    def time_step(self) -> Iterator[None]:
        """Measure a step, in which `sum_gradients` is called once."""
        if self._timer is None:
            yield
            return
        self._timer.mark()
        yield
        self._timer.mark()

    def measure_efficiency(self) -> float | None:
        """Return the mean over all ranks of the share of their steps' time outside of the exchange; None for one process."""
        if self._timer is None:
            return None
        own, whole = self._timer.read()
        return sum_over_ranks(own / whole if whole else 1.0) / dist.get_world_size()


class StepTimer:
    """Measures steps by four marks each: start, start and end of the exchange, end."""

    def __init__(self, on_gpu: bool) -> None:
        self._on_gpu = on_gpu
        self._marks: list[Any] = []  # CUDA events, or seconds
        self._own_seconds = 0.0
        self._seconds = 0.0

    def mark(self) -> None:
        """Add the next mark, on a GPU without waiting for it but once in some steps."""
        if not self._on_gpu:
            self._marks.append(time.perf_counter())
        else:
            self._marks.append(torch.cuda.Event(enable_timing=True))  # type: ignore[no-untyped-call]
            self._marks[-1].record()
        if len(self._marks) == _MARKS_PER_STEP * _STEPS_PER_READING:
            self.read()

    def read(self) -> tuple[float, float]:
        """Return the seconds of all steps so far, first without those of the exchange."""
        marks, self._marks = self._marks, []
        if self._on_gpu and marks:
            marks[-1].synchronize()
        for start, exchange, exchanged, end in zip(*[iter(marks)] * _MARKS_PER_STEP, strict=True):
            seconds = self._measure(start, end)
            self._seconds += seconds
            self._own_seconds += seconds - self._measure(exchange, exchanged)
        return self._own_seconds, self._seconds

    def _measure(self, start: Any, end: Any) -> float:
        return float(start.elapsed_time(end)) / 1000 if self._on_gpu else float(end - start)


def _find_used(parameters: list[torch.nn.Parameter]) -> list[torch.nn.Parameter]:
    """Return the parameters that have a gradient on any rank: AdamW would decay an unused one whose gradient is 0."""
    is_used = torch.tensor([parameter.grad is not None for parameter in parameters], dtype=torch.uint8)
    dist.all_reduce(is_used, dist.ReduceOp.MAX)
    return [parameter for parameter, used in zip(parameters, is_used.tolist(), strict=True) if used]


def _fill_buckets(parameters: list[torch.nn.Parameter]) -> list[list[torch.nn.Parameter]]:
    buckets: list[list[torch.nn.Parameter]] = [[]]
    size = 0
    for parameter in parameters:
        if buckets[-1] and size + parameter.nbytes > _BUCKET_BYTES:
            buckets.append([])
            size = 0
        buckets[-1].append(parameter)
        size += parameter.nbytes
    return buckets


def _sum_bucket(bucket: list[torch.nn.Parameter]) -> None:
    gradients = [torch.zeros_like(part) if part.grad is None else part.grad for part in bucket]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    for parameter, total in zip(bucket, torch.split(flat, [gradient.numel() for gradient in gradients]), strict=True):
        parameter.grad = total.view_as(parameter)
