"""Both loops take the same steps, each of which is one large batch however it is cut."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from support.fine_tuning import LABELS, NAMES, TEXTS, InDoublePrecision, Run, fit, spec, without_dropout
from trainingtask_api.task import TrainingTask
from trainingtask_api.training import Training
from trainingtask_trainer.errors import UserError
from trainingtask_trainer.models.transformers import classifier, training_state
from trainingtask_trainer.models.transformers.batch_planning import split_for_padding
from trainingtask_trainer.models.transformers.classifier import Transformer
from trainingtask_trainer.models.transformers.collation import Batch, Collator, MicroBatchDataset
from trainingtask_trainer.models.transformers.losses import (
    compute_focal_loss,
    compute_initial_bias,
    create_loss_function,
)
from trainingtask_trainer.models.transformers.optimization import accumulate_gradients
from trainingtask_trainer.models.transformers.settings import Settings
from trainingtask_trainer.preprocessors.padding import pad
from trainingtask_trainer.preprocessors.tokenizer import Tokenizer
from trainingtask_trainer.reporting.progress import Step
from trainingtask_trainer.volumes import Volumes

LOOPS = ("accelerate", "trainer")


class Losses(list[float]):
    """Every step's loss of the runs so far."""

    def of(
        self, run_spec: dict[str, Any], models: Path, kind: type[Transformer] = Transformer
    ) -> tuple[list[float], Run]:
        self.clear()
        run = fit(run_spec, models, kind=kind)
        return list(self), run


@pytest.fixture
def losses(monkeypatch: pytest.MonkeyPatch) -> Losses:
    seen = Losses()
    record_step = training_state.TrainingSession.record_step

    def spy(self: training_state.TrainingSession, loss: torch.Tensor, rows: int, tokens: int) -> None:
        seen.append(loss.item())
        record_step(self, loss, rows, tokens)

    monkeypatch.setattr(training_state.TrainingSession, "record_step", spy)
    return seen


