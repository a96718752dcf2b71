import numpy as np
import pytest

from trainingtask_trainer.preprocessors.text_lengths import describe_cut_texts, summarize

LENGTHS = np.arange(1, 101)


@pytest.mark.parametrize(
    ("max_length", "limit", "expected"),
    [
        (100, 512, []),
        (95, 512, []),
        (
            60,
            512,
            [
                "40.0% of the training texts are cut to 60 tokens, as 95 % have up to 95 and 99 % up to 99:"
                " set preprocessor.maxLength to 95 or 'auto' (checkpoint's limit: 512)"
            ],
        ),
        (
            60,
            80,
            [
                "40.0% of the training texts are cut to 60 tokens, as 95 % have up to 95 and 99 % up to 99:"
                " set preprocessor.maxLength to 80 or 'auto' (checkpoint's limit: 80)"
            ],
        ),
        (
            60,
            60,
            [
                "40.0% of the training texts are cut to 60 tokens, as 95 % have up to 95 and 99 % up to 99:"
                " the checkpoint reads no more, take one for longer texts or put what matters first"
            ],
        ),
        (
            60,
            None,
            [
                "40.0% of the training texts are cut to 60 tokens, as 95 % have up to 95 and 99 % up to 99:"
                " set preprocessor.maxLength to 95 or 'auto'"
            ],
        ),
    ],
)
def test_many_cut_texts_are_warned_about(max_length: int, limit: int | None, expected: list[str]) -> None:
    assert describe_cut_texts(summarize(LENGTHS, max_length), limit) == expected
