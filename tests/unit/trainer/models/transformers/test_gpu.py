"""Training on a GPU that is there: the same numbers as on a CPU, in every precision, and within its memory."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from support.fine_tuning import LABELS, TEXTS, assert_same_numbers, fit, spec, stop_at, without_dropout
from support.tiny_models import FAMILIES
from trainingtask_api.task import TrainingTask
from trainingtask_api.training import Training
from trainingtask_trainer.errors import Interrupted
from trainingtask_trainer.models.transformers import memory_budget, optimization, packed_attention, step_graphs
from trainingtask_trainer.models.transformers.batch_planning import split_for_padding
from trainingtask_trainer.models.transformers.classifier import Transformer
from trainingtask_trainer.models.transformers.collation import Batch, move_to_device
from trainingtask_trainer.models.transformers.losses import create_loss_function
from trainingtask_trainer.models.transformers.settings import Settings
from trainingtask_trainer.preprocessors.embedding import Embedding
from trainingtask_trainer.volumes import Volumes

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")

GIB = 1 << 30
LOOPS = ("accelerate", "trainer")


def task(family: str = "bert", checkpoint: str | None = None, device: str = "gpu", **training: Any) -> dict[str, Any]:
    name = "auto" if family == "modernbert" else family
    return spec(name, checkpoint or family, **training) | {"device": device}


@pytest.mark.parametrize("family", FAMILIES)
def test_in_fp32_it_learns_what_a_cpu_learns(tiny_models: Path, tmp_path: Path, family: str) -> None:
    (tmp_path / family).symlink_to(tiny_models / family)
    quiet = without_dropout(tmp_path, family, tmp_path)
    gpu, cpu = (
        fit(task(family, quiet, device, precision="fp32", learningRate=1e-3), tmp_path) for device in ("gpu", "cpu")
    )
    losses = [[point.training_loss or point.validation_loss for point in run.fitted.curve] for run in (gpu, cpu)]
    assert len(losses[0]) == 2 * 7 + 2
    np.testing.assert_allclose(*losses, rtol=1e-4)
    np.testing.assert_allclose(gpu.probabilities, cpu.probabilities, atol=1e-3)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("family", ["bert", "xlnet"])
def test_both_loops_take_the_same_steps(tiny_models: Path, family: str, precision: str) -> None:
    one, other = (fit(task(family, loop=loop, precision=precision, epochs=3), tiny_models) for loop in LOOPS)
    assert_same_numbers(one, other)
    assert one.fitted == other.fitted
    assert all(weight.dtype == np.float32 for weight in one.weights().values())


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_follows_fp32(tiny_models: Path, precision: str) -> None:
    exact, rounded = (fit(task(precision=of, learningRate=1e-4), tiny_models) for of in ("fp32", precision))
    losses = [[point.training_loss or point.validation_loss for point in run.fitted.curve] for run in (exact, rounded)]
    assert losses[0] != losses[1]
    np.testing.assert_allclose(*losses, rtol=0.02)


def test_steps_launched_as_graphs_have_the_same_numbers(tiny_models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_attention, "IS_USED_ON_GPUS", True)
    captured: list[Any] = []
    capture = step_graphs.CudaGraphs.capture

    def spy(graphs: step_graphs.CudaGraphs, function: step_graphs.Function) -> Any:
        captured.append(capture(graphs, function))
        return captured[-1]

    monkeypatch.setattr(step_graphs.CudaGraphs, "capture", spy)
    launched_at_once = fit(task(epochs=3), tiny_models)
    assert captured
    monkeypatch.setattr(step_graphs, "_MAX_GRAPHS", 0)
    assert_same_numbers(launched_at_once, fit(task(epochs=3), tiny_models))


def test_auto_says_what_precision_it_chose(tiny_models: Path) -> None:
    arguments = fit(task(epochs=1), tiny_models).model.arguments()
    has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    assert arguments["training.precision"] == ("bf16" if has_bf16 else "fp32")


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("loop", LOOPS)
def test_a_stopped_training_ends_with_the_same_numbers(
    tiny_models: Path, tmp_path: Path, loop: str, precision: str
) -> None:
    spec = task(loop=loop, precision=precision, epochs=3, scheduler="cosine", warmupFraction=0.1)
    whole = fit(spec, tiny_models)

    with pytest.raises(Interrupted):
        fit(spec, tiny_models, progress=stop_at(9, Interrupted("SIGTERM")), checkpoints=tmp_path)
    resumed = fit(spec, tiny_models, checkpoints=tmp_path)
    assert resumed.fitted.resumed_from_step == 9
    assert_same_numbers(resumed, whole)


@pytest.fixture
def large() -> tuple[Any, Batch]:
    """Return a model of few weights and a batch of many activations: 32,768 tokens, 6 GB in one piece."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 1024}
    config = BertConfig(vocab_size=1000, num_labels=3, **sizes)
    model = BertForSequenceClassification(config).to("cuda").train(False)
    labels = (torch.rand(512, 3) < 0.5).float()
    return model, move_to_device([{"input_ids": torch.randint(1000, (512, 64)), "labels": labels}], model.device)[0]


