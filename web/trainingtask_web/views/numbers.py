"""Numbers and lists of JSON columns, whose shape a trainer image or another release may have changed. Pure."""

import math
from typing import Any

from trainingtask_api.nested import get_path


def to_finite(value: Any) -> float | None:
    """Return a finite number unchanged, None for everything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return value if math.isfinite(value) else None
    except OverflowError:  # an integer of more digits than a float has
        return None


def get_number(value: Any, *path: str) -> float | None:
    """Return the finite number at a path of nested objects, None where there is none."""
    return to_finite(get_path(value, *path))


def get_list(value: Any, *path: str) -> list[Any]:
    """Return the list at a path, an empty one where there is none."""
    found = get_path(value, *path)
    return found if isinstance(found, list) else []
