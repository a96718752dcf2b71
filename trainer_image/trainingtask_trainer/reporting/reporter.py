"""The current report of a run, and its sinks, which get each new one."""

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from trainingtask_api.formatting import format_size, format_time_left
from trainingtask_api.status import MAX_SOURCES, MAX_WARNINGS, ExitCode, Failure, Phase, Results, Source, TrainingReport
from trainingtask_trainer.reporting.background import DeliveryError
from trainingtask_trainer.reporting.kube_status import EarlierSources
from trainingtask_trainer.reporting.progress import CurvePoint, Step
from trainingtask_trainer.runtime.memory import get_peak_bytes
from trainingtask_trainer.runtime.signals import InterruptHandler

_EARLIER_TIMEOUT = 90.0  # seconds; the status is read for 60
# Within the pod's grace period of 60 s.
_FINAL_TIMEOUT_AFTER_SIGTERM = 10.0


class Sink(Protocol):
    """A receiver of reports. No method may raise, and none but `wait` may block."""

    def send(self, report: TrainingReport) -> None:
        """Take the newest report."""
        ...

    def finish(self, report: TrainingReport, timeout: float | None) -> None:
        """Take the last report, to be delivered within `timeout` seconds (None: the sink's own limit)."""
        ...

    def wait(self) -> None:
        """Block until the last report is delivered or has timed out."""
        ...


class Tracker(Sink, Protocol):
    """A sink with a page of its own for the run; it ends before the others, which report that page and what is missing."""

    @property
    def url(self) -> str | None:
        """The page of the run, None until there is one."""
        ...

    def describe_loss(self) -> str | None:
        """Return a sentence on what was not recorded, None where all was."""
        ...


def utc_now() -> datetime:
    """Return the current time, with its zone."""
    return datetime.now(UTC)


