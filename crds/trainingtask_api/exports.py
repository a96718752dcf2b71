"""The formats that a trained model is written in, and what each of them costs."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from trainingtask_api.formatting import format_size
from trainingtask_api.rules import Contract


class Format(StrEnum):
    """A file format of a trained model."""

    SAFETENSORS = "safetensors"
    SKOPS = "skops"
    ONNX = "onnx"
    ONNX_INT8 = "onnx_int8"


class Export(Contract):
    """A model as ONNX, scored with ONNX Runtime on the test rows, of more than 5,000 on as many of them."""

    format: Format = Field(description="The format.")
    is_written: bool = Field(description="Whether it lies in the model's folder; not when it costs too much F1.")
    size: int = Field(description="Bytes of its files.")
    micro_f1: float | None = Field(None, description="Micro-averaged F1 at the model's thresholds.")
    macro_f1: float | None = Field(None, description="Macro-averaged F1 at the model's thresholds.")
    f1_loss: float = Field(description="Micro-averaged F1 that it costs against the trained model.")
    max_probability_difference: float = Field(description="Largest difference from the model's own probabilities.")
    rows_per_second: float = Field(description="Rows per second on one core, from texts to probabilities.")

    def describe(self) -> str:
        """Return the export in one phrase: size, F1, difference and speed."""
        f1 = "no micro-F1" if self.micro_f1 is None else f"micro-F1 {self.micro_f1:.4f} ({0 - self.f1_loss:+.4f})"
        return (
            f"{'' if self.is_written else 'not written: '}{format_size(self.size)}, {f1}, probabilities within"
            f" {self.max_probability_difference:.2g}, {self.rows_per_second:.0f} rows/s on one core"
        )


Exports = Annotated[list[Export], Field(max_length=4)]
