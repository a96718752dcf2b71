"""The command `run`: one process that trains, the launcher of several, or one of its workers."""

import argparse
import logging
import os
import tempfile
import uuid
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING

from trainingtask_api import names
from trainingtask_api.reasons import Reason
from trainingtask_api.status import ExitCode, Failure, Phase
from trainingtask_trainer.errors import Interrupted, TrainerError, WorkerFailedError, diagnose
from trainingtask_trainer.launcher.failures import is_consequence, name_ranks, record_failure
from trainingtask_trainer.manifest import read_task
from trainingtask_trainer.reporting.console import ConsoleSink
from trainingtask_trainer.reporting.report_file import ReportFile
from trainingtask_trainer.reporting.reporter import Reporter, Sink
from trainingtask_trainer.reporting.shared_commits import CommitSink, FollowingReporter
from trainingtask_trainer.reporting.termination import TerminationSink
from trainingtask_trainer.runtime.cgroup import limit_threads
from trainingtask_trainer.runtime.processes import Group, Processes, plan_group
from trainingtask_trainer.runtime.shared_folder import get_shared_folder
from trainingtask_trainer.runtime.signals import InterruptHandler
from trainingtask_trainer.volumes import Volumes

if TYPE_CHECKING:
    from trainingtask_api.status import Results
    from trainingtask_api.task import TrainingTask

# Kubernetes judges a group by the pod that ends first: an eviction does not count against the retries, a lost peer does.
_ORDER_SECONDS = 20.0

logger = logging.getLogger(__name__)


def run(options: argparse.Namespace) -> ExitCode:
    """Train the task of the command line, and return the exit code.

    A task with several processes runs this in each of them: first in the launcher, which starts the workers and reports
    why one failed, then in the workers, of which rank 0 reports all else.
    """
    with InterruptHandler() as interrupts:  # the kernel drops a SIGTERM that process 1 does not handle
        processes = Processes.from_environment()
        reporter = _create_reporter(processes, interrupts)
        try:
            results = _train_or_launch(options, processes, reporter)
        # The one place that catches everything: each end of a run is reported and has an exit code.
        except (Exception, Interrupted) as error:  # noqa: BLE001
            interrupts.ignore_signals()
            exit_code = _end_failed(error, processes, reporter)
            if isinstance(error, WorkerFailedError) and error.is_of_other_node and exit_code != ExitCode.USER_ERROR:
                interrupts.wait_for_signal(_ORDER_SECONDS)
            return exit_code
        interrupts.ignore_signals()
        if results is not None:
            reporter.report_success(results)
    return ExitCode.SUCCESS


def _create_reporter(processes: Processes, interrupts: InterruptHandler) -> Reporter:
    """Return the reporter, with the sinks that need no valid task; the progress of all ranks is that of rank 0."""
    folder = get_shared_folder()
    sinks: list[Sink] = [ReportFile(folder)] if folder is not None and processes.local_rank == 0 else []
    if not processes.is_main:
        return FollowingReporter(processes, sinks, _count_attempt(), interrupts)
    if processes.world_size > 1:
        sinks.append(CommitSink(processes))
    return Reporter([*sinks, ConsoleSink(), TerminationSink()], _count_attempt(), interrupts)


def _train_or_launch(options: argparse.Namespace, processes: Processes, reporter: Reporter) -> "Results | None":
    """Return the results, None from a process that is not the one to report them."""
    task = read_task(options.task)
    if not processes.is_worker():
        group = plan_group(task.spec, options.processes)
        if group.world_size > 1:
            _launch(options, task, group, reporter)
            return None
    limit_threads(processes.local_world_size)  # before numpy is imported
    if options.code_dir is not None:
        from trainingtask_trainer.registry import add_code_folder  # noqa: PLC0415

        add_code_folder(options.code_dir)
    if processes.is_main:
        _add_task_sinks(options, task, _find_uid(task), reporter)
    from trainingtask_trainer.pipeline import train  # noqa: PLC0415 - numpy and scikit-learn from here on

    return train(task, _find_volumes(options), reporter, processes)


