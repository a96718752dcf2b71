from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from trainingtask_api.dataset import Dataset
from trainingtask_trainer.datasets.base import Places, RawData, Split, encode_multi_hot
from trainingtask_trainer.datasets.splits import assign_folds, prepare_data
from trainingtask_trainer.datasets.support_tickets import LABELS, SupportTickets
from trainingtask_trainer.errors import UserError


def rows(count: int, start: int = 0) -> Split:
    """Return rows whose text is their number; label 0 on all, 1 on every second, 2 on every third."""
    numbers = range(start, start + count)
    return Split(
        [str(number) for number in numbers],
        encode_multi_hot(([label for label in range(3) if number % (label + 1) == 0] for number in numbers), 3),
    )


def spec(**fields: object) -> Dataset:
    return Dataset.model_validate({"name": "anything", **fields})


RAW = RawData(("a", "b", "c"), rows(100), rows(20, 100), rows(30, 200))


def test_official_splits_are_kept() -> None:
    data = prepare_data(RAW, spec())
    for name, split in data.get_splits().items():
        given: Split = getattr(RAW, name)
        assert split.texts is given.texts
        assert split.labels is given.labels
    assert data.fractions == {}


def test_missing_splits_are_drawn_without_overlap() -> None:
    data = prepare_data(RawData(RAW.label_names, rows(100)), spec(testFraction=0.25, validationFraction=0.2))
    texts = [text for split in data.get_splits().values() for text in split.texts]
    assert [len(split) for split in data.get_splits().values()] == [60, 15, 25]
    assert sorted(texts, key=int) == [str(number) for number in range(100)]
    assert data.fractions == {"dataset.testFraction": 0.25, "dataset.validationFraction": 0.2}


def test_held_out_rows_have_their_share_of_every_label() -> None:
    # Three labels on 60, 50 and 5 of 500 rows: rows drawn without regard to labels would miss the shares.
    data = prepare_data(RawData(("a", "b", "c"), rare_labels(500)), spec(testFraction=0.2, validationFraction=0.2))
    assert [split.labels.sum(axis=0).tolist() for split in (data.test, data.validation, data.train)] == [
        [12, 10, 1], [10, 8, 1], [38, 32, 3],
    ]  # fmt: skip
    assert [len(split) for split in (data.test, data.validation, data.train)] == [100, 80, 320]


def rare_labels(count: int) -> Split:
    """Return rows of which the first 60 carry label 0, the next 50 label 1 and the last 5 label 2."""
    labels = np.zeros((count, 3), dtype=np.uint8)
    labels[:60, 0] = labels[60:110, 1] = labels[-5:, 2] = 1
    return Split([str(number) for number in range(count)], labels)


