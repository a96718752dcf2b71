"""Curves and final scores as named numbers."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from trainingtask_api.nested import flatten
from trainingtask_api.status import Results
from trainingtask_trainer.reporting.progress import CurvePoint


class Scalar(NamedTuple):
    """The value of a curve at an optimizer step."""

    name: str
    step: int
    value: float


def iterate_curve(curve: Sequence[CurvePoint]) -> Iterator[Scalar]:
    """Yield the finite values of a curve under the names of its fields."""
    for point in curve:
        for name, value in dataclasses.asdict(point).items():
            if name != "step" and value is not None and math.isfinite(value):
                yield Scalar(name, point.step, value)


def collect_scores(results: Results) -> dict[str, float]:
    """Return the numbers of the results by their paths in `results.json`, such as ``evaluation.micro.f1``."""
    content = results.to_json()
    content.pop("arguments", None)
    return {path: value for path, value in flatten(content) if type(value) in (int, float) and math.isfinite(value)}
