"""Texts that stand in several rows of a data set, as they are or nearly."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from trainingtask_trainer.datasets.base import Split

_NO_WORD = re.compile(r"[\W_]+")


class RepeatedTexts(NamedTuple):
    """Counts over all rows of a data set."""

    conflicting_rows: int
    """Rows whose text stands in another row with other labels."""
    near_duplicate_rows: int
    """Rows whose text is another row's but for case, punctuation, spacing and the form of its characters."""


def count_repeated_texts(splits: Sequence[Split]) -> RepeatedTexts:
    """Return how many rows repeat each other, in time linear in the length of the texts."""
    copies = Counter(_iter_texts(splits))
    labels: dict[str, bytes] = {}
    conflicting: set[str] = set()
    for split in splits:
        for text, given in zip(split.texts, split.labels, strict=True):
            if copies[text] > 1 and labels.setdefault(text, own := given.tobytes()) != own:
                conflicting.add(text)
    # By hash: 64 bits, of a million texts two different ones have the same with a probability of 3e-8.
    similar = Counter(hash(normalize(text)) for text in _iter_texts(splits))
    return RepeatedTexts(
        sum(copies[text] for text in conflicting), sum(count for count in similar.values() if count > 1)
    )


def normalize(text: str) -> str:
    """Return the words of a text in lower case and in Unicode's compatible form; one without words as it is."""
    words = _NO_WORD.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()
    return words or text


def _iter_texts(splits: Sequence[Split]) -> Iterable[str]:
    return (text for split in splits for text in split.texts)
