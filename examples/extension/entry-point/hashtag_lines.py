"""A data set kind: lines of text that end in their labels, as in "The tide comes in. #sea #evening"."""

import re
from pathlib import Path
from typing import ClassVar

from trainingtask_api.dataset import Dataset as DatasetSpec
from trainingtask_api.reasons import Reason
from trainingtask_trainer.datasets.base import RawData, Split, encode_multi_hot
from trainingtask_trainer.errors import UserError
from trainingtask_trainer.volumes import resolve_path

HASHTAG = re.compile(r"#(\w+)")


class HashtagLines:
    """A text file with one text per line, each with its labels as hashtags."""

    # Distributions whose versions belong into the results.
    packages: ClassVar[tuple[str, ...]] = ("hashtag-lines",)

    def load(self, spec: DatasetSpec, root: Path) -> RawData:
        """Return the rows of `spec.path` in the volume claim, which is the folder `root`."""
        if spec.path is None:
            raise UserError(
                Reason.INVALID_SPEC, f"dataset.name '{spec.name}' needs dataset.volumeClaim and dataset.path"
            )
        file = resolve_path(root, spec.path, "dataset.path", spec.volume_claim, Reason.DATASET_NOT_FOUND)
        texts: list[str] = []
        hashtags: list[list[str]] = []
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
            text = HASHTAG.sub("", line).strip()
            if not text:
                # A UserError is shown to the person who wrote the task, and is never retried.
                raise UserError(Reason.INVALID_DATA, f"{file}, row {number}: {line!r} holds no text: remove the row")
            texts.append(text)
            hashtags.append(sorted(set(HASHTAG.findall(line))))
        names = tuple(sorted({name for row in hashtags for name in row}))
        labels = encode_multi_hot(([names.index(name) for name in row] for row in hashtags), len(names))
        # One split: the trainer draws validation and test rows from it.
        return RawData(names, Split(texts, labels))
