"""The values of several runs by path: where their specs differ, and their scores. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainingtask_api.nested import align, diff, flatten

_NON_SCALAR_KEYS = ("per_label", "undefined")

Objects = Sequence[Mapping[str, Any] | None]


@dataclass(frozen=True)
class PathValues:
    """A path, such as 'training.epochs', and what stands there in each run; null where it is absent."""

    path: str
    values: list[Any]


def diff_specs(specs: Objects) -> list[PathValues]:
    """Return the paths at which not all specs are equal, sorted: Postgres keeps no order of keys. A list is one value."""
    return [PathValues(path, values) for path, values in sorted(diff(_flatten_all(specs)), key=_get_path)]


def collect_scores(results: Objects) -> list[PathValues]:
    """Return the numbers of evaluation results by path, without those of single labels."""
    scalars = [{key: value for key, value in (one or {}).items() if key not in _NON_SCALAR_KEYS} for one in results]
    lines = [PathValues(path, values) for path, values in sorted(align(_flatten_all(scalars)), key=_get_path)]
    return [line for line in lines if all(isinstance(value, int | float | None) for value in line.values)]


def _flatten_all(objects: Objects) -> list[dict[str, Any]]:
    return [dict(flatten(one, keep_empty=False)) for one in objects]


def _get_path(line: tuple[str, list[Any]]) -> str:
    return line[0]
