"""Reading and writing skops files without paying for torch."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def dump(state: dict[str, Any], path: Path) -> None:
    """Write scikit-learn estimators and arrays into one file."""
    with _without_torch():
        import skops.io  # noqa: PLC0415 - seconds
    skops.io.dump(state, path)


def load(path: Path) -> dict[str, Any]:
    """Read what `dump` has written.

    Raises
    ------
    skops.io.exceptions.UntrustedTypesFoundException
        When the file holds a type that skops does not trust by itself; nothing of it has been built then.
    """
    with _without_torch():
        import skops.io  # noqa: PLC0415
    state: dict[str, Any] = skops.io.load(path, trusted=[])
    return state


@contextmanager
def _without_torch() -> Iterator[None]:
    """Keep torch from being imported, where it has not been.

    skops imports every module below `sklearn` to find the types it trusts, and one of those is a wrapper around torch:
    seconds and hundreds of MiB for nothing. Without torch that module is skipped, as where torch is not installed.
    """
    if "torch" in sys.modules:
        yield
        return
    sys.modules["torch"] = None  # type: ignore[assignment] # the import system's word for "not importable"
    try:
        yield
    finally:
        del sys.modules["torch"]
