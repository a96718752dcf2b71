"""The formats that a trained model is written in, and what each of them costs."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from trainingtask_api.rules import Contract


class Format(StrEnum):
    """A file format of a trained model."""

    SAFETENSORS = "safetensors"
    SKOPS = "skops"
    ONNX = "onnx"
    ONNX_INT8 = "onnx_int8"


class Export(Contract):
    """A model in a format beside its own, scored on the test rows with ONNX Runtime."""

    format: Format = Field(description="The format.")
    is_written: bool = Field(description="Whether it lies in the model's folder; not when it costs too much F1.")
    size: int = Field(description="Bytes of its files.")
    micro_f1: float | None = Field(None, description="Micro-averaged F1 at the model's thresholds.")
    macro_f1: float | None = Field(None, description="Macro-averaged F1 at the model's thresholds.")
    f1_loss: float = Field(description="Micro-averaged F1 that it costs against the trained model.")
    max_probability_difference: float = Field(description="Largest difference from the model's own probabilities.")
    rows_per_second: float = Field(description="Test rows per second on one core, tokenization included.")


Exports = Annotated[list[Export], Field(max_length=4)]
