"""A sink that delivers in a thread of its own: the newest report wins, and a dead receiver delays nothing."""

import logging
import threading
import time
from collections.abc import Callable

from trainingtask_api.status import TrainingReport

logger = logging.getLogger(__name__)

_LONGEST_INTERVAL = 10.0  # seconds
_FIRST_BACKOFF = 0.5
_LONGEST_BACKOFF = 10.0
_LONGEST_LAST_BACKOFF = 2.0  # with the last report the process waits


class DeliveryError(Exception):
    """A report could not be delivered now; it may work later."""


class Undeliverable(DeliveryError):  # noqa: N818 - reads as what it is
    """The receiver is gone for good."""


def interval_after(seconds: float, shortest: float) -> float:
    """Return the seconds to the next delivery when the sink is so many seconds old.

    A status is dear to write: a thousand trainings of hours cost an API server less when each is told about more seldom.
    """
    return max(shortest, min(seconds / 60, _LONGEST_INTERVAL))


class BackgroundSink:
    """Hands reports to `deliver`, one at a time.

    Parameters
    ----------
    name
        What the reports go to, for the log.
    deliver
        Called in the thread; raises `DeliveryError`.
    interval
        Seconds between two deliveries, see `interval_after`; the last report does not wait for it.
    patience
        Seconds for which the last report is tried, from the moment it is there.
    """

    def __init__(
        self, name: str, deliver: Callable[[TrainingReport], None], *, interval: float, patience: float
    ) -> None:
        self._name = name
        self._deliver = deliver
        self._interval = interval
        self._patience = patience
        self._changed = threading.Condition()
        self._slot: TrainingReport | None = None
        self._deadline: float | None = None  # set with the last report
        self._gone = False
        self._complained = False
        # A daemon: a delivery that hangs beyond its own timeout must not keep the process.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def send(self, report: TrainingReport) -> None:
        """Take the newest report in the place of one that still waits."""
        with self._changed:
            self._slot = report
            self._changed.notify()

    def finish(self, report: TrainingReport, patience: float | None) -> None:
        """Take the last report and start the clock."""
        limit = self._patience if patience is None else min(patience, self._patience)
        with self._changed:
            self._slot = report
            self._deadline = time.monotonic() + limit
            self._changed.notify()

    def wait(self) -> None:
        """Return when the last report is delivered or its time is over."""
        if self._deadline is not None:
            self._thread.join(max(0.0, self._deadline - time.monotonic()))
        if self._slot is not None:
            logger.warning("The last report did not reach %s; the operator completes the record", self._name)

    def _run(self) -> None:
        backoff, begin = _FIRST_BACKOFF, time.monotonic()
        while (report := self._next()) is not None:
            if self._try(report):
                with self._changed:
                    if self._slot is report:
                        self._slot = None
                backoff = _FIRST_BACKOFF
                self._pause(interval_after(time.monotonic() - begin, self._interval))
            else:
                self._pause(backoff)
                backoff = min(2 * backoff, _LONGEST_BACKOFF)

    def _next(self) -> TrainingReport | None:
        """Return the report to deliver, None when there will be none. It stays in the slot until it is delivered."""
        with self._changed:
            self._changed.wait_for(lambda: self._slot is not None or self._deadline is not None)
            late = self._deadline is not None and time.monotonic() >= self._deadline
            return None if self._gone or late else self._slot

    def _try(self, report: TrainingReport) -> bool:
        try:
            self._deliver(report)
        except Undeliverable as error:
            logger.warning("%s takes no more reports: %s", self._name, error)
            self._gone = True
            return False
        except DeliveryError as error:
            if not self._complained:  # once per outage, not every few seconds
                logger.warning("%s cannot be reached, training goes on: %s", self._name, error)
            self._complained = True
            return False
        self._complained = False
        return True

    def _pause(self, seconds: float) -> None:
        """Wait between deliveries. The arrival of the last report ends the wait: it may be the one that gets through."""
        with self._changed:
            if self._deadline is None:
                self._changed.wait_for(lambda: self._deadline is not None, seconds)
            elif self._slot is not None and not self._gone:
                left = self._deadline - time.monotonic()
                self._changed.wait(max(0.0, min(seconds, _LONGEST_LAST_BACKOFF, left)))
