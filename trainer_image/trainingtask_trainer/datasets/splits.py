"""From a source's splits to the rows of a run: top labels, test rows, sample, validation rows, fingerprint."""

import hashlib
from dataclasses import dataclass, field

import numpy as np

from trainingtask_api.dataset import Dataset as DatasetSpec
from trainingtask_trainer.datasets.base import RawData, Split
from trainingtask_trainer.errors import UserError

DEFAULT_VALIDATION_FRACTION = 0.1
DEFAULT_TEST_FRACTION = 0.2


@dataclass(frozen=True)
class Data:
    """The rows of a run."""

    label_names: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    fractions: dict[str, float] = field(default_factory=dict)
    """The fractions that were held out, by their path in the spec; none for a split of the source's own."""

    def splits(self) -> dict[str, Split]:
        """Return the splits by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    def fingerprint(self) -> str:
        """Return the SHA-256 over label names, texts and labels of all splits."""
        digest = hashlib.sha256()

        def add(part: bytes) -> None:
            # The length in front keeps ("ab", "c") and ("a", "bc") apart.
            digest.update(len(part).to_bytes(8, "big") + part)

        for name in self.label_names:
            add(name.encode())
        for name, split in self.splits().items():
            add(name.encode())
            for text in split.texts:
                add(text.encode("utf-8", "surrogatepass"))
            add(np.ascontiguousarray(split.labels, dtype=np.uint8).tobytes())
        return digest.hexdigest()


def prepare(raw: RawData, spec: DatasetSpec) -> Data:
    """Return the rows to train, to tune and to score on.

    The order is part of the contract: `topLabels`, then the test rows (if the source has none), then the sample,
    then the validation rows out of the sample.

    Raises
    ------
    UserError
        When a split would be empty or there is nothing to learn.
    """
    if spec.top_labels is not None:
        raw = keep_top_labels(raw, spec.top_labels)
    # RandomState, not default_rng: numpy promises its stream for ever, so a seed means the same rows in every image.
    random = np.random.RandomState(spec.seed)
    train, validation, test = raw.train, raw.validation, raw.test
    fractions: dict[str, float] = {}
    if test is None:
        fraction = fractions["dataset.testFraction"] = spec.test_fraction or DEFAULT_TEST_FRACTION
        train, test = _hold_out(train, fraction, random, "dataset.testFraction")
    if spec.sample_size is not None and spec.sample_size < len(train):
        train = train.take(np.sort(random.permutation(len(train))[: spec.sample_size]))
    if spec.validation_fraction is not None or validation is None:
        fraction = spec.validation_fraction or DEFAULT_VALIDATION_FRACTION
        fractions["dataset.validationFraction"] = fraction
        train, validation = _hold_out(train, fraction, random, "dataset.validationFraction")
    data = Data(raw.label_names, train, validation, test, fractions)
    for name, split in data.splits().items():
        if len(split) == 0:
            raise UserError("InvalidData", f"the {name} split has no rows")
    if not data.train.labels.any():
        raise UserError("InvalidData", f"none of the {len(data.train)} training rows carries a label")
    return data


def keep_top_labels(raw: RawData, count: int) -> RawData:
    """Return the data with its `count` most frequent training labels and the rows that carry one of them.

    The kept labels stay in the source's order; of equally frequent ones the earlier wins.
    """
    frequency = raw.train.labels.sum(axis=0, dtype=np.int64)
    kept = np.sort(np.argsort(-frequency, kind="stable")[:count])

    def narrow(split: Split | None) -> Split | None:
        if split is None:
            return None
        rows = np.flatnonzero(split.labels[:, kept].any(axis=1))
        part = split.take(rows)
        return Split(part.texts, part.labels[:, kept])

    train = narrow(raw.train)
    assert train is not None  # noqa: S101 - for the type checker: raw.train is never None
    return RawData(tuple(raw.label_names[index] for index in kept), train, narrow(raw.validation), narrow(raw.test))


def _hold_out(split: Split, fraction: float, random: np.random.RandomState, name: str) -> tuple[Split, Split]:
    """Return the rest and a random `fraction` of the rows, at least one, both in the source's order."""
    held = max(1, round(len(split) * fraction))
    if held >= len(split):
        raise UserError(
            "InvalidData", f"{name} {fraction} of {len(split)} rows leaves none to train on: more rows are needed"
        )
    order = random.permutation(len(split))
    return split.take(np.sort(order[held:])), split.take(np.sort(order[:held]))