def assert_same(first: tuple[list[float], Run], second: tuple[list[float], Run], tolerance: float = 0.0) -> None:
    np.testing.assert_allclose(first[0], second[0], rtol=tolerance, atol=0)
    for name, weight in first[1].weights().items():
        np.testing.assert_allclose(weight, second[1].weights()[name], rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("family", ["bert", pytest.param("roberta", marks=pytest.mark.full), "xlnet"])
@pytest.mark.parametrize(
    "training",
    [
        {},
        {"precision": "bf16", "gradientAccumulationSteps": 2, "scheduler": "cosine", "warmupFraction": 0.2},
        {"loss": "focal", "batching": "length_grouped", "maxGradientNorm": 0, "weightDecay": 0.5},
        {
            "posWeight": "balanced",
            "scheduler": "constant",
            "warmupFraction": 0.5,
            "layerDecay": 0.8,
            "maxGradientNorm": 0.01,
        },
    ],
    ids=lambda training: "-".join(map(str, training.values())) or "default",
)
def test_both_loops_take_the_same_steps(
    tiny_models: Path, losses: Losses, family: str, training: dict[str, Any]
) -> None:
    # With dropout: even the random numbers are the same.
    one, other = (losses.of(spec(family, epochs=3, loop=loop, **training), tiny_models) for loop in LOOPS)
    assert len(one[0]) == 3 * -(-len(TEXTS) // (6 * training.get("gradientAccumulationSteps", 1)))
    assert_same(one, other)
    assert one[1].fitted == other[1].fitted


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("family", ["distilbert", "xlnet"])
def test_accumulated_batches_are_one_large_batch(
    tiny_models: Path, tmp_path: Path, losses: Losses, family: str, loop: str
) -> None:
    models = tmp_path
    (models / family).symlink_to(tiny_models / family)
    quiet = without_dropout(models, family, models)
    large, small = (
        losses.of(spec(family, quiet, loop=loop, learningRate=1e-3, **batches), models, InDoublePrecision)
        for batches in ({"batchSize": 12}, {"batchSize": 3, "gradientAccumulationSteps": 4})
    )
    assert len(large[0]) == len(small[0]) == 8
    assert_same(large, small, tolerance=1e-6)  # the loss itself is a sum in float32


@pytest.mark.parametrize("family", ["albert", "bert", "distilbert", "roberta", "xlnet", "modernbert"])
def test_gradients_are_those_of_one_padded_batch(tiny_models: Path, family: str) -> None:
    name = "auto" if family == "modernbert" else family
    volumes = Volumes(tiny_models, tiny_models, tiny_models / "out")
    task = {"metadata": {"name": "t"}, "apiVersion": "trainingtask.dev/v1alpha1", "kind": "TrainingTask"}
    parsed = TrainingTask.model_validate(task | {"spec": spec(name, family)})
    tokenizer = Tokenizer(parsed.spec, volumes)
    ids = list(tokenizer.transform(TEXTS[:7]))
    labels = torch.from_numpy(LABELS[:7].astype(np.float32))

    def model() -> Any:
        torch.manual_seed(0)  # the head's weights
        loaded = AutoModelForSequenceClassification.from_pretrained(tiny_models / family, num_labels=3)
        return loaded.double().train(False)  # so that rounding hides no real difference, on any processor

    padded = model()
    logits = padded(**pad(tokenizer.tokenizer, ids)).logits.float()  # as the step does it
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
    expected.backward()

    cut = model()
    collator = Collator(cut, tokenizer.tokenizer)
    rows = collator.split(range(7), [len(text) for text in ids], max_tokens=16)
    assert len(rows) > 1
    batches = [collator.collate([ids[row] for row in part]) | {"labels": labels[part]} for part in rows]
    loss_function = create_loss_function(Settings.from_spec(Training(), on_gpu=False), LABELS)
    loss = accumulate_gradients(cut, batches, loss_function, lambda part: part.backward())

    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    gradients = dict(cut.named_parameters())
    largest = max(tensor.grad.abs().max().item() for tensor in padded.parameters() if tensor.grad is not None)
    for parameter, tensor in padded.named_parameters():
        if tensor.grad is None:  # XLNet's stream for pretraining
            assert gradients[parameter].grad is None
        else:
            torch.testing.assert_close(gradients[parameter].grad, tensor.grad, rtol=0, atol=1e-6 * largest)


def test_a_micro_batch_that_does_not_fit_on_a_gpu_is_cut_further() -> None:
    class Small(torch.nn.Linear):
        """Has memory for three rows."""

        def forward(self, input_ids: torch.Tensor) -> Any:
            if len(input_ids) > 3:
                raise torch.OutOfMemoryError
            return type("Output", (), {"logits": super().forward(input_ids)})

    torch.manual_seed(0)
    model, data, labels = Small(4, 2), torch.randn(10, 4), torch.randint(0, 2, (10, 2)).float()
    batches: list[Batch] = [
        {"input_ids": data[:2], "labels": labels[:2]},
        {"input_ids": data[2:], "labels": labels[2:]},
    ]
    loss_function = create_loss_function(Settings.from_spec(Training(), on_gpu=False), LABELS)
    loss = accumulate_gradients(model, batches, loss_function, lambda part: part.backward())
    expected = torch.nn.functional.binary_cross_entropy_with_logits(data @ model.weight.T + model.bias, labels)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    (gradient,) = torch.autograd.grad(expected, [model.weight])
    torch.testing.assert_close(model.weight.grad, gradient)

    class NoMemory(Small):
        def forward(self, input_ids: torch.Tensor) -> Any:
            raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        accumulate_gradients(NoMemory(4, 2), batches, loss_function, lambda part: part.backward())


@pytest.mark.parametrize(
    ("on_gpu", "has_bf16", "chosen"), [(False, True, "fp32"), (True, False, "fp32"), (True, True, "bf16")]
)
def test_auto_says_what_precision_it_chose(
    monkeypatch: pytest.MonkeyPatch, on_gpu: bool, has_bf16: bool, chosen: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bf16)
    settings = Settings.from_spec(Training(), on_gpu=on_gpu)
    assert settings.arguments()["training.precision"] == chosen
    assert settings.autocast_dtype == (torch.bfloat16 if chosen == "bf16" else None)


def test_losses_against_their_formulas() -> None:
    logits = torch.tensor([[0.5, -2.0, 3.0], [0.0, 1.0, -30.0]], dtype=torch.float64)
    truth = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]], dtype=torch.float64)
    p = torch.where(truth == 1, torch.sigmoid(logits), torch.sigmoid(-logits))
    assert compute_focal_loss(logits, truth).item() == pytest.approx((-((1 - p) ** 2) * p.log()).sum().item())

    labels = np.array([[1, 0, 0], [0, 0, 1], [0, 0, 1], [0, 0, 1]], dtype=np.uint8)
    balanced = Settings.from_spec(Training.model_validate({"posWeight": "balanced"}), on_gpu=False)
    weights = torch.tensor([3.0, 4.0, 1 / 3])  # without a positive: as if there were one
    expected = -(torch.where(truth == 1, weights.double(), 1.0) * p.log()).sum()
    assert create_loss_function(balanced, labels)(logits.float(), truth.float()).item() == pytest.approx(
        expected.item(), rel=1e-6
    )
    plain = Settings.from_spec(Training(), on_gpu=False)
    assert create_loss_function(plain, labels)(logits, truth).item() == pytest.approx(-p.log().sum().item())

    prior = np.array([1.5, 0.5, 3.5]) / 5
    np.testing.assert_allclose(compute_initial_bias(plain, labels), np.log(prior / (1 - prior)))
    # Balanced, the best constant answer is close to even odds.
    np.testing.assert_allclose(
        compute_initial_bias(balanced, labels),
        np.log(prior / (1 - prior)) + np.log(weights.double().numpy()),
        rtol=1e-6,
    )