def _launch(options: argparse.Namespace, task: "TrainingTask", group: Group, reporter: Reporter) -> None:
    """Train in several processes; on a failure continue the report of the pod's first process."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # the store warns of each connection that ends
    limit_threads(group.local_world_size)  # the workers inherit it
    from trainingtask_trainer.launcher.agent import launch  # noqa: PLC0415 - imports torch

    uid = task.metadata.uid or str(uuid.uuid4())
    with tempfile.TemporaryDirectory(prefix="trainingtask-") as name:
        folder = Path(name)
        try:
            launch(group, options.arguments, uid, folder)
        except (Exception, Interrupted):
            reporter.report = ReportFile(folder).read() or reporter.report
            if reporter.report.phase == Phase.DONE:
                return  # rank 0 had reported its success by then
            if group.node_rank == 0:
                _add_task_sinks(options, task, uid, reporter)
            raise


def _add_task_sinks(options: argparse.Namespace, task: "TrainingTask", uid: str, reporter: Reporter) -> None:
    """Add the sinks to the task's status, to the history and to an experiment tracker."""
    from trainingtask_trainer.reporting.history import create_history_sink  # noqa: PLC0415
    from trainingtask_trainer.reporting.kube_status import EarlierSources, create_status_sink  # noqa: PLC0415

    if names.ENV_POD_NAME in os.environ and "KUBERNETES_SERVICE_HOST" in os.environ:
        earlier: EarlierSources = Future()
        reporter.earlier_sources = earlier
        reporter.add_sink(create_status_sink(task.metadata, earlier=earlier))
    history = create_history_sink(options.history, task, uid, lambda: reporter.curve)
    if history is not None:
        reporter.add_sink(history)
    _track(task, uid, reporter)


def _track(task: "TrainingTask", uid: str, reporter: Reporter) -> None:
    """Report to the MLflow server that the task or the cluster names."""
    wanted = task.spec.tracking is not None and task.spec.tracking.mlflow is not None
    if not wanted and names.ENV_MLFLOW_URI not in os.environ:
        return
    from trainingtask_trainer.reporting.mlflow import RunSource, create_mlflow_sink  # noqa: PLC0415 - httpx

    tracker = create_mlflow_sink(RunSource(task, uid, lambda: reporter.curve, lambda: reporter.artifacts))
    if tracker is not None:
        reporter.track(tracker)
    else:
        reporter.add_warning("tracking.mlflow has no uri, and the cluster names no MLflow server: no run is recorded")


def _find_uid(task: "TrainingTask") -> str:
    """Return the task's uid, and without a cluster a random one, the same in the launcher and its workers."""
    return task.metadata.uid or os.environ.get("TORCHELASTIC_RUN_ID") or str(uuid.uuid4())


def _find_volumes(options: argparse.Namespace) -> Volumes:
    default = Volumes.from_environment()
    return Volumes(
        dataset=options.dataset_dir or default.dataset,
        model=options.model_dir or default.model,
        output=options.output_dir or default.output,
        preprocessor=options.preprocessor_dir or default.preprocessor,
    )


def _count_attempt() -> int:
    """Return the number of this attempt; Kubernetes counts failed and ignored (evicted) ones separately."""
    counts = (os.environ.get(name) or "0" for name in (names.ENV_FAILURE_COUNT, names.ENV_IGNORED_FAILURE_COUNT))
    return 1 + sum(int(count) for count in counts)


def _end_failed(error: BaseException, processes: Processes, reporter: Reporter) -> ExitCode:
    """Report the failure, or record it for the launcher, which reports the one that caused the others."""
    exit_code, failure = diagnose(error, reporter.report.phase)
    if processes.is_worker() and exit_code == ExitCode.FAULT and is_consequence(failure):
        logger.warning("%s", failure.message)
    elif exit_code == ExitCode.FAULT and not isinstance(error, (TrainerError, WorkerFailedError)):
        logger.error("The trainer failed", exc_info=error)
    if not processes.is_worker():
        reporter.report_failure(failure, exit_code)
        return exit_code
    if failure.reason == Reason.PEER_UNRESPONSIVE:
        failure = _name_silent_ranks(failure, processes)
    record_failure(failure)
    if get_shared_folder() is None:  # started by torchrun, which reports nothing
        reporter.report_failure(failure, exit_code)
    return exit_code


def _name_silent_ranks(failure: Failure, processes: Processes) -> Failure:
    from trainingtask_trainer.runtime.rank_store import RankStore  # noqa: PLC0415

    silent = RankStore(processes).find_silent_ranks()
    if not silent:
        return failure
    return failure.model_copy(update={"message": f"{failure.message}: {name_ranks(silent)} did not arrive"})
