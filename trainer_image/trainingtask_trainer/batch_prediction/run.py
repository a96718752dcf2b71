"""The prediction of a file: its parts in worker processes, joined in the end; after a kill it goes on where it was."""

import itertools
import json
import math
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from trainingtask_api.exports import Format
from trainingtask_api.formatting import format_time_left
from trainingtask_api.reasons import Reason
from trainingtask_trainer import registry
from trainingtask_trainer.artifacts.saved_model import Prediction, SavedModel
from trainingtask_trainer.batch_prediction.formats import SUFFIXES, join_parts, write_part
from trainingtask_trainer.batch_prediction.inputs import compute_code_digest, compute_digest, count_rows, iter_texts
from trainingtask_trainer.batch_prediction.outputs import Output, open_output
from trainingtask_trainer.batch_prediction.shards import Shard
from trainingtask_trainer.errors import Fault, UserError
from trainingtask_trainer.models.formats import list_unread_files
from trainingtask_trainer.runtime.cgroup import get_cpu_limit
from trainingtask_trainer.runtime.workers import WorkerKilledError, count_workers, run_calls
from trainingtask_trainer.sources.data_files import DataFile

# Of a part. Rows of like length share a batch; probabilities take 8 bytes a row and label.
_MAX_PART_ROWS = 4096
_MAX_PART_PROBABILITIES = 4_000_000
# Of scikit-learn or ONNX Runtime, which each worker imports with the model.
_LIBRARY_BYTES = 160 << 20
_RECORD = "run.json"  # a line with the record, and, once the parts are joined, one with the digest of what they became
_PROGRESS_SECONDS = 5.0


@dataclass(frozen=True)
class ModelSource:
    """What a worker process loads the model from."""

    folder: Path
    wanted: Format | None
    code_folder: Path | None


@dataclass(frozen=True)
class _Record:
    """What parts depend on: those of another one are not used."""

    input: str
    model: str
    code: str | None
    release: str
    format: str | None
    columns: list[str]
    rows: int
    part_rows: int

    def encode(self) -> bytes:
        """Return it as a line of JSON."""
        return json.dumps(asdict(self)).encode()


class _Part(NamedTuple):
    """Consecutive rows, whose predictions are a file of this name."""

    name: str
    first_row: int
    texts: Sequence[str]