@pytest.mark.parametrize("loop", LOOPS)
def test_gradients_are_clipped(tiny_models: Path, loop: str) -> None:
    # Below Adam's epsilon of 1e-8 even the normalised step is next to nothing.
    still, moving = (
        fit(spec(loop=loop, epochs=1, maxGradientNorm=norm), tiny_models).weights()["classifier.weight"]
        for norm in (1e-13, 0)
    )
    start = fit(spec(loop=loop, epochs=1, learningRate=1e-12), tiny_models).weights()["classifier.weight"]
    assert np.abs(still - start).max() < 1e-3 < np.abs(moving - start).max()


def scripted(monkeypatch: pytest.MonkeyPatch, scores: list[float | None]) -> None:
    """Let the validation after each epoch come out with these scores."""
    script = iter(scores)
    monkeypatch.setattr(training_state, "mean_average_precision", lambda truth, probabilities: next(script))


@pytest.mark.parametrize("loop", LOOPS)
def test_the_best_epochs_weights_are_kept_and_patience_ends_the_training(
    tiny_models: Path, monkeypatch: pytest.MonkeyPatch, loop: str
) -> None:
    by_epoch: list[dict[str, Any]] = []
    end_epoch = training_state.TrainingSession._validate_epoch

    def spy(self: training_state.TrainingSession) -> None:
        end_epoch(self)
        by_epoch.append({name: tensor.numpy().copy() for name, tensor in self._model.state_dict().items()})

    monkeypatch.setattr(training_state.TrainingSession, "_validate_epoch", spy)
    scripted(monkeypatch, [0.2, 0.7, 0.7, 0.1, 0.9])
    run = fit(spec(loop=loop, epochs=5, earlyStoppingPatience=2), tiny_models)
    assert (run.fitted.best_epoch, run.fitted.global_step, len(by_epoch)) == (2, 28, 4)  # of equal ones the first
    for name, weight in run.weights().items():
        np.testing.assert_array_equal(weight, by_epoch[1][name])

    scripted(monkeypatch, [0.2, 0.7, 0.7, 0.1, 0.9])
    run = fit(spec(loop=loop, epochs=5), tiny_models)
    assert (run.fitted.best_epoch, run.fitted.global_step) == (5, 35)
    for name, weight in run.weights().items():
        np.testing.assert_array_equal(weight, by_epoch[-1][name])


