"""The observer of a run's downloads, which the run sets and every download finds: no signature has to pass it on."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

from trainingtask_api.status import Source


class Observer(Protocol):
    """Receives the progress of downloads, and a record of each source that was read."""

    def report_loading(
        self, bytes_read: int | None = None, bytes_total: int | None = None, rows: int | None = None
    ) -> None:
        """Report how much of a source has been read; raise `Interrupted` when the process was asked to stop."""
        ...

    def report_source(self, source: Source) -> None:
        """Report which state of a source is read; one of the same field is replaced."""
        ...

    def find_commit(self, field: str, address: str) -> str | None:
        """Return the commit of a hub repository that this attempt or an earlier one has read, None when none has."""
        ...

    def add_warning(self, text: str) -> None:
        """Add a warning to the results."""
        ...

    def raise_if_interrupted(self) -> None:
        """Raise `Interrupted` when the process was asked to stop."""
        ...


class _NoObserver:
    def report_loading(
        self, bytes_read: int | None = None, bytes_total: int | None = None, rows: int | None = None
    ) -> None:
        pass

    def report_source(self, source: Source) -> None:
        pass

    def find_commit(self, field: str, address: str) -> str | None:
        return None

    def add_warning(self, text: str) -> None:
        pass

    def raise_if_interrupted(self) -> None:
        pass


_NO_OBSERVER = _NoObserver()
_current: ContextVar[Observer] = ContextVar("observer")


def get_observer() -> Observer:
    """Return the observer of this run; one that does nothing outside of a run."""
    return _current.get(_NO_OBSERVER)


@contextmanager
def observe_downloads(observer: Observer) -> Iterator[None]:
    """Have `observer` receive what is downloaded while entered."""
    token = _current.set(observer)
    try:
        yield
    finally:
        _current.reset(token)
