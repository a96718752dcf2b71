"""The sink to the console: a progress bar on a terminal, a line every few seconds in a log."""

import math
import sys
import time
from typing import Any, TextIO

from tqdm import tqdm

from trainingtask_api.status import Phase, Results, TrainingReport

_LINE_INTERVAL = 5.0
_DOWNLOAD_PHASES = (Phase.STARTING, Phase.LOADING)  # of a checkpoint, and of a data set


class ConsoleSink:
    """Progress on `progress` (stderr; a terminal gets a bar), the scores on `output` (stdout)."""

    def __init__(self, output: TextIO | None = None, progress: TextIO | None = None) -> None:
        self._output = output or sys.stdout
        self._progress = progress or sys.stderr
        self._phase: Phase | None = None
        self._bar: Any = None  # tqdm's type is generic in its items, of which there are none
        self._last_line = -math.inf
        self._shown: str | None = None

    def send(self, report: TrainingReport) -> None:
        """Show the phase when it changes, and the steps of the training."""
        if report.phase != self._phase:
            self._close_bar()
            self._phase = report.phase
            self._last_line = -math.inf  # each phase tells at once where it begins
            print(report.phase.value, file=self._progress, flush=True)
        if report.step is not None and report.phase == Phase.TRAINING:
            if self._progress.isatty():
                self._update_bar(report)
            else:
                self._print_line(_describe_step(report), is_last=report.progress == "100%" != self._shown)
                self._shown = report.progress  # the last step is reported before each batch of its validation
        elif report.phase == Phase.SAVING and report.progress not in (None, "100%", self._shown):
            self._shown = report.progress
            print(report.progress, file=self._progress, flush=True)
        elif report.phase in _DOWNLOAD_PHASES and report.progress not in (None, self._shown):
            self._shown = report.progress
            is_end = report.rows_read is not None or report.bytes_read == report.bytes_total
            self._print_line(f"{report.progress} read", is_last=is_end)

    def finish(self, report: TrainingReport, timeout: float | None) -> None:
        """Show the scores, or the failure."""
        del timeout
        self._close_bar()
        if report.failure is not None:
            print(f"{report.failure.reason}: {report.failure.message}", file=self._progress, flush=True)
        if report.results is not None:
            print(format_summary(report.results), file=self._output, flush=True)

    def wait(self) -> None:
        """Return at once: `finish` has printed."""

    def _update_bar(self, report: TrainingReport) -> None:
        if self._bar is None:
            self._bar = tqdm(total=report.total_steps, unit="step", file=self._progress, leave=False)
        if report.loss is not None:
            self._bar.set_postfix_str(f"epoch {report.epoch}/{report.epochs}, loss {report.loss:.4f}", refresh=False)
        self._bar.update((report.step or 0) - self._bar.n)

    def _print_line(self, text: str, *, is_last: bool) -> None:
        now = time.monotonic()
        if now - self._last_line < _LINE_INTERVAL and not is_last:
            return
        self._last_line = now
        print(text, file=self._progress, flush=True)

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _describe_step(report: TrainingReport) -> str:
    parts = [f"{report.progress} epoch {report.epoch}/{report.epochs} step {report.step}/{report.total_steps}"]
    if report.loss is not None:
        parts.append(f"loss {report.loss:.4f}")
    if report.samples_per_second is not None:
        parts.append(f"{report.samples_per_second:.1f} rows/s")
    if report.eta is not None:
        parts.append(f"{report.eta} left")
    return ", ".join(parts)


def format_summary(results: Results) -> str:
    """Return the scores as a few lines, beside the baselines."""
    scores = results.evaluation
    threshold = "a threshold per label" if scores.threshold is None else f"threshold {scores.threshold:.3f}"
    averages = ("micro", scores.micro), ("macro", scores.macro), ("weighted", scores.weighted)
    lines = [
        f"{results.train_rows} training rows, {results.labels} labels, {results.global_step} steps "
        f"in {results.runtime_seconds:.1f} s, training loss {results.training_loss:.4f}",
        f"{scores.rows} {scores.split} rows, {threshold} ({scores.threshold_source})",
        _format_row("", "precision", "recall", "F1"),
        *(_format_row(name, mean.precision, mean.recall, mean.f1) for name, mean in averages),
        _format_row("", "model", "label prior", "no label", "95 %"),
        *(_format_row(*row) for row in scores.compare_baselines()),
        *(f"  {export.format}: {export.describe()}" for export in results.exports),
        *(f"  warning: {warning}" for warning in results.warnings),
    ]
    return "\n".join(lines)


def _format_row(name: str, *cells: str | float | None) -> str:
    """Return one line of a table; an undefined score is a dash."""
    shown = ("-" if cell is None else cell if isinstance(cell, str) else f"{cell:.3f}" for cell in cells)
    return f"  {name:24}" + "".join(f"{cell:>12}" for cell in shown)
