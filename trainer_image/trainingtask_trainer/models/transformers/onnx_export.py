"""A fine-tuned transformer as an ONNX file: logits of token ids and an attention mask."""

import warnings
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trainingtask_api.exports import Format
from trainingtask_trainer.models.formats import MODEL_FILES, NotExportableError
from trainingtask_trainer.models.onnx.inputs import TokenInputs
from trainingtask_trainer.models.onnx.model import LOGITS
from trainingtask_trainer.preprocessors.base import TOKENIZER_FILE
from trainingtask_trainer.pretrained.families import SegmentIds, get_segments

OPSET = 18
_EXAMPLE_SHAPE = (3, 9)


class _Classifier(torch.nn.Module):
    """A classifier of the same two inputs in each family."""

    def __init__(self, model: PreTrainedModel, cls_token_id: int, segments: SegmentIds | None) -> None:
        super().__init__()
        self._model = model
        self._cls_token_id = cls_token_id
        self._segments = segments

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return the logits, shape [rows, labels]."""
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        if self._segments is not None:
            types = (input_ids == self._cls_token_id) * self._segments.classification
            inputs["token_type_ids"] = torch.where(attention_mask == 0, self._segments.padding, types)
        logits: torch.Tensor = self._model(**inputs).logits
        return logits


def write_classifier(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write the ONNX file of a classifier, whose weights are on the CPU from then on, beside its tokenizer's.

    torch's exporter by tracing: it writes what the model computes for example rows, with rows and tokens of any number.
    Its successor by `torch.export` takes 40 times as long, and refuses XLNet (docs/adr/0018-onnx.md).

    Raises
    ------
    NotExportableError
        When the tokenizer is written in Python, or torch cannot write the model.
    """
    if not (folder / TOKENIZER_FILE).is_file():
        raise NotExportableError(f"the tokenizer {type(tokenizer).__name__} has no {TOKENIZER_FILE}")
    torch.nn.Module.to(model, "cpu")  # the model's own `to` has no type
    model.set_attn_implementation("eager")
    cls_token_id = int(tokenizer.cls_token_id or 0)
    classifier = _Classifier(model, cls_token_id, get_segments(tokenizer)).eval()
    ids = torch.full(_EXAMPLE_SHAPE, cls_token_id)
    axes = {name: {0: "rows", 1: "tokens"} for name in TokenInputs.names}
    try:
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")  # about its end, and about each comparison of which it follows one side
            torch.onnx.export(
                classifier,
                (ids, torch.ones_like(ids)),
                folder / MODEL_FILES[Format.ONNX],
                dynamo=False,
                opset_version=OPSET,
                input_names=list(TokenInputs.names),
                output_names=[LOGITS],
                dynamic_axes=axes | {LOGITS: {0: "rows"}},
            )
    except RuntimeError as error:  # also of an operation without a counterpart, and of more than 2 GiB
        raise NotExportableError(f"torch cannot write this model as ONNX: {error}") from error
