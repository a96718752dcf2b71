"""The commands `upload`, `download` and `predict`, which reach a volume claim through a helper pod."""

import os
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import typer
from pydantic import BaseModel, ValidationError
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

from trainingtask_api import names
from trainingtask_api.formatting import format_size
from trainingtask_api.nested import get_path
from trainingtask_cli.archive import find_files, read_archive, write_archive
from trainingtask_cli.cluster import Cluster
from trainingtask_cli.errors import CommandError, NotFoundError, UsageError
from trainingtask_cli.formatting import format_cell
from trainingtask_cli.helper_pod import ARCHIVE_FILE, HelperPod, PodUser, RunningPod, run_helper_pod
from trainingtask_cli.options import Format
from trainingtask_cli.output import Table, print_sections, to_csv, to_document
from trainingtask_cli.parsing import Object
from trainingtask_cli.saved_model import SavedModel, find_model, join_claim_path

__all__ = ["Cluster", "download", "predict", "upload"]

_TRAINER = ("python", "-P", "-m", "trainingtask_trainer")
_FETCHED = "/tmp/model"  # noqa: S108 - in the pod


@dataclass(frozen=True)
class PodOptions:
    """How helper pods are started."""

    image: str | None
    timeout: float
    """Seconds to wait until one runs."""


class LabelProbability(BaseModel):
    """A predicted label."""

    label: str
    probability: float


class Prediction(BaseModel):
    """A text with its labels, most probable first, as the trainer prints it."""

    text: str
    labels: list[LabelProbability]


def upload(
    cluster: Cluster, files: Sequence[Path], claim: str, options: PodOptions, *, folder: str, size: str | None
) -> None:
    """Copy files and folders into a folder of a claim, which is created with `size` if it is not there."""
    target = join_claim_path(folder, "--path")
    with _report_file_errors():
        paths = [Path(os.path.abspath(file)) for file in files]  # with names, also of `.`
        if len({path.name for path in paths}) < len(paths):
            raise UsageError("two of the files have one name: upload them one by one, to different folders (--path)")
        found = find_files(paths)
        total = sum(path.stat().st_size for path in found.values())
        if not found:
            raise UsageError("there are no files in these folders: name files, or folders that hold some")
        account = _get_account(cluster)
        image = _find_image(account, options)
        _prepare_claim(cluster, claim, size)
        with (
            run_helper_pod(
                cluster, HelperPod("upload", image, _find_user(account), claim, is_read_only=False), options.timeout
            ) as pod,
            _show_progress(total) as on_bytes,
            pod.execute("python", "-P", ARCHIVE_FILE, "receive", target) as (stdin, _),
        ):
            write_archive(found, stdin, on_bytes)
    typer.echo(f"{_count_files(found)} ({format_size(total)}) uploaded to volume claim {claim}")
    for path in paths:
        typer.echo(f"dataset: {{volumeClaim: {claim}, path: {PurePosixPath(folder, path.name)}}}")


def download(cluster: Cluster, name: str, folder: Path | None, options: PodOptions, *, is_forced: bool) -> None:
    """Copy the trained model of a task into a new folder."""
    model = find_model(cluster, cluster.get_task(name))
    folder = (folder or Path(name)).absolute()
    _check_replaceable(folder, is_forced=is_forced)
    account = _get_account(cluster)
    image = _find_image(account, options, model.image)
    pod = HelperPod("download", image, _find_user(account), model.claim, template=model.template)
    with _report_file_errors():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
            partial = Path(temporary) / "model"
            partial.mkdir()
            with run_helper_pod(cluster, pod, options.timeout) as running:
                files = _receive_model(running, model, partial)
            if names.MODEL_MANIFEST_FILE not in files:
                raise CommandError(f"there is no model of {name} any more: {names.MODEL_MANIFEST_FILE} is missing")
            if folder.exists():
                folder.rename(Path(temporary) / "previous")
            partial.rename(folder)
    typer.echo(f"{_count_files(files)} of {name} downloaded to {folder}")


def _receive_model(pod: RunningPod, model: SavedModel, folder: Path) -> list[str]:
    """Write the files of a model into an empty folder; return their names."""
    source = model.address
    if model.claim is None:
        source = _FETCHED
        with pod.execute(*_TRAINER, "download", model.address, source):
            pass
    with (
        _show_progress(None) as on_bytes,
        pod.execute("python", "-P", ARCHIVE_FILE, "send", source) as (_, stdout),
    ):
        return read_archive(stdout, folder, on_bytes)


def predict(cluster: Cluster, name: str, texts: Sequence[str], form: Format, options: PodOptions) -> None:
    """Print the labels that the trained model of a task gives to texts."""
    model = find_model(cluster, cluster.get_task(name))
    texts = [" ".join(text.splitlines()) for text in texts or sys.stdin if text.strip()]  # the trainer reads one a line
    if not texts:
        raise UsageError("there are no texts: name some, or write them to the standard input, one a line")
    account = _get_account(cluster)
    pod = HelperPod(
        "predict",
        _find_image(account, options, model.image),
        _find_user(account),
        model.claim,
        code=model.code,
        memory=model.memory,
        template=model.template,
    )
    code = ("--code-dir", names.CODE_DIR) if model.code else ()
    with (
        run_helper_pod(cluster, pod, options.timeout) as running,
        running.execute(*_TRAINER, "predict", model.address, "--json", *code) as (stdin, stdout),
    ):
        stdin.write("".join(f"{text}\n" for text in texts).encode())
        stdin.close()
        printed = stdout.read()
    _print_predictions(_parse_predictions(printed, len(texts)), form)


