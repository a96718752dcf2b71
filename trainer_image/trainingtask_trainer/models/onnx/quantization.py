"""8-bit weights for the ONNX file of a transformer, or of a model on an encoder's vectors."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from onnxruntime.quantization import QuantType, quantize_dynamic

# Products with weights, and the embeddings, which are half of a MiniLM.
_OPERATORS: Final = ("MatMul", "Gather")


def quantize(source: Path, target: Path) -> None:
    """Write a model with 8-bit weights, one scale per column of a matrix; activations are quantized at prediction."""
    with _silence_advice():
        quantize_dynamic(
            source, target, per_channel=True, weight_type=QuantType.QInt8, op_types_to_quantize=list(_OPERATORS)
        )


@contextmanager
def _silence_advice() -> Iterator[None]:
    """Drop the library's warning to pre-process a model, which it logs on the root logger."""
    logger = logging.getLogger()
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