class Reporter:
    """Keeps the run's `TrainingReport` and its curve, and sends each change to all sinks."""

    def __init__(
        self,
        sinks: Sequence[Sink],
        attempt: int = 1,
        interrupts: InterruptHandler | None = None,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._sinks = list(sinks)
        self._interrupts = interrupts
        self._now = now
        self._tracker: Tracker | None = None
        self._first: tuple[Step, datetime] | None = None  # of this attempt, and its time
        self.curve: Sequence[CurvePoint] = ()
        self.artifacts: Mapping[str, bytes] = {}
        self.warnings: list[str] = []
        self.earlier_sources: EarlierSources | None = None  # outside a cluster there are none
        start = now()
        self.report = TrainingReport(attempt=attempt, phase=Phase.STARTING, start_time=start, report_time=start)

    def add_sink(self, sink: Sink) -> None:
        """Add a sink, and send it the current report."""
        self._sinks.append(sink)
        sink.send(self.report)

    def track(self, tracker: Tracker) -> None:
        """Report to an experiment tracker as well."""
        self._tracker = tracker
        tracker.send(self.report)

    def keep_artifacts(self, files: Sequence[Path]) -> None:
        """Keep the contents of a model's files for the tracker, which gets them at the end."""
        if self._tracker is not None:
            self.artifacts = {file.name: file.read_bytes() for file in files}

    def start_phase(self, phase: Phase) -> None:
        """Report that the run enters a phase."""
        if self.report.phase == Phase.LOADING:  # its progress is in bytes
            self.report = self.report.model_copy(update={"progress": None})
        self._send(phase=phase, eta=None)

    def report_loading(
        self, bytes_read: int | None = None, bytes_total: int | None = None, rows: int | None = None
    ) -> None:
        """Report how much of a source has been read: the bytes while it is downloaded, then the rows in it."""
        if bytes_read is not None:
            total = "" if bytes_total is None else f" of {format_size(bytes_total)}"
            self._send(bytes_read=bytes_read, bytes_total=bytes_total, progress=f"{format_size(bytes_read)}{total}")
        if rows is not None:
            self._send(rows_read=rows, progress=f"{rows} rows")

    def report_saving(self, progress: str) -> None:
        """Report which step of saving the model comes next."""
        self._send(progress=progress)

    def report_source(self, source: Source) -> None:
        """Report which state of a source is read; one of the same field is replaced."""
        others = [known for known in self.report.sources or () if known.field != source.field]
        self._send(sources=[*others, source][:MAX_SOURCES])

    def find_commit(self, field: str, address: str) -> str | None:
        """Return the commit of a hub repository that this attempt or an earlier one has read, None when none has."""
        known = next((source for source in self.report.sources or () if source.field == field), None)
        sources = [known] if known else self._wait_for_earlier_sources()
        return next((entry.commit for entry in sources if (entry.field, entry.address) == (field, address)), None)

    def _wait_for_earlier_sources(self) -> Sequence[Source]:
        end = time.monotonic() + _EARLIER_TIMEOUT
        while self.earlier_sources is not None:
            self.raise_if_interrupted()
            try:
                return self.earlier_sources.result(timeout=1)
            except TimeoutError:
                if time.monotonic() < end:
                    continue
                why = "no answer"
            except DeliveryError as error:
                why = str(error)
            self.earlier_sources = None
            self.add_warning(f"the task's status could not be read ({why}): commits of earlier attempts are not known")
        return ()

    def add_warning(self, text: str) -> None:
        """Add a warning to the results."""
        self.warnings.append(text)

    def raise_if_interrupted(self) -> None:
        """Raise `Interrupted` when the process was asked to stop."""
        if self._interrupts is not None:
            self._interrupts.raise_if_received()

    def report_step(self, step: Step) -> None:
        """Report the progress; rate and time left are means over this attempt's training so far."""
        self.curve = step.curve
        if self._first is None:
            self._first = (step, self._now())
        first, since = self._first
        seconds, steps = (self._now() - since).total_seconds(), step.step - first.step
        left = seconds / steps * (step.total_steps - step.step) if steps else None
        rows_per_second = (step.rows - first.rows) / seconds if steps and seconds > 0 else None
        self._send(
            epoch=step.epoch,
            epochs=step.epochs,
            step=step.step,
            total_steps=step.total_steps,
            progress=f"{100 * step.step // max(1, step.total_steps)}%",
            loss=None if step.loss is None else round_for_display(step.loss),
            samples_per_second=None if rows_per_second is None else round_for_display(rows_per_second),
            eta=None if left is None else format_time_left(left),
            resumed_from_step=step.resumed_from,
        )

    def report_success(self, results: Results) -> None:
        """Report the end of a successful run, and wait for the sinks."""
        micro_f1 = results.evaluation.micro.f1
        self._finish(
            timeout=None,
            phase=Phase.DONE,
            progress="100%",
            loss=round_for_display(results.training_loss),
            samples_per_second=round_for_display(results.samples_per_second),
            score=None if micro_f1 is None else f"{micro_f1:.3f}",
            results=results,
        )

    def report_failure(self, failure: Failure, exit_code: ExitCode) -> None:
        """Report the end of a failed run, and wait for the sinks."""
        timeout = _FINAL_TIMEOUT_AFTER_SIGTERM if exit_code == ExitCode.INTERRUPTED else None
        self._finish(timeout=timeout, phase=Phase.FAILED, failure=failure)

    def _send(self, **changes: Any) -> None:
        self.raise_if_interrupted()
        measured = {"report_time": self._now(), "tracking_url": self._get_tracking_url(), **_measure_memory()}
        self.report = self.report.model_copy(update=changes | measured)
        for sink in self._sinks:
            sink.send(self.report)
        if self._tracker is not None:
            self._tracker.send(self.report)

    def _finish(self, timeout: float | None, **changes: Any) -> None:
        now = self._now()
        ending = changes | {"report_time": now, "finish_time": now, "eta": None, **_measure_memory()}
        self.report = self.report.model_copy(update=ending)
        if self._tracker is not None:
            self._finish_tracking(self._tracker, timeout)
        # All at once, then wait, so that the timeouts do not add up.
        for sink in self._sinks:
            sink.finish(self.report, timeout)
        for sink in self._sinks:
            sink.wait()

    def _finish_tracking(self, tracker: Tracker, timeout: float | None) -> None:
        """End the tracker's run, and add its page, and what it lacks, to the last report."""
        tracker.finish(self.report, timeout and timeout / 2)
        tracker.wait()
        changes: dict[str, Any] = {"tracking_url": self._get_tracking_url()}
        loss, results = tracker.describe_loss(), self.report.results
        if loss and results is not None:
            warnings = [*results.warnings[: MAX_WARNINGS - 1], loss]
            changes["results"] = results.model_copy(update={"warnings": warnings})
        self.report = self.report.model_copy(update=changes)

    def _get_tracking_url(self) -> str | None:
        # A launcher that continues the report of its worker has the address before its own tracker does.
        return (self._tracker and self._tracker.url) or self.report.tracking_url


def _measure_memory() -> dict[str, int]:
    # In each report: a process that is killed for its memory cannot report it at its end.
    return {"peak_memory_bytes": get_peak_bytes()}


def round_for_display(value: float) -> float:
    """Return a number rounded to four digits; the results keep all."""
    return float(f"{value:.4g}")
