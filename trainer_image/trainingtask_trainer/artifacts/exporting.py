"""The formats of `output.formats`: each export is written, scored on the test rows, and removed where it costs too much."""

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from trainingtask_api.exports import Export, Format
from trainingtask_api.spec import Output
from trainingtask_trainer.evaluation.calibration import scale_probabilities
from trainingtask_trainer.evaluation.decisions import DecisionRule
from trainingtask_trainer.evaluation.evaluator import ScoredRows
from trainingtask_trainer.evaluation.metrics import Decisions, average_defined
from trainingtask_trainer.models.base import Exportable, Model
from trainingtask_trainer.models.formats import INPUT_FILES, MODEL_FILES, NotExportableError
from trainingtask_trainer.preprocessors.base import Preprocessor

DEFAULT_MAX_F1_LOSS = 0.01
# With more test rows, as many of them are drawn: a large model reads 20 in a second on one core.
_MAX_SCORED_ROWS = 5000


@dataclass
class WrittenFormats:
    """What was written of `output.formats`."""

    is_native_written: bool = True
    """Whether the model's own format has to be written as well."""
    formats: tuple[Format, ...] = ()
    """The formats for the manifest; none: the model's own alone."""
    exports: list[Export] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def packages(self) -> tuple[str, ...]:
        """Distributions whose versions the exports depend on."""
        return ("onnx", "onnxruntime") if self.exports else ()


def write_exports(
    output: Output | None,
    folder: Path,
    model: Model,
    preprocessor: Preprocessor,
    *,
    texts: Sequence[str],
    test: ScoredRows,
    rule: DecisionRule,
    temperature: float | None,
    report: Callable[[str], None],
) -> WrittenFormats:
    """Write the ONNX formats that the task asks for into `folder`, and score each on the test rows.

    Parameters
    ----------
    output
        The task's `output`; None: nothing is written.
    folder
        The folder of the saved model.
    model, preprocessor
        As trained.
    texts, test
        The test rows, with the trained model's calibrated probabilities.
    rule, temperature
        Those of the saved model.
    report
        Takes what is done next.
    """
    formats = (output and output.formats) or ()
    wanted = [kind for kind in MODEL_FILES if kind in formats]
    if output is None or not wanted:
        return WrittenFormats()
    written = WrittenFormats(is_native_written=len(wanted) < len(formats))
    rows = _draw_rows(len(texts))
    scored = ScoredRows(test.truth[rows], test.probabilities[rows])
    limit = DEFAULT_MAX_F1_LOSS if output.max_f1_loss is None else output.max_f1_loss
    try:
        for kind in _write_files(folder, model, preprocessor, wanted, report):
            report(f"scoring {kind}")
            export = _score(folder, kind, [texts[row] for row in rows], scored, rule=rule, temperature=temperature)
            is_kept = export.f1_loss <= limit
            written.exports.append(export.model_copy(update={"is_written": is_kept}))
            if not is_kept:
                written.warnings.append(_describe_loss(export, limit))
    except NotExportableError as error:
        written.warnings.append(f"output.formats: the model is not written as ONNX, {error}")
    kept = [export.format for export in written.exports if export.is_written]
    for kind in MODEL_FILES.keys() - kept:
        (folder / MODEL_FILES[kind]).unlink(missing_ok=True)
    if not kept:
        for name in INPUT_FILES:
            (folder / name).unlink(missing_ok=True)
        if not written.is_native_written:
            written.warnings.append("none of output.formats is written: the model is saved in its own format")
        return WrittenFormats(exports=written.exports, warnings=written.warnings)
    written.formats = (*(kind for kind in formats if kind not in MODEL_FILES), *kept)
    return written


def _write_files(
    folder: Path, model: Model, preprocessor: Preprocessor, wanted: Sequence[Format], report: Callable[[str], None]
) -> Iterator[Format]:
    """Write the file of each format and yield the format; fp32 comes first, which int8 is made of."""
    if not isinstance(model, Exportable):
        raise NotExportableError(f"{type(model).__name__} has no `export`")
    report(f"exporting {Format.ONNX}")
    model.export(folder, preprocessor)
    if Format.ONNX in wanted:
        yield Format.ONNX
    if Format.ONNX_INT8 in wanted:
        from trainingtask_trainer.models.onnx.quantization import quantize  # noqa: PLC0415 - the extra `onnx`

        report(f"exporting {Format.ONNX_INT8}")
        quantize(folder / MODEL_FILES[Format.ONNX], folder / MODEL_FILES[Format.ONNX_INT8])
        yield Format.ONNX_INT8


def _score(
    folder: Path, kind: Format, texts: Sequence[str], test: ScoredRows, *, rule: DecisionRule, temperature: float | None
) -> Export:
    """Return the scores of a written file, read as a saved model is, by one thread."""
    from trainingtask_trainer.models.onnx.model import OnnxModel  # noqa: PLC0415 - the extra `onnx`

    opened = OnnxModel(folder, kind, threads=1)
    with _use_one_tokenizer_thread():
        started = time.perf_counter()
        probabilities = opened.predict_probabilities(texts)
        seconds = time.perf_counter() - started
    if temperature is not None:
        scale_probabilities(probabilities, temperature)
    predicted = rule.predict(probabilities)
    micro = Decisions.of(test.truth, predicted, axis=None).f1
    own = Decisions.of(test.truth, rule.predict(test.probabilities), axis=None).f1
    return Export(
        format=kind,
        is_written=True,
        size=sum(
            (folder / name).stat().st_size for name in (MODEL_FILES[kind], *INPUT_FILES) if (folder / name).exists()
        ),
        micro_f1=None if np.isnan(micro) else float(micro),
        macro_f1=average_defined(Decisions.of(test.truth, predicted, axis=0).f1),
        f1_loss=float(np.nan_to_num(own) - np.nan_to_num(micro)),
        max_probability_difference=float(np.abs(probabilities - test.probabilities).max()),
        rows_per_second=len(texts) / seconds,
    )


def _draw_rows(count: int) -> list[int]:
    if count <= _MAX_SCORED_ROWS:
        return list(range(count))
    drawn: list[int] = np.sort(np.random.default_rng(0).choice(count, _MAX_SCORED_ROWS, replace=False)).tolist()
    return drawn


@contextmanager
def _use_one_tokenizer_thread() -> Iterator[None]:
    name = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    os.environ[name] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _describe_loss(export: Export, limit: float) -> str:
    enough = math.ceil(export.f1_loss * 1000) / 1000
    return (
        f"output.formats: '{export.format}' costs {export.f1_loss:.4f} of micro-F1 on the test rows, more than"
        f" output.maxF1Loss {limit:g}, and is not written: set output.maxF1Loss to {enough:g} to have it"
    )
