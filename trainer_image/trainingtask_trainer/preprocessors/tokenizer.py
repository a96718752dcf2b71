"""The tokenizer of a transformer's checkpoint, which truncates long texts; padding is up to the batch."""

from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from trainingtask_api.reasons import Reason
from trainingtask_api.spec import TrainingTaskSpec
from trainingtask_api.status import Scalar
from trainingtask_trainer.errors import UserError
from trainingtask_trainer.preprocessors.array_cache import compute_key, load_or_compute
from trainingtask_trainer.pretrained.checkpoint import (
    fetch_checkpoint,
    get_checkpoint_name,
    get_max_text_tokens,
    translate_read_errors,
)
from trainingtask_trainer.volumes import Volumes

DEFAULT_MAX_LENGTH = 128
# The files of a checkpoint that a tokenizer may read.
_TOKENIZER_SUFFIXES = {".json", ".txt", ".model"}


class TokenIds:
    """The token ids of many texts in one array: 4 bytes a token, a tenth of what lists of Python's integers take."""

    def __init__(self, ids: NDArray[np.int32], ends: NDArray[np.int64]) -> None:
        """Take the ids of all texts, end to end, and the index at which each text ends."""
        self.ids = ids
        self.ends = ends

    @classmethod
    def from_lists(cls, texts: Sequence[Sequence[int]]) -> "TokenIds":
        """Return the token ids of texts from a list for each."""
        ends = np.cumsum([len(text) for text in texts], dtype=np.int64)
        total = int(ends[-1]) if len(ends) else 0
        return cls(np.fromiter((token for text in texts for token in text), np.int32, total), ends)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, text: int) -> list[int]:
        text = range(len(self))[text]
        start = self.ends[text - 1] if text else 0
        ids: list[int] = self.ids[start : self.ends[text]].tolist()
        return ids

    def __iter__(self) -> Iterator[list[int]]:
        return (self[text] for text in range(len(self)))

    @property
    def lengths(self) -> list[int]:
        """Tokens of each text."""
        lengths: list[int] = np.diff(self.ends, prepend=0).tolist()
        return lengths


class Tokenizer:
    """Token ids with the special tokens of the checkpoint, at most `max_length` of them."""

    def __init__(self, spec: TrainingTaskSpec, volumes: Volumes) -> None:
        folder = fetch_checkpoint(spec.model, volumes.model)
        wanted = spec.preprocessor.max_length if spec.preprocessor else None
        assert not isinstance(wanted, str)
        self.tokenizer, self.max_length = load_tokenizer(folder, get_checkpoint_name(spec.model), wanted)
        self._folder = folder
        self._cache = volumes.cache_folder

    def fit(self, texts: Sequence[str]) -> None:
        """Do nothing: the vocabulary comes with the checkpoint."""

    def transform(self, texts: Sequence[str]) -> TokenIds:
        """Return the token ids of each text, from the cache where they are in it."""

        def tokenize() -> dict[str, NDArray[np.int32] | NDArray[np.int64]]:
            encoded = encode(self.tokenizer, texts, self.max_length)
            return {"ids": encoded.ids, "ends": encoded.ends}

        arrays = load_or_compute(self._cache, self._compute_cache_key(texts), tokenize)
        return TokenIds(arrays["ids"], arrays["ends"])

    def arguments(self) -> dict[str, Scalar]:
        """Return the arguments after all defaults."""
        return {"maxLength": self.max_length}

    def _compute_cache_key(self, texts: Sequence[str]) -> str:
        settings = ("tokens", version("trainingtask"), self.max_length, version("transformers"), version("tokenizers"))
        return compute_key(settings, texts, _list_tokenizer_files(self._folder))


def load_tokenizer(folder: Path, name: str, max_length: int | None) -> tuple[PreTrainedTokenizerBase, int]:
    """Return the tokenizer of checkpoint `name`, and the most tokens of a text: `max_length`, else the default.

    Raises
    ------
    UserError
        When there is no tokenizer, it cannot pad, or the checkpoint cannot read texts of `max_length`.
    """
    with translate_read_errors(name, "has no usable tokenizer"):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if tokenizer.pad_token_id is None:
        raise UserError(
            Reason.MODEL_MISMATCH, f"checkpoint '{name}' has no padding token, which an encoder needs: use another"
        )
    limit = get_max_text_tokens(folder, tokenizer)
    if max_length is not None and limit is not None and max_length > limit:
        raise UserError(
            Reason.INVALID_SPEC,
            f"preprocessor.maxLength {max_length} is more than the {limit} tokens that checkpoint '{name}' can read",
        )
    return tokenizer, max_length or min(DEFAULT_MAX_LENGTH, limit or DEFAULT_MAX_LENGTH)


def encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int) -> TokenIds:
    """Return the token ids of each text, cut to `max_length`, unpadded."""
    encoded = tokenizer(list(texts), truncation=True, max_length=max_length, return_attention_mask=False)
    return TokenIds.from_lists(encoded["input_ids"])


def _list_tokenizer_files(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_file() and path.suffix in _TOKENIZER_SUFFIXES]
