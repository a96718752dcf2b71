import numpy as np
import pytest

from trainingtask_trainer.datasets.base import Split
from trainingtask_trainer.evaluation.repeated_texts import count_repeated_texts, normalize


def split(*rows: tuple[str, int]) -> Split:
    return Split([text for text, _ in rows], np.eye(3, dtype=np.uint8)[[label for _, label in rows]])


def test_rows_of_one_text_with_other_labels_conflict_across_splits() -> None:
    train = split(("same", 0), ("same", 0), ("twice", 1), ("once", 2))
    found = count_repeated_texts([train, split(("same", 1)), split(("twice", 1))])
    assert found.conflicting_rows == 3
    assert found.near_duplicate_rows == 5


def test_texts_that_differ_in_form_alone_are_near_duplicates() -> None:
    found = count_repeated_texts([split(("It's slow!", 0), ("it s   SLOW", 1), ("it is slow", 0), ("☃", 0), ("☂", 0))])
    assert found == (0, 2)


@pytest.mark.parametrize(
    ("text", "words"), [("\uff28ello,\tWORLD_1", "hello world 1"), ("!?", "!?"), ("Straße", "strasse")]
)
def test_normalized_texts(text: str, words: str) -> None:
    assert normalize(text) == words
