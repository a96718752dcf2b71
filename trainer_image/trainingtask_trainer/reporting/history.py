"""The sink to the run's row in the history, with its curve and its phases."""

import json
import logging
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from trainingtask_api import names
from trainingtask_api.reasons import Reason
from trainingtask_api.scores import LabelScore
from trainingtask_api.status import Phase, Results, TrainingReport
from trainingtask_api.task import TrainingTask
from trainingtask_history.engine import open_history
from trainingtask_history.errors import HistoryError
from trainingtask_history.rows import build_run
from trainingtask_history.store import record
from trainingtask_history.tables import MetricPoint, RunEvent, RunStatus, TrainingRun, run_id
from trainingtask_trainer.errors import UserError
from trainingtask_trainer.reporting.background import MIN_HISTORY_INTERVAL, BackgroundSink, DeliveryError
from trainingtask_trainer.reporting.progress import CurvePoint
from trainingtask_trainer.reporting.scalars import iterate_curve

logger = logging.getLogger(__name__)

# The scores of the labels in a row; the database refuses more than 2 MiB of one column.
_MAX_LABEL_BYTES = 1_900_000
# Seconds for the last report; then the operator writes the row, without curve and phases. In an outage they suffice for
# two tries to connect. A row in a file is written here or never.
_FINAL_TIMEOUT, _FINAL_TIMEOUT_IN_OUTAGE, _FINAL_TIMEOUT_OF_FILE = 30.0, 10.0, 120.0


@dataclass(frozen=True)
class RunOrigin:
    """The part of a run's identity that its task does not hold."""

    task_uid: str
    image: str | None
    node: str | None


class HistorySink(BackgroundSink):
    """Writes the row in a thread of its own; an unavailable database delays nothing.

    Parameters
    ----------
    url
        Of the history.
    task, origin
        The run.
    curve
        Returns the run's curve so far; points are only ever appended.
    """

    def __init__(
        self, url: str, task: TrainingTask, origin: RunOrigin, curve: Callable[[], Sequence[CurvePoint]] = tuple
    ) -> None:
        # Connects on first use, which is in the thread. No pool: a role has few connections for all of a namespace.
        engine = open_history(url, pooled=False)
        # On a cluster the operator migrates the schema; a file on a laptop is created by the first run.
        self._is_file = schema_missing = engine.dialect.name == "sqlite"
        self._task_uid = origin.task_uid
        self._phases: list[RunEvent] = []
        written = 0  # points of the curve

        def deliver(report: TrainingReport) -> None:
            nonlocal schema_missing, written
            run = build_row(task, origin, report)
            new = curve()[written:]
            try:
                if schema_missing:
                    from trainingtask_history.migrations.runner import migrate  # noqa: PLC0415 - Alembic, which a pod never needs

                    migrate(engine)
                    schema_missing = False
                record(engine, run, events=list(self._phases), points=list(_iter_points(run.id, new)))
            except HistoryError as error:
                raise DeliveryError(str(error)) from error
            written += len(new)

        final_timeout = _FINAL_TIMEOUT_OF_FILE if self._is_file else _FINAL_TIMEOUT
        super().__init__("the history", deliver, interval=MIN_HISTORY_INTERVAL, final_timeout=final_timeout)

    def send(self, report: TrainingReport) -> None:
        """Take the newest report."""
        self._record_phase(report)
        super().send(report)

    def finish(self, report: TrainingReport, timeout: float | None) -> None:
        """Take the last report."""
        self._record_phase(report)
        if self._is_file:
            timeout = None
        elif timeout is None and self.error is not None:
            timeout = _FINAL_TIMEOUT_IN_OUTAGE
        super().finish(report, timeout)

    def _record_phase(self, report: TrainingReport) -> None:
        if report.report_time and not (self._phases and self._phases[-1].reason == report.phase.value):
            key = run_id(self._task_uid, report.attempt)
            self._phases.append(
                RunEvent(run_id=key, time=report.report_time, type="Phase", reason=report.phase.value, message="")
            )


def _iter_points(key: uuid.UUID, curve: Sequence[CurvePoint]) -> Iterator[MetricPoint]:
    """Yield the values of a curve as rows."""
    return (MetricPoint(run_id=key, **scalar._asdict()) for scalar in iterate_curve(curve))


def create_history_sink(
    url: str | None, task: TrainingTask, task_uid: str, curve: Callable[[], Sequence[CurvePoint]]
) -> HistorySink | None:
    """Return the sink for the run's row, None where the operator writes the row.

    Parameters
    ----------
    url
        Of the command line; by default that of the environment, else, without a cluster, a file in the working directory.
    task
        The task of the run.
    task_uid
        Its uid, or a random one without a cluster.
    curve
        Returns the run's curve so far.

    Raises
    ------
    UserError
        When the URL cannot be used.
    """
    chosen = url or os.environ.get(names.ENV_HISTORY_URL)
    if not chosen:
        if names.ENV_POD_NAME in os.environ:
            return None
        chosen = "sqlite:///trainingtask-history.db"
    origin = RunOrigin(task_uid, os.environ.get(names.ENV_IMAGE), os.environ.get(names.ENV_NODE_NAME))
    try:
        return HistorySink(chosen, task, origin, curve)
    except HistoryError as error:
        if url is None:  # not the user's choice: train, and let the operator write the row
            logger.warning("No history row is written by the trainer: %s", error)
            return None
        raise UserError(Reason.INVALID_HISTORY, str(error)) from error


def build_row(task: TrainingTask, origin: RunOrigin, report: TrainingReport) -> TrainingRun:
    """Return the history row of a report. `Interrupted` is not final: the task resumes in another pod."""
    status = _get_run_status(report)
    final = status in (RunStatus.SUCCEEDED, RunStatus.FAILED)
    return build_run(
        task,
        task_uid=origin.task_uid,
        attempt=report.attempt,
        status=status,
        create_time=task.metadata.creation_timestamp or report.start_time,
        start_time=report.start_time,
        finish_time=report.finish_time if final else None,
        results=report.results and _fit_results(report.results),
        phase=report.phase.value,
        step=report.step,
        total_steps=report.total_steps,
        eta=report.eta or "",  # None would keep the value of the last report
        report_time=report.report_time,
        error_reason=report.failure.reason if report.failure else None,
        error_message=report.failure.message if report.failure else None,
        trainer_image=origin.image,
        node=origin.node,
        tracking_url=report.tracking_url,
    )


def _fit_results(results: Results) -> Results:
    """Return results with as many labels' scores as a row has room for, each to four digits."""
    scores = [score.model_copy(update=_round_scores(score)) for score in results.evaluation.per_label]
    longest = max((len(json.dumps(score.model_dump()).encode()) for score in scores), default=1)
    evaluation = results.evaluation.model_copy(update={"per_label": scores})
    return results.model_copy(update={"evaluation": evaluation.keep_labels(_MAX_LABEL_BYTES // longest)})


def _round_scores(score: LabelScore) -> dict[str, float]:
    return {name: float(f"{value:.4g}") for name, value in score if isinstance(value, float)}


def _get_run_status(report: TrainingReport) -> RunStatus:
    if report.phase == Phase.DONE:
        return RunStatus.SUCCEEDED
    if report.failure is None:
        return RunStatus.RUNNING
    return RunStatus.INTERRUPTED if report.failure.reason == Reason.INTERRUPTED else RunStatus.FAILED
