"""Text embeddings of a frozen encoder, for classical models."""

from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from trainingtask_api.model import Preprocessor as PreprocessorSpec
from trainingtask_api.spec import Device, TrainingTaskSpec
from trainingtask_api.status import Scalar, TextLengths
from trainingtask_trainer.preprocessors.array_cache import compute_key, load, load_or_compute, store
from trainingtask_trainer.preprocessors.padding import pad
from trainingtask_trainer.preprocessors.tokenizer import TextEncoder, encode, save_tokenizer
from trainingtask_trainer.pretrained.checkpoint import (
    check_is_data,
    check_weights,
    fetch_encoder,
    get_encoder_name,
    translate_read_errors,
)
from trainingtask_trainer.runtime.collectives import receive_rows, send_rows, sum_over_ranks
from trainingtask_trainer.runtime.device import prepare_torch
from trainingtask_trainer.runtime.process_group import meet_ranks
from trainingtask_trainer.runtime.processes import Processes
from trainingtask_trainer.volumes import Volumes

_BATCH_TOKENS = 4096  # padding counted

Vectors = NDArray[np.float32]


class Embedding:
    """The mean of the encoder's last hidden states over a text's tokens, scaled to length 1.

    Features are a matrix [texts, hidden size], cached, because they depend on the encoder and the texts alone.
    """

    is_distributed: ClassVar[bool] = True

    def __init__(self, spec: TrainingTaskSpec, volumes: Volumes) -> None:
        self._processes = Processes.from_environment()
        self._device = prepare_torch(spec.device)
        wanted = spec.preprocessor or PreprocessorSpec()
        self._folder = fetch_encoder(wanted, volumes.preprocessor)
        self._name = get_encoder_name(wanted)
        self._cache = volumes.cache_folder
        self._texts = TextEncoder(self._folder, self._name, wanted.max_length, self._cache)

    def fit(self, texts: Sequence[str]) -> None:
        """Measure the training texts; the encoder is frozen."""
        self._texts.fit(texts)

    @property
    def text_lengths(self) -> TextLengths | None:
        """Return the lengths of the training texts, None before `fit`."""
        return self._texts.text_lengths

    def list_warnings(self) -> list[str]:
        """Return a warning when many training texts are cut."""
        return self._texts.list_warnings()

    def transform(self, texts: Sequence[str]) -> Vectors:
        """Return the vectors of these texts, shape [texts, hidden size].

        Of several processes each computes a share; rank 0 returns all vectors, and the others none.
        """
        versions = (version(package) for package in ("trainingtask", "transformers", "tokenizers", "torch"))
        settings = ("embedding", self._texts.max_length, *versions, self._device.type)
        files = [path for path in self._folder.iterdir() if path.suffix in {".json", ".txt", ".model", ".safetensors"}]
        key = compute_key(settings, texts, files)
        if self._processes.world_size > 1:
            return self._transform_together(texts, key)

        def compute() -> dict[str, Vectors]:
            return {
                "vectors": _compute_vectors(
                    self.load_encoder(), self._texts.tokenizer, list(self._texts.transform(texts))
                )
            }

        vectors: Vectors = load_or_compute(self._cache, key, ("vectors",), compute)["vectors"]
        return vectors

    def _transform_together(self, texts: Sequence[str], key: str) -> Vectors:
        cached = load(self._cache, key, ("vectors",)) if self._processes.is_main else None
        if sum_over_ranks(cached is not None):
            return cached["vectors"] if cached else np.empty((0, 0), np.float32)
        ids = list(self._texts.transform(texts))
        order = sorted(range(len(ids)), key=lambda text: len(ids[text]), reverse=True)
        rank, world_size = self._processes.rank, self._processes.world_size
        own = _compute_vectors(
            self.load_encoder(), self._texts.tokenizer, [ids[text] for text in order[rank::world_size]]
        )
        meet_ranks(self._processes, f"embedded {key}")  # a share may take longer than a collective waits
        if not self._processes.is_main:
            send_rows(own)
            return own[:0]
        vectors: Vectors = np.empty((len(ids), own.shape[1]), own.dtype)
        vectors[order[::world_size]] = own
        for source in range(1, world_size):
            share = order[source::world_size]
            vectors[share] = receive_rows((len(share), own.shape[1]), source)
        store(self._cache, key, {"vectors": vectors})
        return vectors

    def arguments(self) -> dict[str, Scalar]:
        """Return the arguments after all defaults."""
        return {"checkpoint": self._name, "maxLength": self._texts.max_length, "pooling": "mean"}

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The encoder's tokenizer."""
        return self._texts.tokenizer

    def load_encoder(self) -> PreTrainedModel:
        """Return the encoder."""
        return _load_encoder(self._folder, self._name, self._device)

    def save_tokenizer(self, folder: Path) -> None:
        """Write the tokenizer, which cuts texts as training did."""
        save_tokenizer(self._texts.tokenizer, self._texts.max_length, folder)

    def save(self, folder: Path) -> None:
        """Write weights (safetensors), configuration and tokenizer: a saved model needs no other folder."""
        self.load_encoder().save_pretrained(folder)
        self.save_tokenizer(folder)

    @staticmethod
    def load(folder: Path) -> Callable[[Sequence[str]], Vectors]:
        """Return the function from texts to vectors."""
        device = prepare_torch(Device.CPU)
        check_is_data(folder, str(folder))
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        encoder = _load_encoder(folder, str(folder), device)
        return lambda texts: _compute_vectors(
            encoder, tokenizer, list(encode(tokenizer, texts, tokenizer.model_max_length)[0])
        )


def pool(states: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """Return the mean of each row's hidden states over its tokens, scaled to length 1.

    Parameters
    ----------
    states
        Shape [rows, tokens, hidden size].
    attention_mask
        1 for a token, 0 for padding, shape [rows, tokens].

    Returns
    -------
    Unit vectors of shape [rows, hidden size].
    """
    # The sum: scaling to length 1 cancels the mean's divisor.
    return torch.nn.functional.normalize((states * attention_mask.unsqueeze(-1)).sum(dim=1))


def _load_encoder(folder: Path, name: str, device: torch.device) -> PreTrainedModel:
    encoder: PreTrainedModel
    with translate_read_errors(name, "cannot be read as an encoder"):
        encoder, loading = AutoModel.from_pretrained(
            folder,
            dtype=torch.float32,
            device_map=device,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    check_weights(encoder, loading, name)
    encoder.train(False)
    return encoder


def _compute_vectors(
    encoder: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, ids: Sequence[Sequence[int]]
) -> Vectors:
    """Return unit vectors in the order of the texts; texts of like length share a batch, so that little is padding."""
    order = sorted(range(len(ids)), key=lambda text: len(ids[text]), reverse=True)
    result: Vectors = np.empty((len(ids), int(encoder.config.hidden_size)), dtype=np.float32)
    start = 0
    while start < len(order):
        batch = order[start : start + max(1, _BATCH_TOKENS // max(1, len(ids[order[start]])))]
        inputs = {name: part.to(encoder.device) for name, part in pad(tokenizer, [ids[text] for text in batch]).items()}
        with torch.inference_mode():
            states = encoder(**inputs).last_hidden_state
            result[batch] = pool(states, inputs["attention_mask"]).cpu().numpy()
        start += len(batch)
    return result
