"""The JSON of requests and responses: this server's own, and the Open Inference Protocol, version 2.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import to_json

from trainingtask_trainer.artifacts.saved_model import Prediction, join_text_columns
from trainingtask_trainer.errors import UserError, join_names

MAX_TEXTS = 128
_MAX_ERRORS = 5000  # 16 tensors of 128 values have two each
_TEXT_INPUT = "text"
_PROBABILITIES, _LABELS, _LABEL_NAMES = "probabilities", "labels", "label_names"
_OUTPUTS = (_PROBABILITIES, _LABELS, _LABEL_NAMES)

_Text = Annotated[str, Field(max_length=100_000)]
_Name = Annotated[str, Field(max_length=200)]
_Parameters = dict[str, Any]
_Body = TypeVar("_Body", bound=BaseModel)


class RequestError(Exception):
    """A request that cannot be served: the HTTP status, and one sentence."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class Result(NamedTuple):
    """What a model gives for one text."""

    prediction: Prediction
    probabilities: NDArray[np.float64]
    """Of all labels, shape [labels]."""


class _Payload(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class PredictRequest(_Payload):
    """The body of ``POST /predict``."""

    texts: Annotated[list[_Text], Field(min_length=1, max_length=MAX_TEXTS)] | None = None
    rows: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=MAX_TEXTS)] | None = None

    @model_validator(mode="after")
    def _check(self) -> "PredictRequest":
        if (self.texts is None) == (self.rows is None):
            raise ValueError("give either 'texts', a list of strings, or 'rows', a list of objects")
        return self

    def read_texts(self, columns: Sequence[str]) -> list[str]:
        """Return the texts; of rows, the model's text columns."""
        if self.texts is not None:
            return self.texts
        if not columns:
            raise RequestError(422, "this model has no text columns: send 'texts', a list of strings")
        return [_join_columns(row, columns) for row in self.rows or ()]


class _InputTensor(_Payload):
    name: _Name
    shape: Annotated[list[Annotated[int, Field(ge=1, le=MAX_TEXTS)]], Field(min_length=1, max_length=2)]
    datatype: Literal["BYTES"]
    parameters: _Parameters | None = None
    data: Annotated[
        list[_Text | Annotated[list[_Text], Field(min_length=1, max_length=1)]], Field(max_length=MAX_TEXTS)
    ]

    @model_validator(mode="after")
    def _check(self) -> "_InputTensor":
        if math.prod(self.shape) != self.shape[0] or len(self.data) != self.shape[0]:
            raise ValueError(
                f"the shape {self.shape} is not that of {len(self.data)} texts: give [{len(self.data)}] or [{len(self.data)}, 1]"
            )
        return self

    def read_texts(self) -> list[str]:
        """Return the texts, shape [texts] or [texts, 1]."""
        return [cell if isinstance(cell, str) else cell[0] for cell in self.data]


class _OutputTensor(_Payload):
    name: Literal["probabilities", "labels", "label_names"]
    parameters: _Parameters | None = None


class InferRequest(_Payload):
    """The body of ``POST /v2/models/NAME/infer``."""

    id: _Name | None = None
    parameters: _Parameters | None = None
    inputs: Annotated[list[_InputTensor], Field(min_length=1, max_length=16)]
    outputs: Annotated[list[_OutputTensor], Field(max_length=len(_OUTPUTS))] | None = None

    @field_validator("outputs")
    @classmethod
    def _check_outputs(cls, outputs: list[_OutputTensor] | None) -> list[_OutputTensor] | None:
        if outputs and len({output.name for output in outputs}) < len(outputs):
            raise ValueError("name each output once")
        return outputs

    def read_texts(self, columns: Sequence[str]) -> list[str]:
        """Return the texts: those of the tensor 'text', or one tensor for each of the model's text columns."""
        tensors = {tensor.name: tensor.read_texts() for tensor in self.inputs}
        if list(tensors) == [_TEXT_INPUT] and len(self.inputs) == 1:
            return tensors[_TEXT_INPUT]
        if len(tensors) < len(self.inputs) or set(tensors) != set(columns):
            allowed = f"'{_TEXT_INPUT}'" + (f", or {join_names(columns, limit=16)} together" if columns else "")
            raise RequestError(
                422,
                f"inputs: {join_names([tensor.name for tensor in self.inputs])} is refused: this model reads {allowed}",
            )
        if len({len(texts) for texts in tensors.values()}) > 1:
            raise RequestError(422, "inputs: all tensors must have as many texts as the first one")
        rows = zip(*tensors.values(), strict=True)
        return [_join_columns(dict(zip(tensors, cells, strict=True)), columns) for cells in rows]


