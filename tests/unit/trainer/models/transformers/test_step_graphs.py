from collections.abc import Callable

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import binary_cross_entropy_with_logits
from transformers import DistilBertConfig, DistilBertForSequenceClassification, PreTrainedModel

from trainingtask_api.training import Training
from trainingtask_trainer.models.transformers import packed_attention
from trainingtask_trainer.models.transformers.collation import Batch
from trainingtask_trainer.models.transformers.optimization import (
    accumulate_gradients,
    create_optimizer_and_scheduler,
)
from trainingtask_trainer.models.transformers.settings import Settings
from trainingtask_trainer.models.transformers.step_graphs import Function, StepGraphs

CONFIG = DistilBertConfig(
    vocab_size=100,
    dim=32,
    n_layers=2,
    n_heads=2,
    hidden_dim=64,
    num_labels=3,
    dropout=0.0,
    attention_dropout=0.0,
    seq_classif_dropout=0.0,
)


class CpuGraphs:
    """Replays a function on the tensors that it was captured with, as a CUDA graph does."""

    def __init__(self) -> None:
        self.captured = self.replayed = 0

    def capture(self, function: Function) -> tuple[Callable[[], None], torch.Tensor]:
        self.captured += 1
        result = torch.zeros(())

        def replay() -> None:
            self.replayed += 1
            result.copy_(function())

        return replay, result


@pytest.fixture
def model() -> PreTrainedModel:
    torch.manual_seed(0)
    model = DistilBertForSequenceClassification(CONFIG)
    packed_attention.enable_packing(model)
    return model.train()


def make_batch(lengths: tuple[int, ...], seed: int = 0) -> Batch:
    random = torch.Generator().manual_seed(seed)
    texts = [torch.randint(5, 90, (length,), generator=random).tolist() for length in lengths]
    labels = torch.randint(2, (len(lengths), 3), generator=random).float()
    return packed_attention.pack_with_slots(texts, CONFIG) | {"labels": labels}


def sum_losses(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    return binary_cross_entropy_with_logits(logits, truth, reduction="sum")


def take_steps(
    model: PreTrainedModel, steps: list[list[Batch]], graphs: StepGraphs | None
) -> list[tuple[float, list[torch.Tensor]]]:
    """Return the loss and the gradients of each step."""
    results = []
    for batches in steps:
        model.zero_grad()
        loss = accumulate_gradients(model, batches, sum_losses, torch.Tensor.backward, graphs=graphs)
        results.append((loss.item(), [part.grad.clone() for part in model.parameters() if part.grad is not None]))
    return results


def assert_same(
    found: list[tuple[float, list[torch.Tensor]]], expected: list[tuple[float, list[torch.Tensor]]]
) -> None:
    for (loss, gradients), (expected_loss, expected_gradients) in zip(found, expected, strict=True):
        assert loss == pytest.approx(expected_loss, rel=1e-6)
        torch.testing.assert_close(gradients, expected_gradients, rtol=1e-4, atol=1e-7)


def test_replayed_steps_have_the_losses_and_gradients_of_others(model: PreTrainedModel) -> None:
    short, long = (9, 9, 5), (40, 7, 3)
    steps = [[make_batch(lengths, seed)] for seed, lengths in enumerate([short, long, short, (8, 6, 9), long, short])]
    steps.append([make_batch(short, 10), make_batch(long, 11)])  # gradients of two micro-batches add up
    graphs = CpuGraphs()
    assert_same(take_steps(model, steps, StepGraphs(model, None, graphs.capture)), take_steps(model, steps, None))
    assert graphs.captured == 2, "lengths are rounded up to two shapes"
    assert graphs.replayed == 4


def test_what_is_seen_once_or_is_large_gets_no_graph(model: PreTrainedModel) -> None:
    graphs = CpuGraphs()
    take_steps(model, [[make_batch((9, 9))], [make_batch((9, 9, 9))]], StepGraphs(model, None, graphs.capture))
    take_steps(model, [[make_batch((70,))]] * 3, StepGraphs(model, 4 * 71, graphs.capture))
    assert graphs.captured == 0


def test_a_device_that_refuses_a_graph_trains_without(model: PreTrainedModel, caplog: pytest.LogCaptureFixture) -> None:
    def refuse(function: Function) -> tuple[Callable[[], None], torch.Tensor]:
        raise RuntimeError("operation not permitted when stream is capturing")

    steps = [[make_batch((9, 9), seed)] for seed in range(4)]
    assert_same(take_steps(model, steps, StepGraphs(model, None, refuse)), take_steps(model, steps, None))
    assert [record.message for record in caplog.records] == [
        "Steps are not launched as graphs: operation not permitted when stream is capturing"
    ]


def test_a_packed_batch_that_does_not_fit_is_halved(model: PreTrainedModel) -> None:
    batch = make_batch((20, 16, 12, 8, 4))
    forward = model.forward

    def run_out_of_memory(**inputs: torch.Tensor) -> object:
        if inputs["cu_seq_lens_q"][-1] > 30:
            raise torch.OutOfMemoryError
        return forward(**inputs)

    expected = take_steps(model, [[batch]], None)
    model.forward = run_out_of_memory
    assert_same(take_steps(model, [[batch]], StepGraphs(model, None, CpuGraphs().capture)), expected)


def test_a_step_reads_no_value_from_the_device() -> None:
    batch = make_batch((9, 70, 5))
    settings = Settings.from_spec(Training(), on_gpu=False)
    with FakeTensorMode() as fake:  # raises an error wherever Python or a shape depends on a tensor's value
        model = DistilBertForSequenceClassification(CONFIG)
        packed_attention.enable_packing(model)
        optimizer, scheduler = create_optimizer_and_scheduler(model, settings, total_steps=2)
        batches = [{name: fake.from_tensor(tensor) for name, tensor in batch.items()}]
        for _ in range(2):
            with torch.autocast("cpu", torch.bfloat16):
                accumulate_gradients(model, batches, sum_losses, torch.Tensor.backward)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad(set_to_none=False)
