"""A sink that delivers in a thread of its own: the newest report replaces older ones, an unavailable receiver delays nothing."""

import logging
import threading
import time
from collections.abc import Callable

from trainingtask_api.status import TrainingReport

logger = logging.getLogger(__name__)

# Seconds between two deliveries: at least these, and up to _MAX_INTERVAL once a training is old. Each write of a status
# is work for the API server, and thousands of trainings share it.
MIN_STATUS_INTERVAL = 2.0
MIN_HISTORY_INTERVAL = 10.0
_MAX_INTERVAL = 10.0
_INITIAL_BACKOFF = 0.5
_MAX_BACKOFF = 10.0
_MAX_FINAL_BACKOFF = 2.0  # the process waits for the last report


class DeliveryError(Exception):
    """A report could not be delivered; a later one may be."""


class PermanentDeliveryError(DeliveryError):
    """No later report can be delivered either: the receiver was deleted."""


def compute_interval(age: float, shortest: float) -> float:
    """Return the seconds to the next delivery of a sink of this age: a sixtieth of the age, between the bounds."""
    return max(shortest, min(age / 60, _MAX_INTERVAL))


class BackgroundSink:
    """Passes reports to `deliver`, one at a time.

    Parameters
    ----------
    name
        The receiver, for the log.
    deliver
        Called in the thread; raises `DeliveryError`. Any other error ends the deliveries.
    interval
        Least seconds between two deliveries, see `compute_interval`; the last report does not wait for it.
    final_timeout
        Seconds for which the last report is tried, from `finish` on.

    Attributes
    ----------
    error
        Why the latest delivery failed; None when it did not.
    """

    def __init__(
        self, name: str, deliver: Callable[[TrainingReport], None], *, interval: float, final_timeout: float
    ) -> None:
        self._name = name
        self._deliver = deliver
        self._interval = interval
        self._final_timeout = final_timeout
        self._changed = threading.Condition()
        self._pending: TrainingReport | None = None
        self._deadline: float | None = None  # set with the last report
        self._is_closed = False
        self._is_outage_logged = False
        self.error: DeliveryError | None = None
        # A daemon, so that a delivery that hangs does not keep the process.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def send(self, report: TrainingReport) -> None:
        """Replace the pending report by a newer one."""
        with self._changed:
            self._pending = report
            self._changed.notify()

    def finish(self, report: TrainingReport, timeout: float | None) -> None:
        """Take the last report and start its timeout."""
        limit = self._final_timeout if timeout is None else min(timeout, self._final_timeout)
        with self._changed:
            self._pending = report
            self._deadline = time.monotonic() + limit
            self._changed.notify()

    def wait(self) -> None:
        """Block until the last report is delivered or has timed out."""
        self.join()
        if not self.is_delivered:
            logger.warning("The last report did not reach %s; the operator completes the record", self._name)

    @property
    def is_delivered(self) -> bool:
        """Whether the newest report is delivered."""
        return self._pending is None

    def join(self) -> None:
        """Block until the last report is delivered or has timed out, without a word in the log."""
        if self._deadline is not None:
            self._thread.join(max(0.0, self._deadline - time.monotonic()))

    def _run(self) -> None:
        backoff, begin = _INITIAL_BACKOFF, time.monotonic()
        while (report := self._wait_for_report()) is not None:
            if self._try_deliver(report):
                with self._changed:
                    if self._pending is report:
                        self._pending = None
                backoff = _INITIAL_BACKOFF
                self._wait_between_deliveries(compute_interval(time.monotonic() - begin, self._interval))
            else:
                self._wait_between_deliveries(backoff)
                backoff = min(2 * backoff, _MAX_BACKOFF)

    def _wait_for_report(self) -> TrainingReport | None:
        """Block until there is a report and return it, still pending; None when there will be none."""
        with self._changed:
            self._changed.wait_for(lambda: self._pending is not None or self._deadline is not None)
            late = self._deadline is not None and time.monotonic() >= self._deadline
            return None if self._is_closed or late else self._pending

    def _try_deliver(self, report: TrainingReport) -> bool:
        try:
            self._deliver(report)
        except PermanentDeliveryError as error:
            self.error = error
            logger.warning("%s takes no more reports: %s", self._name, error)
            self._is_closed = True
            return False
        except DeliveryError as error:
            self.error = error
            if not self._is_outage_logged:  # once per outage, not every few seconds
                logger.warning("%s cannot be reached, training goes on: %s", self._name, error)
            self._is_outage_logged = True
            return False
        # A defect, at the root of the thread, which would end with its reports pending and no cause.
        except Exception as error:
            self.error = PermanentDeliveryError(f"unexpected {type(error).__name__}, see the trainer's log")
            logger.error("%s takes no more reports", self._name, exc_info=error)
            self._is_closed = True
            return False
        self._is_outage_logged = False
        self.error = None
        return True

    def _wait_between_deliveries(self, seconds: float) -> None:
        """Wait between deliveries, until `finish` is called at the latest."""
        with self._changed:
            if self._deadline is None:
                self._changed.wait_for(lambda: self._deadline is not None, seconds)
            elif self._pending is not None and not self._is_closed:
                left = self._deadline - time.monotonic()
                self._changed.wait(max(0.0, min(seconds, _MAX_FINAL_BACKOFF, left)))
