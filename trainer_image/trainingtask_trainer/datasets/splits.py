"""Training, validation and test rows from the splits of a source: top labels, held-out rows, sample, fingerprint.

A split that the source does not have is held out by iterative stratification (Sechidis, Tsoumakas, Vlahavas: "On the
Stratification of Multi-Label Data", ECML PKDD 2011), so that each frequent label has the same share in all splits.
"""

import hashlib
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from trainingtask_api.dataset import Dataset as DatasetSpec
from trainingtask_api.reasons import Reason
from trainingtask_trainer.datasets.base import LabelMatrix, RawData, Split
from trainingtask_trainer.errors import UserError
from trainingtask_trainer.runtime.import_guard import block_import

DEFAULT_VALIDATION_FRACTION = 0.1
DEFAULT_TEST_FRACTION = 0.2
# The library's time grows with rows x labels²: 85,000 rows take 3 s with 200 labels and 8 s with 400, on one core.
_MAX_STRATIFIED_LABELS = 200
_MAX_LABEL_LENGTH = 200  # characters; the limit of the scores in the status


@dataclass(frozen=True)
class PreparedData:
    """The rows of a run."""

    label_names: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    fractions: dict[str, float] = field(default_factory=dict)
    """The fractions that were held out, by their path in the spec; without those of the source's own splits."""
    notes: tuple[str, ...] = ()
    """What the reader of the data found that a reader of the scores must know."""

    def get_splits(self) -> dict[str, Split]:
        """Return the splits by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    def count_texts_in_train(self) -> dict[str, int]:
        """Return the number of validation and of test rows whose text is in the training split as well."""
        seen = set(self.train.texts)
        return {
            "validation": sum(text in seen for text in self.validation.texts),
            "test": sum(text in seen for text in self.test.texts),
        }

    def list_warnings(self) -> list[str]:
        """Return a warning about labels without a training row."""
        absent = [self.label_names[index] for index in np.flatnonzero(~self.train.labels.any(axis=0))]
        if not absent:
            return list(self.notes)
        shown = ", ".join(absent[:5]) + (", ..." if len(absent) > 5 else "")
        return [
            *self.notes,
            f"{len(absent)} of {len(self.label_names)} labels have no training row and cannot be learned ({shown}): "
            "use more rows, or let dataset.topLabels keep fewer labels",
        ]

    def compute_fingerprint(self, *splits: str) -> str:
        """Return the SHA-256 over label names, texts and labels of these splits (default: all)."""
        digest = hashlib.sha256()

        def add(part: bytes) -> None:
            # Length-prefixed, so that ("ab", "c") and ("a", "bc") differ.
            digest.update(len(part).to_bytes(8, "big") + part)

        for name in self.label_names:
            add(name.encode())
        for name, split in self.get_splits().items():
            if splits and name not in splits:
                continue
            add(name.encode())
            for text in split.texts:
                add(text.encode("utf-8", "surrogatepass"))
            add(np.ascontiguousarray(split.labels, dtype=np.uint8).tobytes())
        return digest.hexdigest()


def prepare_data(raw: RawData, spec: DatasetSpec) -> PreparedData:
    """Return training, validation and test rows.

    The order is part of the contract: `topLabels`, then the test rows (if the source has none), then the sample,
    then the validation rows out of the sample.

    Raises
    ------
    UserError
        When a split would be empty, no training row has a label, or a label's name is too long.
    """
    raw = _locate_rows(raw)
    if spec.top_labels is not None:
        raw = keep_top_labels(raw, spec.top_labels)
    _check_label_names(raw.label_names)
    # RandomState, not default_rng: its stream is frozen, so that a seed draws the same rows in every image.
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
    data = PreparedData(raw.label_names, train, validation, test, fractions, raw.warnings)
    for name, split in data.get_splits().items():
        if len(split) == 0:
            raise UserError(Reason.INVALID_DATA, f"the {name} split has no rows")
    if not data.train.labels.any():
        raise UserError(Reason.INVALID_DATA, f"none of the {len(data.train)} training rows carries a label")
    return data


def _locate_rows(raw: RawData) -> RawData:
    """Return the data with places, which the rows keep in any split."""
    return replace(
        raw,
        train=raw.train.locate("train"),
        validation=raw.validation and raw.validation.locate("validation"),
        test=raw.test and raw.test.locate("test"),
    )


def _check_label_names(names: tuple[str, ...]) -> None:
    longest = max(names, key=len)
    if len(longest) > _MAX_LABEL_LENGTH:
        raise UserError(
            Reason.INVALID_DATA,
            f"the label '{longest[:40]}...' has {len(longest)} characters, at most {_MAX_LABEL_LENGTH} are allowed: "
            "is it a label, and dataset.columns.delimiter what separates the labels?",
        )


def keep_top_labels(raw: RawData, count: int) -> RawData:
    """Return the data with its `count` most frequent training labels and the rows that carry one of them.

    The kept labels stay in the source's order; of equally frequent ones the earlier is kept.
    """
    frequency = raw.train.labels.sum(axis=0, dtype=np.int64)
    kept = np.sort(np.argsort(-frequency, kind="stable")[:count])

    def narrow(split: Split | None) -> Split | None:
        if split is None:
            return None
        rows = np.flatnonzero(split.labels[:, kept].any(axis=1))
        part = split.take(rows)
        return replace(part, labels=part.labels[:, kept])

    train = narrow(raw.train)
    assert train is not None  # noqa: S101 - for the type checker: raw.train is never None
    names = tuple(raw.label_names[index] for index in kept)
    return RawData(names, train, narrow(raw.validation), narrow(raw.test), warnings=raw.warnings)


def _hold_out(split: Split, fraction: float, random: np.random.RandomState, name: str) -> tuple[Split, Split]:
    """Return the rest and about a `fraction` of the rows, stratified by label, both in the source's order.

    Only the most frequent labels are stratified, and of those only the ones with at least one expected row on either
    side; rows without one of them are spread evenly. Each label keeps a row in the rest: its only row is not held out,
    unless there are too few others, and where all of several were drawn, the first is put back.
    """
    rows = len(split)
    held = max(1, round(rows * fraction))
    if held >= rows:
        raise UserError(
            Reason.INVALID_DATA, f"{name} {fraction} of {rows} rows leaves none to train on: more rows are needed"
        )
    frequency = split.labels.sum(axis=0, dtype=np.int64)
    free = np.flatnonzero(~split.labels[:, frequency == 1].any(axis=1))
    if len(free) <= held:
        free = np.arange(rows)
    shares = np.array([len(free) - held, held]) / len(free)
    free = random.permutation(free)  # the library takes the rows of a label in order
    part = _stratify(split.labels[free], shares, random)
    chosen = np.zeros(rows, dtype=bool)
    chosen[free[part == 1]] = True
    for label in np.flatnonzero((frequency > 1) & ~split.labels[~chosen].any(axis=0)):
        carriers = np.flatnonzero(split.labels[:, label])
        if chosen[carriers].all():
            chosen[carriers[0]] = False
    return split.take(np.flatnonzero(~chosen)), split.take(np.flatnonzero(chosen))


def assign_folds(split: Split, folds: int, seed: int) -> NDArray[np.intp]:
    """Return the fold of each row, from 0, shape [rows]: stratified by label, and rows of equal text in the same fold.

    Raises
    ------
    UserError
        When there are fewer texts than folds.
    """
    # A model that has seen a text with its wrong label repeats it: rows of equal text follow the first of them.
    found: dict[str, int] = {}
    positions = [found.setdefault(text, len(found)) for text in split.texts]
    if len(found) < folds:
        raise UserError(
            Reason.INVALID_SPEC,
            f"evaluation.folds {folds} is more than the {len(found)} different training texts: use fewer folds",
        )
    first = np.unique(positions, return_index=True)[1]
    random = np.random.RandomState(seed)
    order = random.permutation(len(first))
    assigned = np.empty(len(first), dtype=np.intp)
    assigned[order] = _stratify(split.labels[first[order]], np.full(folds, 1 / folds), random)
    return assigned[positions]


def _stratify(labels: LabelMatrix, shares: NDArray[np.float64], random: np.random.RandomState) -> NDArray[np.intp]:
    """Return the part of each row, from 0, so that frequent labels and all rows are divided by these shares."""
    with block_import("pandas"):  # imported by scikit-learn
        from iterstrat.ml_stratifiers import (  # type: ignore[import-untyped]  # noqa: PLC0415 - unused with official splits
            IterativeStratification,
        )

    due = labels.sum(axis=0, dtype=np.int64) * shares.min()
    frequent = np.argsort(-due, kind="stable")[:_MAX_STRATIFIED_LABELS]
    frequent = frequent[due[frequent] >= 1]
    parts: NDArray[np.intp] = IterativeStratification(labels[:, frequent].astype(bool), shares, random)
    return parts
