"""The sink to a run on an MLflow server, which all attempts of a task share."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from trainingtask_api import names
from trainingtask_api.reasons import Reason
from trainingtask_api.status import Phase, Results, TrainingReport
from trainingtask_api.task import TrainingTask
from trainingtask_trainer.reporting.background import (
    MIN_HISTORY_INTERVAL,
    BackgroundSink,
    DeliveryError,
    PermanentDeliveryError,
)
from trainingtask_trainer.reporting.mlflow_answers import Run
from trainingtask_trainer.reporting.mlflow_client import Credentials, MLflowClient, MLflowServer
from trainingtask_trainer.reporting.progress import CurvePoint
from trainingtask_trainer.reporting.scalars import Scalar, collect_scores, iterate_curve

# Seconds for the last report, and for one more try where the server could not be used before.
_FINAL_TIMEOUT, _FINAL_TIMEOUT_IN_OUTAGE = 30.0, 2.0
_TAG = "trainingtask"
_UID_TAG = f"{_TAG}.uid"


@dataclass(frozen=True)
class RunSource:
    """What a run is recorded from."""

    task: TrainingTask
    task_uid: str
    curve: Callable[[], Sequence[CurvePoint]]
    """Returns the curve so far; points are only ever appended."""
    artifacts: Callable[[], Mapping[str, bytes]]
    """Returns the files of a finished training by name."""


class MLflowSink(BackgroundSink):
    """Records a run in a thread of its own: a server that is away, slow or refuses delays and fails no training."""

    def __init__(self, server: MLflowServer, experiment: str, source: RunSource) -> None:
        self._host = server.host
        self._recording = _Recording(server, experiment, source)
        super().__init__("MLflow", self._recording, interval=MIN_HISTORY_INTERVAL, final_timeout=_FINAL_TIMEOUT)

    @property
    def url(self) -> str | None:
        """The page of the run, None until there is one."""
        return self._recording.url

    def finish(self, report: TrainingReport, timeout: float | None) -> None:
        """Take the last report."""
        super().finish(report, timeout if self.error is None else _FINAL_TIMEOUT_IN_OUTAGE)

    def wait(self) -> None:
        """Block until the last report is delivered or has timed out."""
        self.join()

    def describe_loss(self) -> str | None:
        """Return a sentence on what was not recorded, None where all was."""
        if missing := self._recording.missing:
            return f"tracking.mlflow: the run on '{self._host}' has no {missing}"
        if self.is_delivered:
            return None
        extent = "missing" if self.url is None else "incomplete"
        cause = "no answer in time" if self.error is None else str(self.error)
        advice = (
            "correct tracking.mlflow, or the credentials in the variables MLFLOW_TRACKING_*"
            if isinstance(self.error, PermanentDeliveryError)
            else "see that the server is up, and that the trainer's pod can reach it"
        )
        return f"tracking.mlflow: the training's run on '{self._host}' is {extent}: {cause}; {advice}"


class _Recording:
    """Records reports in a run, which the first report finds or creates."""

    def __init__(self, server: MLflowServer, experiment: str, source: RunSource) -> None:
        self._server = server
        self._experiment = experiment
        self._source = source
        self._run: Run | None = None
        self._written = 0  # points of the curve
        self.url: str | None = None
        self.missing: str | None = None  # what the run does not have, and why

    def __call__(self, report: TrainingReport) -> None:
        """Record a report; raises `DeliveryError`."""
        with self._server.connect() as client:
            if self._run is None:
                self._run = self._start_run(client, report)
            try:
                self._log_curve(client, self._run, report)
                if report.results is not None:
                    self._log_results(client, self._run, report, report.results)
            finally:  # the run ends also where the server refuses what was logged
                if report.finish_time is not None:
                    client.update_run(self._run, _get_status(report), _to_milliseconds(report.finish_time))
            if report.results is not None:
                self._upload(client, self._run)

    def _start_run(self, client: MLflowClient, report: TrainingReport) -> Run:
        """Return the run of the task's earlier attempts, which goes on, or a new one."""
        task = self._source.task
        tags = {
            _UID_TAG: self._source.task_uid,
            f"{_TAG}.namespace": task.metadata.namespace,
            f"{_TAG}.name": task.metadata.name,
            f"{_TAG}.attempt": str(report.attempt),
        }
        if image := os.environ.get(names.ENV_IMAGE):
            tags[f"{_TAG}.image"] = image
        experiment = client.get_experiment(self._experiment)
        run = client.find_run(experiment, _UID_TAG, self._source.task_uid)
        if run is None:
            run = client.create_run(experiment, task.metadata.name, _to_milliseconds(report.start_time), tags)
        else:
            client.update_run(run, "RUNNING")
            client.log_tags(run, tags)
        self.url = self._server.build_run_url(experiment, run.info.run_id)
        return run

    def _log_curve(self, client: MLflowClient, run: Run, report: TrainingReport) -> None:
        """Record the new points of the curve, but for steps that an earlier attempt has recorded."""
        new = self._source.curve()[self._written :]
        last = {metric.key: metric.step for metric in run.data.metrics}
        points = [point for point in iterate_curve(new) if point.step > last.get(point.name, -1)]
        if points:
            client.log_metrics(run, points, _to_milliseconds(report.report_time))
        self._written += len(new)

    def _log_results(self, client: MLflowClient, run: Run, report: TrainingReport, results: Results) -> None:
        scores = [Scalar(name, results.global_step, value) for name, value in collect_scores(results).items()]
        client.log_metrics(run, scores, _to_milliseconds(report.report_time))
        client.log_params(run, results.arguments)
        client.log_tags(run, {f"{_TAG}.dataFingerprint": results.data_fingerprint})

    def _upload(self, client: MLflowClient, run: Run) -> None:
        """Upload the artifacts, each once: they go through the server to a store that may be away for long."""
        artifacts = self._source.artifacts()
        if not artifacts:
            return
        what = " and ".join(artifacts)
        if run.artifact_path is None:
            self.missing = f"{what}: the server does not store artifacts itself (--serve-artifacts)"
            return
        self.missing = f"{what}: no answer in time"  # what is told where this takes longer than the trainer waits
        try:
            for name, content in artifacts.items():
                client.upload(f"{run.artifact_path}/{name}", content)
        except DeliveryError as error:
            self.missing = f"{what}: {error}"
        else:
            self.missing = None


def create_mlflow_sink(source: RunSource) -> MLflowSink | None:
    """Return the sink to the server of the task, else to the one in the environment; None where neither names one."""
    task = source.task
    wanted = task.spec.tracking and task.spec.tracking.mlflow
    own = wanted.uri if wanted else None
    uri = own or os.environ.get(names.ENV_MLFLOW_URI)
    if not uri:
        return None
    shared = None if own else os.environ.get(names.ENV_MLFLOW_EXPERIMENT)
    experiment = (wanted and wanted.experiment) or shared or task.metadata.namespace
    return MLflowSink(MLflowServer(uri, Credentials.from_environment()), experiment, source)


def _get_status(report: TrainingReport) -> str:
    """Return MLflow's word for the end of a run."""
    if report.phase == Phase.DONE:
        return "FINISHED"
    is_killed = report.failure is not None and report.failure.reason == Reason.INTERRUPTED
    return "KILLED" if is_killed else "FAILED"


def _to_milliseconds(time: datetime | None) -> int:
    return round(time.timestamp() * 1000) if time is not None else 0