def parse_body(kind: type[_Body], body: bytes) -> _Body:
    """Return a request's body; refuse what is not JSON with 400, and what is not such an object with 422."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        if error.error_count() > _MAX_ERRORS:  # pydantic makes an object of each
            raise RequestError(422, f"the body: {error.error_count()} of its values and names are refused") from error
        first = error.errors(include_url=False, include_input=False)[0]
        if first["type"] == "json_invalid":
            raise RequestError(400, f"the body is not JSON: {first['ctx']['error']}") from error
        field = ".".join(map(str, first["loc"]))[:200] or "the body"
        raise RequestError(422, f"{field}: {first['msg'].removeprefix('Value error, ')}") from error


def encode_predictions(results: Sequence[Result]) -> bytes:
    """Return the response to ``POST /predict``: the labels of each text, as ``predict --json`` has them."""
    return (
        b'{"predictions":[' + _join(to_json({"labels": result.prediction.list_labels()}) for result in results) + b"]}"
    )


def describe_model(name: str, model: str, labels: int, columns: Sequence[str]) -> dict[str, Any]:
    """Return the metadata of the model."""
    inputs = [{"name": column, "datatype": "BYTES", "shape": [-1]} for column in columns or [_TEXT_INPUT]]
    shapes = {_PROBABILITIES: [-1, labels], _LABELS: [-1], _LABEL_NAMES: [labels]}
    outputs = [
        {"name": output, "datatype": "FP64" if output == _PROBABILITIES else "BYTES", "shape": shapes[output]}
        for output in _OUTPUTS
    ]
    return {"name": name, "platform": f"trainingtask_{model}", "inputs": inputs, "outputs": outputs}


def encode_infer_response(name: str, labels: Sequence[str], request: InferRequest, results: Sequence[Result]) -> bytes:
    """Return the response of the Open Inference Protocol.

    Its tensors: ``probabilities`` of shape [texts, labels]; ``labels``, a JSON array of the predicted ones for each text;
    ``label_names`` of shape [labels], the order of the probabilities.
    """
    tensors: dict[str, tuple[list[int], str, Callable[[], bytes]]] = {
        _PROBABILITIES: (
            [len(results), len(labels)],
            "FP64",
            lambda: _join(to_json(result.probabilities.tolist())[1:-1] for result in results),
        ),
        _LABELS: (
            [len(results)],
            "BYTES",
            lambda: _join(
                to_json(json.dumps(list(result.prediction.labels), ensure_ascii=False)) for result in results
            ),
        ),
        _LABEL_NAMES: ([len(labels)], "BYTES", lambda: to_json(list(labels))[1:-1]),
    }
    wanted = [output.name for output in request.outputs] if request.outputs else _OUTPUTS
    response = {"model_name": name} | ({"id": request.id} if request.id is not None else {})
    outputs = []
    for output in wanted:
        shape, datatype, encode_data = tensors[output]
        tensor = to_json({"name": output, "shape": shape, "datatype": datatype})
        outputs.append(tensor[:-1] + b',"data":[' + encode_data() + b"]}")
    return to_json(response)[:-1] + b',"outputs":[' + _join(outputs) + b"]}"


def _join(parts: Iterable[bytes]) -> bytes:
    """Return JSON values as a list's content; each is encoded on its own, as the encoder stops all threads meanwhile."""
    return b",".join(parts)


def _join_columns(row: Mapping[str, Any], columns: Sequence[str]) -> str:
    try:
        return join_text_columns(row, columns)
    except UserError as error:
        raise RequestError(422, error.message) from error
