"""The tokenizer of a transformer's checkpoint, which truncates long texts; padding is up to the batch."""

import itertools
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import tokenizers
from numpy.typing import NDArray
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from trainingtask_api.reasons import Reason
from trainingtask_api.spec import TrainingTaskSpec
from trainingtask_api.status import Scalar, TextLengths
from trainingtask_trainer.errors import UserError
from trainingtask_trainer.preprocessors.array_cache import Arrays, compute_key, load_or_compute
from trainingtask_trainer.preprocessors.base import TOKENIZER_FILE
from trainingtask_trainer.preprocessors.text_lengths import (
    MOST_TOKENS,
    Lengths,
    choose_max_length,
    describe_cut_texts,
    summarize,
)
from trainingtask_trainer.pretrained.checkpoint import (
    fetch_checkpoint,
    get_checkpoint_name,
    get_max_text_tokens,
    translate_read_errors,
)
from trainingtask_trainer.volumes import Volumes

DEFAULT_MAX_LENGTH = 128
_BATCH_TEXTS = 8192  # tokenized at once: the library's objects take a kilobyte a text and more
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

    @classmethod
    def concatenate(cls, parts: Sequence["TokenIds"]) -> "TokenIds":
        """Return the token ids of the texts of all parts, in their order."""
        starts = itertools.accumulate((len(part.ids) for part in parts), initial=0)
        empty = cls.from_lists([])
        return cls(
            np.concatenate([empty.ids, *(part.ids for part in parts)]),
            np.concatenate([empty.ends, *(part.ends + start for part, start in zip(parts, starts, strict=False))]),
        )

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


class TextEncoder:
    """A checkpoint's tokenizer with the most tokens of a text, which `fit` may choose.

    Attributes
    ----------
    tokenizer
        The tokenizer.
    limit
        Most tokens of a text that the checkpoint can read, None where it has no limit.
    max_length
        Most tokens of a text; with 'auto' the limit until `fit`.
    text_lengths
        Lengths of the training texts, from `fit`.
    """

    def __init__(self, folder: Path, name: str, wanted: int | str | None, cache: Path) -> None:
        """Load the tokenizer of checkpoint `name`; `wanted` is `preprocessor.maxLength`."""
        self.tokenizer = load_tokenizer(folder, name)
        self.limit = get_max_text_tokens(folder, self.tokenizer)
        self.max_length = _get_max_length(wanted, self.limit, name)
        self.text_lengths: TextLengths | None = None
        self._is_auto = isinstance(wanted, str)
        self._folder = folder
        self._cache = cache
        self._fitted: tuple[Sequence[str], TokenIds] | None = None

    def fit(self, texts: Sequence[str]) -> None:
        """Measure the training texts, choose the most tokens of a text if the task leaves it open, and encode them."""
        encoded, lengths = self._encode(texts)
        if self._is_auto:
            self.max_length = choose_max_length(lengths, self.max_length)
            encoded, _ = self._encode(texts)
        self.text_lengths = summarize(lengths, self.max_length)
        self._fitted = texts, encoded

    def transform(self, texts: Sequence[str]) -> TokenIds:
        """Return the token ids of each text, from the cache where they are in it."""
        if self._fitted is not None and texts is self._fitted[0]:
            return self._fitted[1]
        return self._encode(texts)[0]

    def list_warnings(self) -> list[str]:
        """Return a warning when many training texts are cut."""
        return describe_cut_texts(self.text_lengths, self.limit) if self.text_lengths else []

    def _encode(self, texts: Sequence[str]) -> tuple[TokenIds, Lengths]:
        settings = ("tokens", version("trainingtask"), self.max_length, version("transformers"), version("tokenizers"))
        key = compute_key(settings, texts, _list_tokenizer_files(self._folder))

        def tokenize() -> Arrays:
            encoded, lengths = encode(self.tokenizer, texts, self.max_length)
            return {"ids": encoded.ids, "ends": encoded.ends, "lengths": lengths}

        arrays = load_or_compute(self._cache, key, ("ids", "ends", "lengths"), tokenize)
        return TokenIds(arrays["ids"], arrays["ends"]), arrays["lengths"]


class Tokenizer(TextEncoder):
    """Token ids with the special tokens of the checkpoint, at most `max_length` of them."""

    def __init__(self, spec: TrainingTaskSpec, volumes: Volumes) -> None:
        wanted = spec.preprocessor.max_length if spec.preprocessor else None
        folder = fetch_checkpoint(spec.model, volumes.model)
        super().__init__(folder, get_checkpoint_name(spec.model), wanted, volumes.cache_folder)

    def arguments(self) -> dict[str, Scalar]:
        """Return the arguments after all defaults."""
        return {"maxLength": self.max_length}


def load_tokenizer(folder: Path, name: str) -> PreTrainedTokenizerBase:
    """Return the tokenizer of checkpoint `name`.

    Raises
    ------
    UserError
        When there is no tokenizer, or it cannot pad.
    """
    with translate_read_errors(name, "has no usable tokenizer"):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if tokenizer.pad_token_id is None:
        raise UserError(
            Reason.MODEL_MISMATCH, f"checkpoint '{name}' has no padding token, which an encoder needs: use another"
        )
    return tokenizer


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, max_length: int, folder: Path) -> None:
    """Write a tokenizer that cuts texts as training did; with its truncation and padding, for use by `tokenizers` alone."""
    tokenizer.model_max_length = max_length
    tokenizer.save_pretrained(folder)
    path = folder / TOKENIZER_FILE
    if not path.is_file():  # a tokenizer in Python
        return
    own = tokenizers.Tokenizer.from_file(str(path))
    own.enable_truncation(max_length, direction=tokenizer.truncation_side)
    padding = {"pad_id": int(tokenizer.pad_token_id), "pad_token": str(tokenizer.pad_token)}
    own.enable_padding(direction=tokenizer.padding_side, **padding)
    own.save(str(path))


def _get_max_length(wanted: int | str | None, limit: int | None, name: str) -> int:
    """Return the most tokens of a text, for 'auto' the most that it can become."""
    if isinstance(wanted, int) and limit is not None and wanted > limit:
        raise UserError(
            Reason.INVALID_SPEC,
            f"preprocessor.maxLength {wanted} is more than the {limit} tokens that checkpoint '{name}' can read",
        )
    if isinstance(wanted, int):
        return wanted
    most = DEFAULT_MAX_LENGTH if wanted is None else MOST_TOKENS
    return min(most, limit or most)


def encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int) -> tuple[TokenIds, Lengths]:
    """Return the token ids of each text, cut to `max_length`, unpadded, and the tokens of each text before it is cut."""
    parts: list[TokenIds] = []
    lengths: list[int] = []
    special = tokenizer.num_special_tokens_to_add()
    for start in range(0, len(texts), _BATCH_TEXTS):
        batch = list(texts[start : start + _BATCH_TEXTS])
        encoded = tokenizer(
            batch, truncation=True, max_length=max_length, return_attention_mask=False, return_token_type_ids=False
        )
        parts.append(TokenIds.from_lists(encoded["input_ids"]))
        if encoded.encodings is None:  # a tokenizer in Python keeps nothing of what it cuts
            lengths += map(len, tokenizer(batch, return_attention_mask=False, verbose=False)["input_ids"])
        else:
            lengths += [len(e) + sum(len(rest) - special for rest in e.overflowing) for e in encoded.encodings]
    return TokenIds.concatenate(parts), np.asarray(lengths, dtype=np.int64)


def _list_tokenizer_files(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_file() and path.suffix in _TOKENIZER_SUFFIXES]