@pytest.mark.parametrize("seed", range(20))
def test_a_label_of_two_rows_can_always_be_learned(seed: int) -> None:
    # 20 labels with two rows each: without care some pair is drawn whole with almost any seed.
    pairs = Split([str(number) for number in range(40)], encode_multi_hot(([number // 2] for number in range(40)), 20))
    names = tuple(str(label) for label in range(20))
    data = prepare_data(RawData(names, pairs), spec(seed=seed, testFraction=0.4))
    assert data.list_warnings() == []
    assert len(data.test) >= 8


def test_labels_without_a_training_row_are_told() -> None:
    names = tuple(f"label{number}" for number in range(8))
    full = Split([str(number) for number in range(8)], np.eye(8, dtype=np.uint8))
    data = prepare_data(RawData(names, full.take([0, 1]), full, full), spec())
    assert data.list_warnings() == [
        "6 of 8 labels have no training row and cannot be learned (label2, label3, label4, label5, label6, ...): "
        "use more rows, or let dataset.topLabels keep fewer labels"
    ]


def test_rows_whose_text_stands_in_the_training_rows_are_counted() -> None:
    repeated = rows(3, 98)  # 98 and 99 are training rows, 100 is none
    assert prepare_data(RawData(RAW.label_names, RAW.train, repeated, rows(1)), spec()).count_texts_in_train() == {
        "validation": 2,
        "test": 1,
    }


def test_frequent_labels_are_stratified_and_all_keep_a_training_row() -> None:
    random = np.random.RandomState(0)
    labels = (random.random_sample((10_000, 1000)) < 0.1 / np.arange(1, 1001)).astype(np.uint8)
    names = tuple(str(label) for label in np.flatnonzero(labels.any(axis=0)))
    many = Split([str(number) for number in range(10_000)], labels[:, labels.any(axis=0)])
    data = prepare_data(RawData(names, many), spec())
    assert len(data.test) == pytest.approx(2000, abs=20)
    shares = data.test.labels[:, :10].sum(axis=0) / many.labels[:, :10].sum(axis=0)
    assert shares == pytest.approx(0.2, abs=0.01)
    assert data.list_warnings() == []


def test_sample_is_drawn_before_the_validation_rows() -> None:
    data = prepare_data(RAW, spec(sampleSize=50, validationFraction=0.2))
    assert (len(data.train), len(data.validation), len(data.test)) == (40, 10, 30)
    assert set(data.train.texts + data.validation.texts) <= set(RAW.train.texts)


def test_texts_and_labels_stay_together() -> None:
    data = prepare_data(RAW, spec(sampleSize=50, validationFraction=0.2))
    for text, labels in zip(data.train.texts, data.train.labels, strict=True):
        assert list(labels) == [int(int(text) % (label + 1) == 0) for label in range(3)]


def test_a_seed_draws_the_same_rows_for_ever() -> None:
    # Literal values: another version of numpy or of this code must not change what a seed means.
    assert prepare_data(RAW, spec(sampleSize=10, seed=7)).train.texts == [
        "15", "22", "26", "37", "49", "71", "78", "86", "91", "93",
    ]  # fmt: skip
    assert (
        prepare_data(RAW, spec(sampleSize=10, seed=8)).train.texts != prepare_data(RAW, spec(sampleSize=10)).train.texts
    )


def test_top_labels_keep_the_rows_that_carry_one() -> None:
    train = Split(["x", "y", "z", "xz"], np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1]], dtype=np.uint8))
    data = prepare_data(RawData(("a", "b", "c"), train, train, train), spec(topLabels=2))
    assert data.label_names == ("a", "c")
    assert data.train.texts == data.test.texts == ["x", "z", "xz"]
    assert data.test.labels.tolist() == [[1, 0], [0, 1], [1, 1]]


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(UserError, match=r"dataset.testFraction 0.2 of 1 rows leaves none to train on"):
        prepare_data(RawData(("a", "b", "c"), rows(1)), spec())


def test_rows_without_any_label_are_refused() -> None:
    blank = Split(["x"] * 4, np.zeros((4, 2), dtype=np.uint8))
    with pytest.raises(UserError, match="none of the 4 training rows carries a label"):
        prepare_data(RawData(("a", "b"), blank, blank, blank), spec())


def test_fingerprint_sees_every_text_label_and_border() -> None:
    base = prepare_data(RAW, spec()).compute_fingerprint()
    assert base == prepare_data(RAW, spec()).compute_fingerprint()
    text = Split([*RAW.train.texts[:-1], "other"], RAW.train.labels)
    flipped = Split(RAW.train.texts, RAW.train.labels ^ 1)
    moved = Split(["01", *RAW.train.texts[2:], "x"], RAW.train.labels)
    others = [
        prepare_data(RawData(RAW.label_names, s, RAW.validation, RAW.test), spec()) for s in (text, flipped, moved)
    ]
    assert len({base, *(data.compute_fingerprint() for data in others)}) == 4


def test_support_tickets_are_the_same_everywhere() -> None:
    # Held here literally, so that the image's Python and a laptop's must agree.
    data = prepare_data(SupportTickets().load(spec(), Path()), spec())
    assert data.compute_fingerprint() == "06bcc9fc7b4f2cc43c87adef0e28b123a9dfcdb43708c24da92328074dbe4ef1"
    assert data.label_names == LABELS
    assert len(data.train) + len(data.validation) + len(data.test) == 1500
    assert (data.test.labels.sum(axis=0) >= 10).all()


def test_support_tickets_follow_their_seed() -> None:
    assert SupportTickets().load(spec(seed=1), Path()).train.texts != SupportTickets().load(spec(), Path()).train.texts


def test_a_row_keeps_its_place_in_the_source() -> None:
    parts = Places.of([("a.csv", np.arange(2, 72)), ("b.csv", np.arange(2, 32))])
    data = prepare_data(RawData(RAW.label_names, replace(rows(100), places=parts)), spec(sampleSize=60))
    found = set()
    for split in data.get_splits().values():
        assert split.places is not None
        for text, index, number in zip(split.texts, split.places.source_indexes, split.places.numbers, strict=True):
            found.add(text)
            assert int(text) == number - 2 + (0 if parts.sources[index] == "a.csv" else 70)
    assert len(found) == 80


def test_rows_without_places_are_counted_in_their_own_split() -> None:
    data = prepare_data(RawData(RAW.label_names, rows(100)), spec())
    assert data.test.places is not None
    assert data.test.places.sources == ("train",)
    assert [str(number - 1) for number in data.test.places.numbers] == data.test.texts


def test_folds_have_a_like_share_of_each_label() -> None:
    split = rows(300)
    folds = assign_folds(split, 3, seed=1)
    assert np.bincount(folds).tolist() == [100, 100, 100]
    counts = np.array([split.labels[folds == fold].sum(axis=0) for fold in range(3)])
    assert (counts.max(axis=0) - counts.min(axis=0) <= 2).all()
    assert (folds == assign_folds(split, 3, seed=1)).all()


def test_rows_of_equal_text_are_in_one_fold() -> None:
    split = Split([str(number // 2) for number in range(40)], np.tile(np.eye(2, dtype=np.uint8), (20, 1)))
    folds = assign_folds(split, 4, seed=0)
    assert (folds[::2] == folds[1::2]).all()
    assert len(set(folds)) == 4


def test_more_folds_than_rows_are_refused() -> None:
    with pytest.raises(UserError, match=r"evaluation\.folds 5 is more than the 4 different training texts"):
        assign_folds(rows(4), 5, seed=0)
