"""Nested mappings by dotted paths: look up, flatten, and compare."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_MAX_PATH_CHARACTERS = 256


def get_path(value: Any, *path: str) -> Any:
    """Return the value at a path of nested mappings, None where there is none."""
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def flatten(value: Any, *, keep_empty: bool = True, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of a nested mapping by dotted path; a list is one leaf, and so is an empty mapping if kept.

    A path is cut after 256 characters: it would repeat a long key for each leaf below it.
    """
    if not isinstance(value, Mapping):
        return
    for key, item in value.items():
        path = (f"{prefix}.{key}" if prefix else str(key))[:_MAX_PATH_CHARACTERS]
        if not isinstance(item, Mapping) or (keep_empty and not item):
            yield path, item
        else:
            yield from flatten(item, keep_empty=keep_empty, prefix=path)


def align(leaves: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, list[Any]]]:
    """Yield each path of several flat mappings in the order of first appearance, with the value of each, else None."""
    for path in dict.fromkeys(path for one in leaves for path in one):
        yield path, [one.get(path) for one in leaves]


def diff(leaves: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, list[Any]]]:
    """Yield the paths of `align` at which not all values are equal."""
    return ((path, values) for path, values in align(leaves) if any(value != values[0] for value in values))
