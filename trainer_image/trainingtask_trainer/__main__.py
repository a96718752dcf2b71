"""The command line of the trainer. Slow imports are deferred until they are needed."""

import sys

if __name__ == "__main__" and not sys.flags.safe_path:
    # `python -m` searches the working directory first, which may be an untrusted model's with a `json.py` in it.
    del sys.path[0]

import argparse
import json
import logging
import os
import shutil
import signal
import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager
from importlib.util import find_spec
from pathlib import Path

from trainingtask_api.exports import Format
from trainingtask_api.reasons import Reason
from trainingtask_api.status import ExitCode
from trainingtask_trainer.errors import TrainerError, UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    os.environ["PYTHONSAFEPATH"] = "1"  # for processes that libraries start
    options = _parse(arguments)
    options.arguments = sys.argv[1:] if arguments is None else arguments
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stderr)
    commands = {
        "run": _run,
        "predict": _predict,
        "serve": _serve,
        "compare": _compare,
        "download": _download,
        "list": _list,
    }
    try:
        if options.command not in ("list", "download") and find_spec("numpy") is None:
            message = "this installation has the command without what it needs: run pip install '.[trainer]' in the project's folder"
            raise UserError(Reason.INVALID_SPEC, message)
        return commands[options.command](options)
    except TrainerError as error:
        print(error.message, file=sys.stderr)
        return ExitCode.USER_ERROR if isinstance(error, UserError) else ExitCode.FAULT


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    # argparse before Python 3.13 knows no texts that follow an option behind the model: `predict MODEL --json TEXT`.
    if rest and (options.command != "predict" or any(item.startswith("-") for item in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        options.text += rest
    return options


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
    _add_model_arguments(predict)
    predict.add_argument("text", nargs="*", help="texts; without any, each line of the standard input is one")
    predict.add_argument("--json", action="store_true", help="one JSON object per text, with probabilities")
    predict.add_argument("--input", help="csv, tsv, jsonl or parquet file whose rows are labelled, or its address")
    predict.add_argument(
        "--output", help="csv, jsonl or parquet file for their labels, or its s3://, gs:// or az:// address"
    )
    predict.add_argument(
        "--text-column",
        action="append",
        metavar="NAME",
        help="column of the input with the text; several times for several (default: the model's)",
    )
    predict.add_argument(
        "--shard",
        metavar="I/N",
        help="predict the Ith of N shares of the input, from 0; N alone in an Indexed Job's pod",
    )

    serve = commands.add_parser("serve", help="serve a trained model over HTTP")
    _add_model_arguments(serve)
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    serve.add_argument("--port", type=int, default=8080, help="port to listen on, 0: a free one (default: %(default)s)")
    serve.add_argument("--name", help="its name in the Open Inference Protocol (default: that of its task)")

    compare = commands.add_parser("compare", help="show whether two trained models differ by more than chance")
    compare.add_argument("models", nargs=2, metavar="model", help="folder or address of a model, as for `predict`")

    download = commands.add_parser("download", help="copy a trained model from an object store or a hub")
    download.add_argument("model", help="its s3://, gs://, az:// or hf:// address")
    download.add_argument("folder", type=Path, help="the new folder")

    commands.add_parser("list", help="show the data sets, preprocessors and models that this image offers")
    return parser


def _add_model_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", help="folder of the trained model, or its s3://, gs://, az:// or hf:// address")
    command.add_argument(
        "--code-dir", type=Path, help="folder with the code of a model given as 'module:Class', which you trust"
    )
    command.add_argument(
        "--format",
        type=Format,
        choices=list(Format),
        metavar="FORMAT",
        help=f"which of the model's formats to read: {', '.join(Format)} (default: its own, else onnx)",
    )


def _run(options: argparse.Namespace) -> int:
    from trainingtask_trainer.run import run  # noqa: PLC0415

    return run(options)


def _prepare_model(options: argparse.Namespace) -> None:
    """Limit the threads of libraries, and add the folder of the model's code, before these are imported."""
    from trainingtask_trainer.runtime.cgroup import limit_threads  # noqa: PLC0415

    limit_threads()
    if options.code_dir is not None:
        from trainingtask_trainer.registry import add_code_folder  # noqa: PLC0415

        add_code_folder(options.code_dir)


def _fetch_model(address: str) -> AbstractContextManager[Path]:
    """Return the folder of a model, without the files that no prediction reads."""
    from trainingtask_trainer.artifacts.error_file_names import ERROR_FILES  # noqa: PLC0415
    from trainingtask_trainer.artifacts.event_files import EVENTS_FOLDER  # noqa: PLC0415
    from trainingtask_trainer.storage.saved_model import fetch_model  # noqa: PLC0415

    unread = (*ERROR_FILES, f"{EVENTS_FOLDER}/")
    return fetch_model(address, lambda name: not name.startswith(unread))


def _predict(options: argparse.Namespace) -> int:
    _prepare_model(options)
    if any(value is not None for value in (options.input, options.output, options.shard, options.text_column)):
        return _predict_file(options)
    from trainingtask_trainer.artifacts.saved_model import SavedModel  # noqa: PLC0415

    try:
        texts = options.text or [line.rstrip("\n") for line in sys.stdin if line.strip()]
    except UnicodeDecodeError as error:
        raise UserError(Reason.INVALID_DATA, f"the standard input is not UTF-8: {error}") from error
    if not texts:
        return ExitCode.SUCCESS
    with _fetch_model(options.model) as folder:
        predictions = SavedModel(folder, options.format).predict(texts)
    for prediction in predictions:
        if options.json:
            print(json.dumps({"text": prediction.text, "labels": prediction.list_labels()}, ensure_ascii=False))
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


def _predict_file(options: argparse.Namespace) -> int:
    if options.input is None or options.output is None or options.text:
        raise UserError(
            Reason.INVALID_SPEC,
            "predict reads a file with both --input and --output, and no texts beside it; --shard and --text-column are for"
            " a file alone",
        )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(ExitCode.INTERRUPTED))  # ends the worker processes, too
    from trainingtask_trainer.batch_prediction.inputs import fetch_input  # noqa: PLC0415
    from trainingtask_trainer.batch_prediction.outputs import check_is_outside  # noqa: PLC0415
    from trainingtask_trainer.batch_prediction.run import ModelSource, predict_file  # noqa: PLC0415
    from trainingtask_trainer.batch_prediction.shards import Shard  # noqa: PLC0415

    check_is_outside(options.output, options.model)
    shard = Shard.parse(options.shard) if options.shard is not None else None
    with _fetch_model(options.model) as folder, fetch_input(options.input) as file:
        source = ModelSource(folder.absolute(), options.format, options.code_dir)
        predict_file(source, file, options.output, columns=options.text_column or (), shard=shard)
    return ExitCode.SUCCESS


def _serve(options: argparse.Namespace) -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # as process 1 of a container it would be ignored
    _prepare_model(options)
    from trainingtask_trainer.serving.server import serve  # noqa: PLC0415

    with _fetch_model(options.model) as folder:
        serve(folder, options.format, host=options.host, port=options.port, name=options.name)
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
