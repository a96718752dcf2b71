"""The command line: ``run``, ``predict``, ``compare``, ``download`` and ``list``. Slow imports are deferred until they are needed."""

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
from collections.abc import Sequence
from pathlib import Path

from trainingtask_api.reasons import Reason
from trainingtask_api.status import ExitCode
from trainingtask_trainer.errors import TrainerError, UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    os.environ["PYTHONSAFEPATH"] = "1"  # for processes that libraries start
    options = _parser().parse_args(arguments)
    options.arguments = sys.argv[1:] if arguments is None else arguments
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stderr)
    commands = {"run": _run, "predict": _predict, "compare": _compare, "download": _download, "list": _list}
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

    run.add_argument(
        "--processes",
        metavar="N",
        type=int,
        help="processes that train on this machine (default: one per GPU of the task)",
    )

    predict = commands.add_parser("predict", help="label texts with a trained model")
    predict.add_argument("model", help="folder of the trained model, or its s3://, gs://, az:// or hf:// address")
    predict.add_argument("text", nargs="*", help="texts; without any, each line of the standard input is one")
    predict.add_argument(
        "--code-dir", type=Path, help="folder with the code of a model given as 'module:Class', which you trust"
    )
    predict.add_argument("--json", action="store_true", help="one JSON object per text, with probabilities")

    compare = commands.add_parser("compare", help="show whether two trained models differ by more than chance")
    compare.add_argument("models", nargs=2, metavar="model", help="folder or address of a model, as for `predict`")

    download = commands.add_parser("download", help="copy a trained model from an object store or a hub")
    download.add_argument("model", help="its s3://, gs://, az:// or hf:// address")
    download.add_argument("folder", type=Path, help="the new folder")

    commands.add_parser("list", help="show the data sets, preprocessors and models that this image offers")
    return parser


def _run(options: argparse.Namespace) -> int:
    from trainingtask_trainer.run import run  # noqa: PLC0415

    return run(options)


def _predict(options: argparse.Namespace) -> int:
    from trainingtask_trainer.runtime.cgroup import limit_threads  # noqa: PLC0415

    limit_threads()
    if options.code_dir is not None:
        from trainingtask_trainer.registry import add_code_folder  # noqa: PLC0415

        add_code_folder(options.code_dir)
    from trainingtask_trainer.artifacts.error_file_names import ERROR_FILES  # noqa: PLC0415
    from trainingtask_trainer.artifacts.saved_model import SavedModel  # noqa: PLC0415
    from trainingtask_trainer.storage.saved_model import fetch_model  # noqa: PLC0415

    texts = options.text or [line.rstrip("\n") for line in sys.stdin if line.strip()]
    if not texts:
        return ExitCode.SUCCESS
    with fetch_model(options.model, lambda name: name not in ERROR_FILES) as folder:
        predictions = SavedModel(folder).predict(texts)
    for prediction in predictions:
        if options.json:
            labels = [{"label": label, "probability": value} for label, value in prediction.labels.items()]
            print(json.dumps({"text": prediction.text, "labels": labels}, ensure_ascii=False))
        else:
            shown = ", ".join(f"{label} ({value:.2f})" for label, value in prediction.labels.items())
            print(f"{shown or '-'}\t{prediction.text}")
    return ExitCode.SUCCESS


def _compare(options: argparse.Namespace) -> int:
    from trainingtask_trainer.artifacts.comparison import compare_predictions, format_differences  # noqa: PLC0415
    from trainingtask_trainer.artifacts.error_file_names import PREDICTIONS_FILE  # noqa: PLC0415
    from trainingtask_trainer.artifacts.predictions import read_test_predictions  # noqa: PLC0415
    from trainingtask_trainer.storage.folder_store import MODEL_MANIFEST  # noqa: PLC0415
    from trainingtask_trainer.storage.saved_model import fetch_model  # noqa: PLC0415

    stored = []
    for address in options.models:
        with fetch_model(address, lambda name: name in (MODEL_MANIFEST, PREDICTIONS_FILE)) as folder:
            stored.append(read_test_predictions(folder))
    print(*format_differences(compare_predictions(*stored), stored[0]), sep="\n")
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
