"""What differs between runs, by path: in their specs, and in their scores. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_NON_SCALAR_KEYS = ("per_label", "undefined")


@dataclass(frozen=True)
class Line:
    """A path, such as 'training.epochs', and what stands there in each run; null where it is absent."""

    path: str
    values: list[Any]


def differences(specs: Sequence[Mapping[str, Any] | None]) -> list[Line]:
    """Return the paths at which not all specs say the same. A list is one value."""
    return [line for line in _lines(specs) if any(value != line.values[0] for value in line.values)]


def scores(results: Sequence[Mapping[str, Any] | None]) -> list[Line]:
    """Return the numbers of evaluation results, but those of single labels."""
    bare = [{key: value for key, value in (one or {}).items() if key not in _NON_SCALAR_KEYS} for one in results]
    return [line for line in _lines(bare) if all(isinstance(value, int | float | None) for value in line.values)]


def _lines(objects: Sequence[Mapping[str, Any] | None]) -> list[Line]:
    leaves = [dict(_leaves("", one or {})) for one in objects]
    paths = {path for one in leaves for path in one}  # sorted: Postgres keeps no order of keys
    return [Line(path, [one.get(path) for one in leaves]) for path in sorted(paths)]


def _leaves(prefix: str, value: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        path = f"{prefix}.{key}" if prefix else key
        if isinstance(item, Mapping):
            yield from _leaves(path, item)
        else:
            yield path, item
