"""Lengths of the training texts in tokens: what is cut, and the length that `maxLength: auto` stands for."""

import numpy as np
from numpy.typing import NDArray

from trainingtask_api.status import TextLengths

MIN_TOKENS = 4
MOST_TOKENS = 32_768
"""The bounds of `preprocessor.maxLength`."""
MAX_CUT_FRACTION = 0.05
"""More is warned about; `auto` cuts at most this much, unless the checkpoint cannot read more."""

Lengths = NDArray[np.int64]


def summarize(lengths: Lengths, max_length: int) -> TextLengths:
    """Return the percentiles of texts' lengths, and the fraction that is longer than `max_length`."""
    p50, p95, p99 = (_compute_percentile(lengths, percent) for percent in (50, 95, 99))
    cut = float(np.mean(lengths > max_length)) if len(lengths) else 0.0
    return TextLengths(p50=p50, p95=p95, p99=p99, max_length=max_length, cut_fraction=cut)


def choose_max_length(lengths: Lengths, limit: int) -> int:
    """Return the 95th percentile of the lengths, within `limit`."""
    return min(limit, max(MIN_TOKENS, _compute_percentile(lengths, 95)))


def describe_cut_texts(lengths: TextLengths, limit: int | None) -> list[str]:
    """Return a warning when many training texts are cut; `limit` is the most tokens that the checkpoint can read."""
    if lengths.cut_fraction <= MAX_CUT_FRACTION:
        return []
    most = min(limit or MOST_TOKENS, MOST_TOKENS)
    if lengths.max_length < most:
        advice = f"set preprocessor.maxLength to {min(lengths.p95, most)} or 'auto'" + (
            f" (checkpoint's limit: {limit})" if limit is not None else ""
        )
    else:
        advice = "the checkpoint reads no more, take one for longer texts or put what matters first"
    return [
        f"{lengths.cut_fraction:.1%} of the training texts are cut to {lengths.max_length} tokens, as 95 % have up to"
        f" {lengths.p95} and 99 % up to {lengths.p99}: {advice}"
    ]


def _compute_percentile(lengths: Lengths, percent: int) -> int:
    """Return the least length that so many of the texts do not exceed."""
    return int(np.percentile(lengths, percent, method="inverted_cdf")) if len(lengths) else 0
