"""The formats in a saved model's folder."""

from collections.abc import Collection
from pathlib import Path
from typing import Final

from trainingtask_api.exports import Format
from trainingtask_api.reasons import Reason
from trainingtask_trainer.errors import UserError, join_names
from trainingtask_trainer.preprocessors.base import TERMS_FILE, TOKENIZER_FILE
from trainingtask_trainer.volumes import describe_contents

MODEL_FILES: Final = {Format.ONNX: "model.onnx", Format.ONNX_INT8: "model.int8.onnx"}
"""The names of ONNX files."""
INPUT_FILES: Final = (TOKENIZER_FILE, TERMS_FILE)
"""What may turn texts into the inputs of an ONNX file."""
# skops first: a model on embeddings has the encoder's safetensors beside it.
_PATTERNS = {Format.SKOPS: "*.skops", Format.SAFETENSORS: "*.safetensors"} | MODEL_FILES


def choose_format(folder: Path, written: Collection[Format], wanted: Format | None) -> Format | None:
    """Return the format to read a saved model from; None for the one of an extension.

    Parameters
    ----------
    folder
        The folder of the model.
    written
        The formats that its manifest names; none: the model's own.
    wanted
        None for the most exact one that is there.

    Raises
    ------
    UserError
        When it is not there.
    """
    there = [
        kind
        for kind, pattern in _PATTERNS.items()
        if (kind in written or (not written and kind not in MODEL_FILES)) and any(folder.glob(pattern))
    ]
    if wanted is None and (there or not written):
        return there[0] if there else None
    if wanted not in there:
        raise UserError(
            Reason.MODEL_UNAVAILABLE,
            f"{folder} does not hold the model as {wanted or join_names(list(written))}, only as"
            f" {join_names(there) or 'other files'}; it holds {describe_contents(folder)}: name a format that is there, or train"
            " the model with this one in output.formats",
        )
    return wanted


def list_unread_files(folder: Path, kind: Format | None) -> set[Path]:
    """Return the weights in a saved model's folder that do not matter to one that is read in a format."""
    if kind is None:  # an extension may read any file
        return set()
    if kind in MODEL_FILES:
        patterns = {pattern for other, pattern in _PATTERNS.items() if other != kind}
    else:  # a model on embeddings has its own file, and its encoder's
        patterns = set(MODEL_FILES.values())
    return {file for pattern in patterns for file in folder.glob(pattern)}


class NotExportableError(Exception):
    """A model cannot be written as ONNX; the message is the cause, a clause."""
