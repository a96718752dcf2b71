"""Blocking of imports that a library makes but does not need here."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def block_import(package: str) -> Iterator[None]:
    """Make imports of `package` fail as if it were not installed, unless it is imported already."""
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # type: ignore[assignment] # documented as "not importable"
    try:
        yield
    finally:
        del sys.modules[package]


@contextmanager
def block_transformers_import(package: str) -> Iterator[None]:
    """Block `package` for the transformers library too, which caches whether it is installed."""
    from transformers import utils  # noqa: PLC0415 - heavy; its callers import it next

    if package not in sys.modules:
        getattr(utils, f"is_{package}_available").cache_clear()
    with block_import(package):
        yield