def predict_file(
    source: ModelSource, file: Path, output_address: str, *, columns: Sequence[str], shard: Shard | None
) -> None:
    """Write the predictions for the rows of a file, or of a shard of it, in their order.

    Parameters
    ----------
    source
        The model.
    file
        Its ending says its format.
    output_address
        A file, or an address in an object store; its ending is one of `SUFFIXES`.
    columns
        Names of the text columns; none: those of the model.
    shard
        The share of the rows, whose output has the shard's number in its name.

    Raises
    ------
    UserError
        When the file cannot be read, or the output cannot be written, or it or parts of another run are there already.
    Fault
        When a worker process was killed.
    """
    output = open_output(shard.number_name(output_address) if shard else output_address)
    is_joined = _check_output(output)
    model = _load_model(source, None)
    columns = list(columns or model.manifest.text_columns or (model.manifest.text_column,))
    part_rows = max(1, min(_MAX_PART_ROWS, _MAX_PART_PROBABILITIES // len(model.manifest.labels)))
    rows = count_rows(DataFile(file), columns, part_rows)
    own = (shard or Shard(0, 1)).get_range(math.ceil(rows / part_rows))
    record = _Record(
        input=compute_digest(file),
        model=compute_digest(source.folder, without=list_unread_files(source.folder, model.format)),
        code=None if source.code_folder is None else compute_code_digest(source.code_folder),
        release=version("trainingtask"),
        format=model.format,
        columns=columns,
        rows=rows,
        part_rows=part_rows,
    )
    done = _begin(output, record)
    if is_joined:
        _remove_parts(output, done)
        return
    names = {part: f"part-{part:06}{Path(output.name).suffix}" for part in own}
    left = [part for part in own if names[part] not in done]
    progress = _Progress(
        total=min(rows, own.stop * part_rows) - own.start * part_rows, part_rows=part_rows, done=len(own) - len(left)
    )

    workers = _count_processes(source, len(left))
    threads = 1 if workers > 1 else None

    def list_parts() -> Iterator[_Part]:
        wanted = set(left)
        for part, texts in enumerate(itertools.islice(parts, own.stop)):
            if part in wanted:
                yield _Part(names[part], part * part_rows + 1, texts)

    predict = partial(_predict_part, source, threads, output)
    with (
        closing(iter_texts(DataFile(file), columns, part_rows)) as parts,
        closing(run_calls(predict, list_parts(), workers)) as calls,
    ):
        try:
            for count in calls:
                progress.add(count)
        except WorkerKilledError as error:
            raise Fault(
                Reason.TRAINER_CRASHED,
                "a process that predicts was killed, perhaps because memory was short: run the command again, and it goes on"
                " after the parts that are there",
            ) from error
    _finish(output, record, [names[part] for part in own])


def _check_output(output: Output) -> bool:
    """Return whether the output is there, of a run that was killed while it removed the parts; refuse any other one."""
    suffix = Path(output.name).suffix
    if suffix not in SUFFIXES:
        raise UserError(
            Reason.OUTPUT_NOT_WRITABLE,
            f"--output '{output.name}' ends in '{suffix}': name a file of {', '.join(SUFFIXES)}",
        )
    output.check_writable()
    if not output.exists():
        return False
    if not _is_joined(output):
        raise UserError(
            Reason.OUTPUT_OCCUPIED, f"--output '{output.name}' exists already: remove it, or name another file"
        )
    return True


def _is_joined(output: Output) -> bool:
    """Return whether the file that is there is the one that the parts beside it became."""
    digest = output.read_part(_RECORD).partition(b"\n")[2] if _RECORD in output.list_parts() else b""
    if not digest:
        return False
    with tempfile.TemporaryDirectory(prefix="trainingtask-") as scratch:
        return compute_digest(output.fetch(Path(scratch))).encode() == digest


def _begin(output: Output, record: _Record) -> set[str]:
    """Return the parts of an earlier run; those of another record are an error."""
    parts = output.list_parts()
    if parts and (_RECORD not in parts or output.read_part(_RECORD).partition(b"\n")[0] != record.encode()):
        raise UserError(
            Reason.OUTPUT_OCCUPIED,
            f"{output.name}.parts beside --output holds parts of another input, model, code or release: remove it, or name another file",
        )
    if not parts:
        _write_record(output, record.encode())
    return parts


def _write_record(output: Output, content: bytes) -> None:
    with tempfile.TemporaryDirectory(prefix="trainingtask-") as scratch:
        file = Path(scratch, _RECORD)
        file.write_bytes(content)
        output.add_part(file)


def _finish(output: Output, record: _Record, names: Sequence[str]) -> None:
    with tempfile.TemporaryDirectory(prefix="trainingtask-") as scratch:
        file = Path(scratch, output.name)
        join_parts(output.fetch_parts(names, Path(scratch)), file)
        # By its digest the next run knows the output, if this one is killed before all parts are removed.
        _write_record(output, record.encode() + b"\n" + compute_digest(file).encode())
        output.complete(file)
    _remove_parts(output, names)


def _remove_parts(output: Output, names: Iterable[str]) -> None:
    output.remove_parts([*(name for name in names if name != _RECORD), _RECORD])


def _count_processes(source: ModelSource, parts: int) -> int:
    """Return how many processes predict; one where the model uses torch, whose threads use all cores."""
    if "torch" in sys.modules:
        return 1
    size = sum(file.stat().st_size for file in source.folder.rglob("*") if file.is_file())
    return count_workers(math.inf, _LIBRARY_BYTES + 2 * size, min(get_cpu_limit(), parts))


@cache
def _load_model(source: ModelSource, threads: int | None) -> SavedModel:
    if source.code_folder is not None:
        registry.add_code_folder(source.code_folder)
    return SavedModel(source.folder, source.wanted, threads)


def _predict_part(source: ModelSource, threads: int | None, output: Output, part: _Part) -> int:
    """Write a part, and return the number of its rows; a row without text has no labels."""
    model = _load_model(source, threads)
    there = [text for text in part.texts if text]
    found = iter(model.choose_labels(there, model.predict_probabilities(there)) if there else ())
    predictions = [next(found) if text else Prediction("", {}) for text in part.texts]
    with tempfile.TemporaryDirectory(prefix="trainingtask-") as scratch:
        file = Path(scratch, part.name)
        write_part(file, part.first_row, predictions)
        output.add_part(file)
    return len(part.texts)


class _Progress:
    """Lines on stderr: how much is done, and how long the rest takes."""

    def __init__(self, total: int, part_rows: int, done: int) -> None:
        self._total = total
        self._before = min(total, done * part_rows)
        self._count = 0
        self._start = self._last = time.monotonic()
        if done:
            print(f"{self._before} of {total} rows are there already", file=sys.stderr, flush=True)

    def add(self, rows: int) -> None:
        """Count rows, and print a line every few seconds and at the end."""
        self._count += rows
        now = time.monotonic()
        there = min(self._total, self._before + self._count)
        if now - self._last >= _PROGRESS_SECONDS or there == self._total:
            self._last = now
            rate = self._count / max(now - self._start, 1e-9)
            left = format_time_left((self._total - there) / rate)
            share = f"{there / self._total:.0%} {there} of {self._total} rows"
            print(f"{share}, {rate:.1f} rows/s, {left} left", file=sys.stderr, flush=True)
