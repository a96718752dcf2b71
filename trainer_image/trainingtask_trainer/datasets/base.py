"""The protocol of data sets, and the rows that they return."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from trainingtask_api.dataset import Dataset as DatasetSpec

LabelMatrix = NDArray[np.uint8]
"""0/1, shape [rows, labels]."""


@dataclass(frozen=True)
class Places:
    """Where a person finds the rows of a split in the data set."""

    sources: tuple[str, ...]
    """Names of the files, or of the data set's own split."""
    source_indexes: NDArray[np.int32]
    """Index of each row's source, shape [rows]."""
    numbers: NDArray[np.int64]
    """Number of each row in its source, shape [rows]."""

    @classmethod
    def of(cls, parts: Iterable[tuple[str, NDArray[np.int64]]]) -> "Places":
        """Return the places of sources that follow each other, each with the numbers of its rows."""
        names, numbers = zip(*parts, strict=True)
        indexes = np.repeat(np.arange(len(names), dtype=np.int32), [len(part) for part in numbers])
        return cls(names, indexes, np.concatenate(numbers))

    def take(self, rows: NDArray[np.intp]) -> "Places":
        """Return the places of the rows at these indexes."""
        return replace(self, source_indexes=self.source_indexes[rows], numbers=self.numbers[rows])


@dataclass(frozen=True)
class Split:
    """Rows of a data set: `texts` and a 0/1 matrix `labels` of shape [rows, labels]."""

    texts: list[str]
    labels: LabelMatrix
    places: Places | None = None
    """None: the rows are counted from 1, in a source called as the split is."""

    def __post_init__(self) -> None:
        if self.labels.ndim != 2 or len(self.texts) != len(self.labels):
            raise ValueError(f"{len(self.texts)} texts and labels of shape {self.labels.shape} do not match")
        if self.places is not None and len(self.places.numbers) != len(self.texts):
            raise ValueError(f"{len(self.texts)} texts and the places of {len(self.places.numbers)} do not match")

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: Sequence[int] | NDArray[np.intp]) -> "Split":
        """Return the rows at these indexes, in this order."""
        indexes = np.asarray(rows, dtype=np.intp)
        places = None if self.places is None else self.places.take(indexes)
        return Split([self.texts[row] for row in rows], self.labels[indexes], places)

    def find_place(self, row: int) -> tuple[str, int]:
        """Return the source of the row at this index and its number there."""
        places = self.places
        assert places is not None  # noqa: S101 - of a split that has been located
        return places.sources[places.source_indexes[row]], int(places.numbers[row])

    def locate(self, source: str) -> "Split":
        """Return the split with places: its own, or its rows counted from 1 in `source`."""
        if self.places is not None:
            return self
        return replace(self, places=Places.of([(source, np.arange(1, len(self) + 1, dtype=np.int64))]))


@dataclass(frozen=True)
class RawData:
    """A data set with the splits of its source; None for a split that the source does not have."""

    label_names: tuple[str, ...]
    train: Split
    validation: Split | None = None
    test: Split | None = None
    warnings: tuple[str, ...] = field(default=(), kw_only=True)
    """What a reader of the scores must know of how the data was read."""


class Dataset(Protocol):
    """A kind of data set, registered under the entry-point group ``trainingtask.datasets``."""

    packages: ClassVar[tuple[str, ...]]
    """Distributions whose versions are part of the results."""

    def load(self, spec: DatasetSpec, root: Path) -> RawData:
        """Read the data; `root` is the folder that stands for the task's volume claim.

        Raises
        ------
        UserError
            When the data is missing or wrong; the message names the file, the row and the column.
        """
        ...


def encode_multi_hot(rows: Iterable[Sequence[int]], labels: int) -> LabelMatrix:
    """Return the label indexes of each row as a 0/1 matrix of shape [rows, labels]."""
    rows = list(rows)
    lengths = np.fromiter(map(len, rows), dtype=np.intp, count=len(rows))
    columns = np.fromiter(itertools.chain.from_iterable(rows), dtype=np.intp, count=int(lengths.sum()))
    matrix = np.zeros((len(rows), labels), dtype=np.uint8)
    matrix[np.repeat(np.arange(len(rows)), lengths), columns] = 1
    return matrix
