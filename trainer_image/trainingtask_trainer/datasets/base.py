"""The protocol of data sets, and the rows that they return."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from trainingtask_api.dataset import Dataset as DatasetSpec

LabelMatrix = NDArray[np.uint8]
"""0/1, shape [rows, labels]."""


@dataclass(frozen=True)
class Split:
    """Rows of a data set: `texts` and a 0/1 matrix `labels` of shape [rows, labels]."""

    texts: list[str]
    labels: LabelMatrix

    def __post_init__(self) -> None:
        if self.labels.ndim != 2 or len(self.texts) != len(self.labels):
            raise ValueError(f"{len(self.texts)} texts and labels of shape {self.labels.shape} do not match")

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: Sequence[int] | NDArray[np.intp]) -> "Split":
        """Return the rows at these indexes, in this order."""
        return Split([self.texts[row] for row in rows], self.labels[np.asarray(rows, dtype=np.intp)])


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
