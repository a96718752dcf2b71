"""The command line: ``run``, ``predict``, ``download`` and ``list``. Slow imports are deferred until they are needed."""

import sys

if __name__ == "__main__" and not sys.flags.safe_path:
    # `python -m` searches the working directory first, which may be an untrusted model's with a `json.py` in it.
    del sys.path[0]

import argparse
import json
import logging
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING

from trainingtask_api import names
from trainingtask_api.reasons import Reason
from trainingtask_api.status import ExitCode
from trainingtask_trainer.errors import Interrupted, TrainerError, UserError, diagnose

if TYPE_CHECKING:
    from trainingtask_api.status import Results
    from trainingtask_api.task import TrainingTask
    from trainingtask_trainer.reporting.reporter import Reporter, Sink

logger = logging.getLogger("trainingtask_trainer")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    os.environ["PYTHONSAFEPATH"] = "1"  # for processes that libraries start
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stderr)
    commands = {"run": _run, "predict": _predict, "download": _download, "list": _list}
    try:
        return commands[options.command](options)
    except TrainerError as error:
        print(error.message, file=sys.stderr)
        return ExitCode.USER_ERROR if isinstance(error, UserError) else ExitCode.FAULT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="trainingtask-trainer",
        description="Trains the model that a TrainingTask describes, with or without a cluster.",
    )
    commands = parser.add_subparsers(dest="command", required=True)

    run = commands.add_parser("run", help="train the TrainingTask in a YAML file")
    run.add_argument("task", type=Path, help="YAML file with one TrainingTask in it")
    run.add_argument("--dataset-dir", type=Path, help="folder that stands for dataset.volumeClaim (default: .)")
    run.add_argument("--model-dir", type=Path, help="folder that stands for model.volumeClaim (default: .)")
    run.add_argument(
        "--preprocessor-dir", type=Path, help="folder that stands for preprocessor.volumeClaim (default: .)"
    )
    run.add_argument("--output-dir", type=Path, help="folder that stands for output.volumeClaim (default: out)")
    run.add_argument("--code-dir", type=Path, help="folder that stands for code.configMap (default: none)")
    run.add_argument(
        "--history", metavar="URL", help="history to write to (default: sqlite:///trainingtask-history.db)"
    )

    predict = commands.add_parser("predict", help="label texts with a trained model")
    predict.add_argument("model", help="folder of the trained model, or its s3://, gs://, az:// or hf:// address")
    predict.add_argument("text", nargs="*", help="texts; without any, each line of the standard input is one")
    predict.add_argument(
        "--code-dir", type=Path, help="folder with the code of a model given as 'module:Class', which you trust"
    )
    predict.add_argument("--json", action="store_true", help="one JSON object per text, with probabilities")

    download = commands.add_parser("download", help="copy a trained model from an object store or a hub")
    download.add_argument("model", help="its s3://, gs://, az:// or hf:// address")
    download.add_argument("folder", type=Path, help="the new folder")

    commands.add_parser("list", help="show the data sets, preprocessors and models that this image offers")
    return parser


def _run(options: argparse.Namespace) -> int:
    from trainingtask_trainer.reporting.console import ConsoleSink  # noqa: PLC0415
    from trainingtask_trainer.reporting.reporter import Reporter  # noqa: PLC0415
    from trainingtask_trainer.reporting.termination import TerminationSink  # noqa: PLC0415
    from trainingtask_trainer.runtime.cgroup import limit_threads  # noqa: PLC0415
    from trainingtask_trainer.runtime.signals import InterruptHandler  # noqa: PLC0415

    with InterruptHandler() as interrupts:  # the kernel drops a SIGTERM that process 1 does not handle
        limit_threads()  # before numpy is imported
        reporter = Reporter([ConsoleSink(), TerminationSink()], _attempt(), interrupts)
        try:
            results = _train(options, reporter)
        # The one place that catches everything: each end of a run is reported and has an exit code.
        except (Exception, Interrupted) as error:
            interrupts.ignore_signals()
            exit_code, failure = diagnose(error, reporter.report.phase)
            if exit_code == ExitCode.FAULT and not isinstance(error, TrainerError):
                logger.error("The trainer failed", exc_info=error)
            reporter.report_failure(failure, exit_code)
            return exit_code
        interrupts.ignore_signals()
        reporter.report_success(results)
    return ExitCode.SUCCESS


