"""The forward and backward pass of a packed micro-batch as one launch: a CUDA graph for each of its shapes.

A step of 32 short texts is several hundred kernels of some microseconds each, which Python launches more slowly than a GPU
runs them. A graph launches them all at once. Its kernels read and write fixed memory: the batch is copied into the graph's
own tensors, and a step whose gradients were set to None gets those of the first step again, set to zero (see
docs/adr/0015-cuda-graphs.md).
"""

import logging
from collections.abc import Callable
from typing import NamedTuple

import torch

from trainingtask_trainer.models.transformers.collation import Batch

_MAX_GRAPHS = 64
# Beyond it a GPU takes longer for the kernels than Python for their launches: an H100 reads 4,000 to 43,000 tokens in the
# time of a micro-batch's launches.
_MAX_TOKENS = 16_384
# Of the tokens that fit into memory: what a graph allocates stays allocated beside that of other steps.
_MAX_MEMORY_SHARE = 4

logger = logging.getLogger(__name__)

Function = Callable[[], torch.Tensor]
Capture = Callable[[Function], tuple[Callable[[], None], torch.Tensor]]
"""A function, which is not run yet, to what replays it and the tensor in which its result will be."""


class _Graph(NamedTuple):
    inputs: Batch
    replay: Callable[[], None]
    loss: torch.Tensor


class StepGraphs:
    """Runs micro-batches of one model; those of a shape that it has seen before by replaying a graph."""

    def __init__(self, model: torch.nn.Module, max_tokens: int | None, capture: Capture | None = None) -> None:
        """Capture micro-batches of up to a quarter of `max_tokens`, which fit into memory (None: without a limit)."""
        self._parameters = list(model.parameters())
        self._gradients: list[torch.Tensor | None] = [None] * len(self._parameters)
        self._max_tokens = _MAX_TOKENS if max_tokens is None else min(_MAX_TOKENS, max_tokens // _MAX_MEMORY_SHARE)
        self._capture = capture or CudaGraphs().capture
        self._graphs: dict[object, _Graph | None] = {}  # None: seen once
        self._is_enabled = True

    def run(self, backpropagate: Callable[[Batch], torch.Tensor], batch: Batch, decisions: int) -> torch.Tensor:
        """Add the gradients of a micro-batch.

        Parameters
        ----------
        backpropagate
            Adds them and returns the loss; reads nothing that changes but its argument, the weights and `decisions`.
        batch
            On the model's device.
        decisions
            What the loss is divided by.

        Returns
        -------
        The loss, until the next call.
        """
        self._restore_gradients()
        loss = self._run(backpropagate, batch, decisions)
        self._gradients = [parameter.grad for parameter in self._parameters]
        return loss

    def _restore_gradients(self) -> None:
        """Give the parameters whose gradients were set to None those that the graphs add to, with zeros."""
        missing = [
            (parameter, gradient)
            for parameter, gradient in zip(self._parameters, self._gradients, strict=True)
            if parameter.grad is None and gradient is not None
        ]
        if missing:
            torch._foreach_zero_([gradient for _, gradient in missing])
        for parameter, gradient in missing:
            parameter.grad = gradient

    def _run(self, backpropagate: Callable[[Batch], torch.Tensor], batch: Batch, decisions: int) -> torch.Tensor:
        if not self._is_enabled or "token_of_slot" not in batch or batch["input_ids"].numel() > self._max_tokens:
            return backpropagate(batch)
        key = (decisions, *(tensor.shape for tensor in batch.values()))
        if key not in self._graphs:
            # The first run initializes what must not be initialized in a capture, and allocates the gradients.
            if len(self._graphs) < _MAX_GRAPHS:
                self._graphs[key] = None
            return backpropagate(batch)
        graph = self._graphs[key] or self._add_graph(key, backpropagate, batch)
        if graph is None:
            return backpropagate(batch)
        for name, tensor in graph.inputs.items():
            tensor.copy_(batch[name], non_blocking=True)
        graph.replay()
        return graph.loss

    def _add_graph(self, key: object, backpropagate: Callable[[Batch], torch.Tensor], batch: Batch) -> _Graph | None:
        """Return the graph of a micro-batch, None where the device cannot capture it."""
        inputs = {name: tensor.clone() for name, tensor in batch.items()}
        try:
            graph = _Graph(inputs, *self._capture(lambda: backpropagate(inputs)))
        except RuntimeError as error:  # torch has no narrower class for what CUDA refuses
            logger.warning("Steps are not launched as graphs: %s", error)
            self._is_enabled = False
            self._graphs.clear()
            return None
        self._graphs[key] = graph
        return graph


class CudaGraphs:
    """Captures CUDA graphs that share their memory, because no two of them run at the same time."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def capture(self, function: Function) -> tuple[Callable[[], None], torch.Tensor]:
        """Return the graph's replay and the result's tensor."""
        graph = torch.cuda.CUDAGraph()
        # By default a capture fails when any thread calls the driver, as NCCL's watchdog does.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            result = function()
        return graph.replay, result
