"""A transformer as an ONNX file, from token ids and an attention mask to the logits of labels, or to a text's vector."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel, PreTrainedTokenizerBase
from transformers.masking_utils import eager_mask

from trainingtask_api.exports import Format
from trainingtask_trainer.models.formats import MODEL_FILES, NotExportableError
from trainingtask_trainer.models.onnx.graphs import OPSET, VECTORS
from trainingtask_trainer.models.onnx.inputs import TokenInputs
from trainingtask_trainer.models.onnx.model import LOGITS
from trainingtask_trainer.models.transformers.packed_attention import can_pack, project_keys_and_values
from trainingtask_trainer.preprocessors.base import TOKENIZER_FILE
from trainingtask_trainer.preprocessors.embedding import pool
from trainingtask_trainer.pretrained.families import SegmentIds, get_family, get_segments

_ATTENTION_NAME = "eager_of_first_token"
_EXAMPLE_SHAPE = (3, 9)


class _Reader(torch.nn.Module):
    """A model of the same two inputs in each family."""

    def __init__(self, model: PreTrainedModel, cls_token_id: int, segments: SegmentIds | None) -> None:
        super().__init__()
        self._model = model
        self._cls_token_id = cls_token_id
        self._segments = segments

    def _read(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        """Return what the model gives for ids and mask, each of shape [rows, tokens]."""
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        if self._segments is not None:
            types = (input_ids == self._cls_token_id) * self._segments.classification
            inputs["token_type_ids"] = torch.where(attention_mask == 0, self._segments.padding, types)
        return self._model(**inputs)


class _Classifier(_Reader):
    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return the logits, shape [rows, labels]."""
        logits: torch.Tensor = self._read(input_ids, attention_mask).logits
        return logits


class _Encoder(_Reader):
    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return the vectors, shape [rows, hidden size]."""
        return pool(self._read(input_ids, attention_mask).last_hidden_state, attention_mask)


def write_classifier(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write the ONNX file of a classifier, whose weights are on the CPU from then on, beside its tokenizer's.

    Raises
    ------
    NotExportableError
        When the tokenizer is written in Python, or torch cannot write the model.
    """
    with _read_first_token_alone(model):
        _write(_Classifier, model, tokenizer, folder, LOGITS)


def write_encoder(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write the ONNX file of an encoder, with the output `VECTORS`, as `write_classifier` does.

    Raises
    ------
    NotExportableError
        When the tokenizer is written in Python, or torch cannot write the model.
    """
    model.set_attn_implementation("eager")
    _write(_Encoder, model, tokenizer, folder, VECTORS)


def _write(
    reader: type[_Reader], model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, output: str
) -> None:
    """Write the ONNX file of what a reader computes, as `output`.

    torch's exporter by tracing: it writes what the model computes for example rows, with rows and tokens of any number.
    Its successor by `torch.export` takes 40 times as long, and refuses XLNet (docs/adr/0018-onnx.md).
    """
    if not (folder / TOKENIZER_FILE).is_file():
        raise NotExportableError(f"the tokenizer {type(tokenizer).__name__} has no {TOKENIZER_FILE}")
    torch.nn.Module.to(model, "cpu")  # the model's own `to` has no type
    cls_token_id = int(tokenizer.cls_token_id or 0)
    traced = reader(model, cls_token_id, get_segments(tokenizer)).eval()
    ids = torch.full(_EXAMPLE_SHAPE, cls_token_id)
    axes = {name: {0: "rows", 1: "tokens"} for name in TokenInputs.names}
    try:
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")  # about its end, and about each comparison of which it follows one side
            torch.onnx.export(
                traced,
                (ids, torch.ones_like(ids)),
                folder / MODEL_FILES[Format.ONNX],
                dynamo=False,
                opset_version=OPSET,
                input_names=list(TokenInputs.names),
                output_names=[output],
                dynamic_axes=axes | {output: {0: "rows"}},
            )
    except RuntimeError as error:  # also of an operation without a counterpart, and of more than 2 GiB
        raise NotExportableError(f"torch cannot write this model as ONNX: {error}") from error


@contextmanager
def _read_first_token_alone(model: PreTrainedModel) -> Iterator[None]:
    """Have the last layer compute the first token of each row alone while entered, where the head reads no other.

    It attends to all tokens. The kernels of a MiniLM in int8 take 7 % less time (docs/adr/0018-onnx.md).
    """
    family = get_family(model.config.model_type)
    model.set_attn_implementation("eager")
    if not can_pack(model.config) or family.has_shared_layers:
        yield
        return
    AttentionInterface.register(_ATTENTION_NAME, _attend)
    AttentionMaskInterface.register(_ATTENTION_NAME, eager_mask)
    model.set_attn_implementation(_ATTENTION_NAME)
    last_layer = getattr(model.base_model, family.packing_encoder or "").layer[-1]
    hook = last_layer.register_forward_pre_hook(_select_first_token_hook, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()
        model.set_attn_implementation("eager")


def _select_first_token_hook(module: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
    """Give a layer [rows, 1, hidden] instead of [rows, tokens, hidden], and its attention the rest."""
    hidden, *others = args
    return (hidden[:, :1], *others), kwargs | {"all_hidden_states": hidden}


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    *,
    scaling: float,
    all_hidden_states: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend to all tokens; the signature is that of transformers' attention functions.

    With `all_hidden_states`, shape [rows, tokens, hidden], `query`, `key` and `value` are those of each row's first token.
    """
    if all_hidden_states is not None:
        key, value = project_keys_and_values(module, all_hidden_states, query.shape[1])
    # Each token of a row attends to the same ones, so the mask of the first token is that of all.
    weights = (query @ key.transpose(2, 3) * scaling + attention_mask[:, :, :1]).softmax(-1)
    return (weights @ value).transpose(1, 2), None
