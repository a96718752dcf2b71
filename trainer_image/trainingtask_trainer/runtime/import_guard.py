"""Leaving out what a library imports without needing it."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def block_import(package: str) -> Iterator[None]:
    """Keep `package` from being imported, where it has not been: whoever asks for it takes it as not installed."""
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # type: ignore[assignment] # the import system's word for "not importable"
    try:
        yield
    finally:
        del sys.modules[package]


@contextmanager
def block_transformers_import(package: str) -> Iterator[None]:
    """Keep the transformers library from importing `package`: it remembers whether that is installed, so ask it anew."""
    from transformers import utils  # noqa: PLC0415 - for those who import it anyway

    if package not in sys.modules:
        getattr(utils, f"is_{package}_available").cache_clear()
    with block_import(package):
        yield