def gradients(model: Any, batches: list[Batch]) -> tuple[float, list[torch.Tensor]]:
    model.zero_grad()
    loss_function = create_loss_function(Settings.from_spec(Training(), on_gpu=True), LABELS)
    loss = optimization.accumulate_gradients(model, batches, loss_function, torch.Tensor.backward)
    return loss.item(), [parameter.grad.clone() for parameter in model.parameters()]


@pytest.fixture
def cuts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return how many micro-batches there were each time that memory had run out."""
    seen: list[int] = []
    halved = optimization._halve_largest

    def spy(batches: list[Batch]) -> list[Batch]:
        seen.append(len(batches))
        return halved(batches)

    monkeypatch.setattr(optimization, "_halve_largest", spy)
    return seen


def test_a_batch_that_does_not_fit_is_cut_and_counts_as_one(large: tuple[Any, Batch], cuts: list[int]) -> None:
    model, batch = large
    loss, whole = gradients(model, [batch])
    assert cuts == []
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + GIB) / total)
    try:
        cut_loss, cut = gradients(model, [batch])
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert cuts[:2] == [1, 2]
    assert cut_loss == pytest.approx(loss, rel=1e-5)
    largest = max(gradient.abs().max().item() for gradient in whole)
    torch.testing.assert_close(cut, whole, rtol=0, atol=1e-4 * largest)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_micro_batches_are_planned_for_the_memory_that_is_free(
    large: tuple[Any, Batch], cuts: list[int], dtype: torch.dtype | None
) -> None:
    model, batch = large
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    taken = torch.empty(
        int(free - memory_budget._RESERVED_FRACTION * total - 2 * GIB), dtype=torch.uint8, device=model.device
    )
    parts = split_for_padding(range(512), [64] * 512, max_tokens=memory_budget.plan_memory(model, 64, dtype).max_tokens)
    assert 1 < len(parts) < 32
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    with torch.autocast("cuda", dtype, enabled=dtype is not None):
        gradients(model, [{name: tensor[part] for name, tensor in batch.items()} for part in parts])
    assert cuts == []
    assert 0.4 * GIB < torch.cuda.max_memory_allocated() - before < 2 * GIB  # cut, but no finer than needed
    del taken


def test_a_model_that_was_trained_on_a_gpu_answers_on_a_cpu(tiny_models: Path, tmp_path: Path) -> None:
    run = fit(task(epochs=1), tiny_models)
    run.model.save(tmp_path, run.tokenizer)
    np.testing.assert_allclose(Transformer.load(tmp_path)(TEXTS), run.probabilities, atol=1e-5)


def test_embeddings_are_those_of_a_cpu(
    tiny_models: Path, make_task: Callable[..., TrainingTask], volumes: Volumes
) -> None:
    vectors = []
    for device in ("gpu", "cpu"):
        described = {
            "dataset": {"name": "support_tickets"},
            "preprocessor": {"name": "embedding", "volumeClaim": "models", "checkpoint": "bert"},
            "model": {"name": "logistic_regression"},
            "device": device,
        }
        own = Volumes(volumes.dataset, volumes.model, volumes.output / device, tiny_models)
        vectors.append(Embedding(make_task(described).spec, own).transform(TEXTS))
    np.testing.assert_allclose(*vectors, atol=1e-5)
