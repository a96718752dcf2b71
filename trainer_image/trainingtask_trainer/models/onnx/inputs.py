"""Texts to the inputs of an ONNX file: token ids of a transformer or an encoder, or terms with their tf-idf weights."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from trainingtask_trainer.preprocessors.base import TERMS_FILE, TOKENIZER_FILE

# Padding counted. The activations of 256 tokens stay in a core's cache: with 1,024 a MiniLM takes a third as long again.
_BATCH_TOKENS = 256
# Terms of a batch, padding counted, and its rows: a forest reads a value of each row for every term.
_BATCH_TERMS, _BATCH_ROWS = 2048, 64

Batch = dict[str, NDArray[np.generic]]
Rows = NDArray[np.intp]


class TokenInputs:
    """Token ids and attention mask, each of shape [rows, tokens of the longest row].

    The tokenizer's file holds its truncation and padding.
    """

    names: ClassVar = ("input_ids", "attention_mask")

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer  # noqa: PLC0415 - not needed for terms

        self._tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_FILE))
        padding = self._tokenizer.padding
        if padding is None or self._tokenizer.truncation is None:
            raise ValueError(f"{TOKENIZER_FILE} does not say how texts are cut and padded")
        self._pad_id, self._is_left = int(padding["pad_id"]), padding["direction"] == "left"
        self._tokenizer.no_padding()

    def iter_batches(self, texts: Sequence[str]) -> Iterator[tuple[Rows, Batch]]:
        """Yield the rows of a batch, which are of like length, with their inputs."""
        ids = [encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(texts))]
        for rows in split_by_length([len(row) for row in ids], _BATCH_TOKENS):
            longest = max(1, *(len(ids[row]) for row in rows))
            batch = np.full((len(rows), longest), self._pad_id, dtype=np.int64)
            mask = np.zeros_like(batch)
            for index, row in enumerate(rows):
                columns = slice(longest - len(ids[row]), None) if self._is_left else slice(len(ids[row]))
                batch[index, columns] = ids[row]
                mask[index, columns] = 1
            yield rows, dict(zip(self.names, (batch, mask), strict=True))


class TermInputs:
    """The terms of each row and their tf-idf weights, each of shape [rows, terms of the row with the most]."""

    names: ClassVar = ("term_ids", "term_weights")

    def __init__(self, folder: Path) -> None:
        from trainingtask_trainer.preprocessors.tfidf_file import read_terms  # noqa: PLC0415 - scikit-learn

        self._transform = read_terms(folder / TERMS_FILE)

    def iter_batches(self, texts: Sequence[str]) -> Iterator[tuple[Rows, Batch]]:
        """Yield the rows of a batch, which have about as many terms, with their inputs."""
        features = self._transform(texts)
        lengths = np.diff(features.indptr)
        for rows in split_by_length(lengths, _BATCH_TERMS):
            shape = len(rows), max(1, int(lengths[rows[0]]))
            ids, weights = np.zeros(shape, np.int64), np.zeros(shape, np.float32)  # a weight of 0 adds nothing
            for index, row in enumerate(rows):
                entries = slice(features.indptr[row], features.indptr[row + 1])
                ids[index, : lengths[row]] = features.indices[entries]
                weights[index, : lengths[row]] = features.data[entries]
            yield rows, dict(zip(self.names, (ids, weights), strict=True))


def split_by_length(lengths: Sequence[int] | NDArray[np.integer], size: int) -> Iterator[Rows]:
    """Yield rows of like length, the longest first: as many as have `size` tokens or terms if all are as long as it."""
    order = np.argsort(-np.asarray(lengths), kind="stable")
    start = 0
    while start < len(order):
        count = min(_BATCH_ROWS, max(1, size // max(1, int(lengths[order[start]]))))
        yield order[start : start + count]
        start += count