def test_without_a_positive_validation_label_the_loss_decides(
    tiny_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, [None] * 3)
    losses = iter([0.5, 0.3, 0.4])
    monkeypatch.setattr(training_state, "binary_cross_entropy", lambda truth, probabilities: next(losses))
    assert fit(spec(epochs=3), tiny_models).fitted.best_epoch == 2


def test_what_is_told_of_the_training(tiny_models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, [0.25, 0.5])
    reported: list[Step] = []
    run = fit(spec(epochs=2, batchSize=10), tiny_models, progress=reported.append)
    steps = list(dict.fromkeys((step.epoch, step.step, step.rows) for step in reported))
    assert steps == [
        (1, 0, 0), (1, 1, 10), (1, 2, 20), (1, 3, 30), (1, 4, 40), (2, 5, 50), (2, 6, 60), (2, 7, 70), (2, 8, 80),
    ]  # fmt: skip
    assert {(step.epochs, step.total_steps, step.resumed_from) for step in reported} == {(2, 8, None)}
    assert [step.loss is None for step in reported] == [True] + [False] * (len(reported) - 1)

    fitted = run.fitted
    assert (fitted.rows_seen, fitted.tokens_seen) == (80, 2 * sum(run.features.lengths))
    by_step = {step.step: step.loss for step in reported if step.step}
    assert fitted.training_loss == pytest.approx(np.mean(list(by_step.values())))
    points = [(point.step, point.training_loss) for point in fitted.curve if point.training_loss is not None]
    assert points == list(by_step.items())
    validated = [point for point in fitted.curve if point.training_loss is None]
    assert [(point.step, point.mean_average_precision) for point in validated] == [(4, 0.25), (8, 0.5)]


def test_the_curve_of_a_long_training_is_short(tiny_models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_state, "_MAX_LOSS_POINTS", 20)
    monkeypatch.setattr(training_state, "_MAX_EPOCH_POINTS", 5)
    curve = fit(spec("distilbert", epochs=6, batchSize=10, loop="accelerate"), tiny_models).fitted.curve
    assert len(curve) == 24 / 2 + 6 / 2  # one point for two steps, and for two epochs
    assert curve[-1].step == 24


@pytest.mark.parametrize("loop", LOOPS)
def test_a_loss_that_is_no_number_is_not_tried_again(
    tiny_models: Path, monkeypatch: pytest.MonkeyPatch, loop: str
) -> None:
    monkeypatch.setattr(
        classifier, "create_loss_function", lambda *_: lambda logits, truth: logits.sum() * float("nan")
    )
    with pytest.raises(UserError, match=r"the loss is nan at step 1: lower training.learningRate") as caught:
        fit(spec(loop=loop), tiny_models)
    assert caught.value.reason == "NonFiniteLoss"


def test_bf16_follows_fp32_closely_but_not_exactly(tiny_models: Path, losses: Losses) -> None:
    exact, rounded = (
        losses.of(spec(precision=precision, loop="accelerate", learningRate=1e-4), tiny_models)
        for precision in ("fp32", "bf16")
    )
    assert exact[0] != rounded[0]
    np.testing.assert_allclose(exact[0], rounded[0], rtol=0.02)
    assert all(weight.dtype == np.float32 for weight in rounded[1].weights().values())


def test_the_labels_stay_beside_their_texts(tiny_models: Path, make_task: Any) -> None:
    tokenizer = Tokenizer(make_task(spec("xlnet")).spec, Volumes(tiny_models, tiny_models, tiny_models / "out"))
    model = AutoModelForSequenceClassification.from_pretrained(tiny_models / "xlnet", num_labels=len(NAMES))
    ids = tokenizer.transform(TEXTS)
    rows = MicroBatchDataset(Collator(model, tokenizer.tokenizer), ids, LABELS)
    for cut in split_for_padding(range(len(TEXTS)), ids.lengths):
        batch = rows[cut]
        for place, row in enumerate(cut):
            assert batch["input_ids"][place][batch["attention_mask"][place] == 1].tolist() == ids[row]
            assert batch["labels"][place].tolist() == LABELS[row].tolist()