def _get_account(cluster: Cluster) -> Object:
    """Return the ServiceAccount of helper pods, whose annotations name the trainers' image and user.

    Raises
    ------
    CommandError
        When the namespace is not prepared for trainers.
    """
    try:
        return cluster.get("serviceaccounts", names.TRAINER_SERVICE_ACCOUNT)
    except NotFoundError as error:
        raise CommandError(
            f"{error}: namespace {cluster.namespace} is not prepared for trainers: name another one (-n), or have it"
            " added to the chart's trainer.namespaces"
        ) from None


def _find_image(account: Object, options: PodOptions, own: str | None = None) -> str:
    """Return the image for helper pods: of the command, else of the task, else of the namespace.

    Raises
    ------
    CommandError
        When none of them names one.
    """
    image = options.image or own or get_path(account, "metadata", "annotations", names.TRAINER_IMAGE_ANNOTATION)
    if not image:
        raise CommandError(
            f"the ServiceAccount {names.TRAINER_SERVICE_ACCOUNT} of this namespace does not name the"
            f" trainer's image ({names.TRAINER_IMAGE_ANNOTATION}): have the chart upgraded, or name it with --image"
        )
    return str(image)


def _find_user(account: Object) -> PodUser:
    """Return user and groups of helper pods; without the annotation, those of an earlier chart.

    Raises
    ------
    CommandError
        When the annotation cannot be read.
    """
    text = get_path(account, "metadata", "annotations", names.TRAINER_USER_ANNOTATION)
    if text is None:
        return PodUser(runAsUser=1000, runAsGroup=1000, fsGroup=1000, fsGroupChangePolicy="OnRootMismatch")
    try:
        return PodUser.model_validate_json(text)
    except ValidationError:
        raise CommandError(
            f"the annotation {names.TRAINER_USER_ANNOTATION} of the ServiceAccount {names.TRAINER_SERVICE_ACCOUNT} is no"
            f" security context ({format_cell(text)}): have the chart upgraded, which writes it"
        ) from None


def _prepare_claim(cluster: Cluster, claim: str, size: str | None) -> None:
    """Create a claim that does not exist.

    Raises
    ------
    CommandError
        When it does not exist and no size is given.
    """
    try:
        cluster.get("persistentvolumeclaims", claim)
    except NotFoundError as error:
        if size is None:
            raise CommandError(
                f"{error} in namespace {cluster.namespace}: add --create 5Gi to create it with that size, or name"
                " another claim (`kubectl get persistentvolumeclaims` lists them)"
            ) from None
        spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}}
        metadata = {"name": claim}
        manifest = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec}
        cluster.create("persistentvolumeclaims", manifest)
        typer.echo(f"persistentvolumeclaim {claim} created")


def _check_replaceable(folder: Path, *, is_forced: bool) -> None:
    """Refuse a folder that exists, unless it is a model that may be replaced."""
    if not folder.exists():
        return
    if not is_forced:
        raise CommandError(f"{folder} exists already: name another folder with --to, or replace it with --force")
    if not (folder / names.MODEL_MANIFEST_FILE).is_file():
        raise CommandError(f"{folder} is no trained model, which --force replaces: name another folder with --to")


@contextmanager
def _report_file_errors() -> Iterator[None]:
    """Turn errors of this machine's files into sentences."""
    try:
        yield
    except OSError as error:
        raise CommandError(f"{error.filename}: {error.strerror}" if error.filename else str(error)) from None


@contextmanager
def _show_progress(total: int | None) -> Iterator[Callable[[int], None]]:
    """Show a bar on a terminal while the block runs; yield the function that advances it by a number of bytes."""
    console = Console(stderr=True)
    columns = (BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        bar = progress.add_task("", total=total)
        yield lambda count: progress.advance(bar, count)


def _count_files(files: Collection[object]) -> str:
    return "1 file" if len(files) == 1 else f"{len(files)} files"


def _parse_predictions(printed: bytes, expected: int) -> list[Prediction]:
    """Return the predictions that the trainer has printed, one a line."""
    try:
        predictions = [Prediction.model_validate_json(line) for line in printed.splitlines()]
    except ValidationError:
        predictions = []
    if len(predictions) != expected:
        raise CommandError("the trainer's image printed no predictions: name one of this release with --image")
    return predictions


def _print_predictions(predictions: Sequence[Prediction], form: Format) -> None:
    if form is Format.TABLE:
        rows = [
            (", ".join(f"{found.label} ({found.probability:.2f})" for found in prediction.labels), prediction.text)
            for prediction in predictions
        ]
        print_sections(Table(("LABELS", "TEXT"), list(rows)))
    elif form is Format.CSV:
        cells = ((one.text, found.label, found.probability) for one in predictions for found in one.labels)
        sys.stdout.write(to_csv(("text", "label", "probability"), cells))
    else:
        sys.stdout.write(to_document(form, [prediction.model_dump() for prediction in predictions]))