def _train(options: argparse.Namespace, reporter: "Reporter") -> "Results":
    from trainingtask_trainer.manifest import read_task  # noqa: PLC0415
    from trainingtask_trainer.volumes import Volumes  # noqa: PLC0415

    task = read_task(options.task)
    _add_code(options)
    for sink in _cluster_and_history(options, task, reporter):
        reporter.add_sink(sink)
    default = Volumes.from_environment()
    volumes = Volumes(
        dataset=options.dataset_dir or default.dataset,
        model=options.model_dir or default.model,
        output=options.output_dir or default.output,
        preprocessor=options.preprocessor_dir or default.preprocessor,
    )
    from trainingtask_trainer.pipeline import train  # noqa: PLC0415 - numpy and scikit-learn from here on

    return train(task, volumes, reporter)


def _add_code(options: argparse.Namespace) -> None:
    from trainingtask_trainer.registry import add_code_folder  # noqa: PLC0415

    if options.code_dir is not None:
        add_code_folder(options.code_dir)


def _cluster_and_history(options: argparse.Namespace, task: "TrainingTask", reporter: "Reporter") -> Iterator["Sink"]:
    from trainingtask_trainer.reporting.history import create_history_sink  # noqa: PLC0415
    from trainingtask_trainer.reporting.kube_status import EarlierSources, create_status_sink  # noqa: PLC0415

    if names.ENV_POD_NAME in os.environ and "KUBERNETES_SERVICE_HOST" in os.environ:
        earlier: EarlierSources = Future()
        reporter.earlier_sources = earlier
        yield create_status_sink(task.metadata, earlier=earlier)
    history = create_history_sink(options.history, task, task.metadata.uid or str(uuid.uuid4()), lambda: reporter.curve)
    if history is not None:
        yield history


def _attempt() -> int:
    """Return the number of this attempt; Kubernetes counts failed and ignored (evicted) ones separately."""
    counts = (os.environ.get(name) or "0" for name in (names.ENV_FAILURE_COUNT, names.ENV_IGNORED_FAILURE_COUNT))
    return 1 + sum(int(count) for count in counts)


def _predict(options: argparse.Namespace) -> int:
    from trainingtask_trainer.runtime.cgroup import limit_threads  # noqa: PLC0415

    limit_threads()
    _add_code(options)
    from trainingtask_trainer.artifacts.bundle import predict  # noqa: PLC0415
    from trainingtask_trainer.storage.saved_model import fetch_model  # noqa: PLC0415

    texts = options.text or [line.rstrip("\n") for line in sys.stdin if line.strip()]
    if not texts:
        return ExitCode.SUCCESS
    with fetch_model(options.model) as folder:
        predictions = predict(folder, texts)
    for prediction in predictions:
        if options.json:
            labels = [{"label": label, "probability": value} for label, value in prediction.labels.items()]
            print(json.dumps({"text": prediction.text, "labels": labels}, ensure_ascii=False))
        else:
            shown = ", ".join(f"{label} ({value:.2f})" for label, value in prediction.labels.items())
            print(f"{shown or '-'}\t{prediction.text}")
    return ExitCode.SUCCESS


def _download(options: argparse.Namespace) -> int:
    from trainingtask_trainer.storage.saved_model import fetch_model  # noqa: PLC0415

    target: Path = options.folder.absolute()
    if target.exists():
        raise UserError(Reason.OUTPUT_OCCUPIED, f"{target} exists already: name a new folder")
    with fetch_model(options.model) as folder:
        target.parent.mkdir(parents=True, exist_ok=True)
        # A copy that is cut off is no folder of that name.
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as partial:
            shutil.copytree(folder, Path(partial) / "model").rename(target)
    return ExitCode.SUCCESS


def _list(options: argparse.Namespace) -> int:
    from trainingtask_trainer.registry import KINDS, list_entry_points, read_summary  # noqa: PLC0415

    del options
    for kind in KINDS:
        print(f"{kind}:")
        for name, point in list_entry_points(kind).items():
            origin = f"{point.dist.name} {point.dist.version}" if point.dist else "unknown"
            print(f"  {name:22}{origin:22}{read_summary(point)}")
    return ExitCode.SUCCESS


if __name__ == "__main__":
    code = main()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    # All is written. Python's own exit takes seconds to tear torch down.
    os._exit(code)
