"""Predictions of an ONNX file with ONNX Runtime; this imports neither torch nor transformers."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainingtask_api.exports import Format
from trainingtask_trainer.evaluation.metrics import Probabilities
from trainingtask_trainer.models.onnx.files import open_session
from trainingtask_trainer.models.onnx.inputs import TermInputs, TokenInputs
from trainingtask_trainer.runtime.cgroup import get_cpu_limit

LOGITS = "logits"
"""The name of an output before its sigmoid; another output is probabilities."""
# Texts whose inputs are in memory at once: the tokenizer's objects take a kilobyte a text and more.
_WINDOW_TEXTS = 8192


class OnnxModel:
    """The ONNX file of a saved model, loaded once for many predictions.

    Parameters
    ----------
    folder
        A saved model's folder, which may be untrusted.
    kind
        Which of its ONNX files.
    threads
        Threads of a prediction; None: one for each core that the process may use.
    """

    def __init__(self, folder: Path, kind: Format, threads: int | None = None) -> None:
        self._session = open_session(folder, kind, threads or get_cpu_limit())
        (output,) = self._session.get_outputs()
        self._output = output.name
        self._labels = int(output.shape[-1])
        names = {part.name for part in self._session.get_inputs()}
        self._inputs = TokenInputs(folder) if names == set(TokenInputs.names) else TermInputs(folder)

    def predict_probabilities(self, texts: Sequence[str]) -> Probabilities:
        """Return the probabilities of the labels, shape [texts, labels], in the order of the texts.

        Texts of like length share a batch, so that little of it is padding.
        """
        result: Probabilities = np.empty((len(texts), self._labels))
        for start in range(0, len(texts), _WINDOW_TEXTS):
            window = result[start : start + _WINDOW_TEXTS]
            for rows, batch in self._inputs.iter_batches(texts[start : start + len(window)]):
                window[rows] = self._run(batch)
        return result

    def _run(self, batch: dict[str, NDArray[np.generic]]) -> Probabilities:
        (values,) = self._session.run([self._output], batch)
        if values.shape != (len(next(iter(batch.values()))), self._labels):
            raise ValueError(f"the output {self._output} has shape {values.shape}")
        values = values.astype(np.float64)
        # The sigmoid of any number, without an overflow; sums over trees exceed 1 by their rounding.
        is_logits = self._output == LOGITS
        probabilities: Probabilities = np.exp(-np.logaddexp(0, -values)) if is_logits else np.clip(values, 0, 1)
        return probabilities
