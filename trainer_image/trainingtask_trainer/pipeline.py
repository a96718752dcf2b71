"""A run from top to bottom: load, preprocess, fit, evaluate, save."""

import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from trainingtask_api.dataset import Dataset as DatasetSpec
from trainingtask_api.dataset import TableColumns
from trainingtask_api.reasons import Reason
from trainingtask_api.spec import TrainingTaskSpec
from trainingtask_api.status import MAX_WARNINGS, Phase, Results
from trainingtask_api.task import TrainingTask
from trainingtask_api.training import Loop
from trainingtask_trainer import registry
from trainingtask_trainer.artifacts import provenance
from trainingtask_trainer.artifacts.bundle import RESULTS_FILE, write_bundle
from trainingtask_trainer.artifacts.event_files import write_event_files
from trainingtask_trainer.artifacts.exporting import write_exports
from trainingtask_trainer.artifacts.model_card import CARD_FILE
from trainingtask_trainer.artifacts.model_manifest import Manifest
from trainingtask_trainer.datasets.base import Dataset
from trainingtask_trainer.datasets.splits import PreparedData, assign_folds, prepare_data
from trainingtask_trainer.errors import MAX_MESSAGE_LENGTH, UserError
from trainingtask_trainer.evaluation.evaluator import Evaluation, ScoredRows, evaluate
from trainingtask_trainer.evaluation.label_errors import LabelErrorReport, PredictedRows, report_label_errors
from trainingtask_trainer.evaluation.repeated_texts import count_repeated_texts
from trainingtask_trainer.models.base import FitResult, Model, TrainingRows, is_distributed
from trainingtask_trainer.models.out_of_fold import SharedProgress, predict_out_of_fold
from trainingtask_trainer.models.transformers.checkpointing import CHECKPOINT_MANIFEST
from trainingtask_trainer.preprocessors.base import HasTextLengths, Preprocessor
from trainingtask_trainer.reporting.reporter import Reporter
from trainingtask_trainer.runtime.memory import get_peak_bytes
from trainingtask_trainer.runtime.process_group import join_process_group, meet_ranks
from trainingtask_trainer.runtime.processes import SINGLE_PROCESS, Processes
from trainingtask_trainer.storage.destination import create_destination
from trainingtask_trainer.storage.downloads import get_downloads, open_downloads
from trainingtask_trainer.storage.folder_store import FolderStore
from trainingtask_trainer.storage.observer import observe_downloads
from trainingtask_trainer.volumes import Volumes


def train(
    task: TrainingTask, volumes: Volumes, reporter: Reporter, processes: Processes = SINGLE_PROCESS
) -> Results | None:
    """Train the task's model and return the results; None in a process that is not rank 0.

    All processes of a task run this. Ranks that have nothing left to do return: rank 0 alone evaluates and publishes,
    and it alone fits a model that trains in one process on features that all have computed.

    Parameters
    ----------
    task
        The task to train.
    volumes
        The folders of its volume claims.
    reporter
        Receives phases and steps; reporting the end is up to the caller.
    processes
        Which of the task's processes this is.

    Raises
    ------
    UserError, Fault
        With a sentence for the task's author. Any other exception is a fault, too.
    """
    with observe_downloads(reporter), open_downloads(), tempfile.TemporaryDirectory(prefix="trainingtask-") as folder:
        return _run_phases(task, volumes, reporter, processes, Path(folder))


def _run_phases(
    task: TrainingTask, volumes: Volumes, reporter: Reporter, processes: Processes, saved: Path
) -> Results | None:
    """Run all phases; the model is put together in the folder `saved`."""
    spec = task.spec
    reporter.start_phase(Phase.STARTING)
    model_class, preprocessor_name, preprocessor_class = _load_classes(spec)
    _check_processes(spec, processes.world_size, model_class, preprocessor_class, reporter)
    dataset: Dataset = registry.load("datasets", spec.dataset.name)()
    name = task.metadata.name
    destination = (
        create_destination(spec.output, volumes.output, name, task.metadata.uid or name) if spec.output else None
    )
    if destination is not None and processes.is_main:
        destination.check()

    reporter.start_phase(Phase.LOADING)
    model = model_class(spec, volumes)
    preprocessor = preprocessor_class(spec, volumes)
    raw = dataset.load(*_fetch_dataset(spec.dataset, volumes.dataset))
    reporter.report_loading(rows=sum(len(split) for split in (raw.train, raw.validation, raw.test) if split))
    data = prepare_data(raw, spec.dataset)

    def train_model() -> _Trained:
        return _train_model(
            [model, *(model_class(spec, volumes) for _ in range(_get_folds(spec) or 0))],
            preprocessor,
            data,
            features,
            reporter=reporter,
            checkpoints=destination.checkpoints if destination else None,
            seed=spec.dataset.seed,
        )

    meet_ranks(processes, "loaded")  # downloads may take longer than a collective waits
    with join_process_group(processes, spec.device):
        reporter.start_phase(Phase.PREPROCESSING)
        preprocessor.fit(data.train.texts)
        features = {name: preprocessor.transform(split.texts) for name, split in data.get_splits().items()}
        meet_ranks(processes, "preprocessed")
        trained = train_model() if is_distributed(model_class) else None
    if not processes.is_main:
        return None
    fitted, runtime, held_out, test_seconds = trained or train_model()
    validation, test = held_out["validation"], held_out["test"]
    evaluation = evaluate(
        spec.evaluation,
        data.label_names,
        train_labels=data.train.labels,
        validation=validation,
        test=test,
        out_of_fold=held_out.get("train"),
        seconds=test_seconds,
    )
    parts = _decide_labels(data, held_out, evaluation)
    repeated_texts = count_repeated_texts(list(data.get_splits().values()))
    errors = report_label_errors(data.label_names, parts, _get_folds(spec), repeated_texts)

    reporter.start_phase(Phase.SAVING)
    repeated = data.count_texts_in_train()
    measured = preprocessor if isinstance(preprocessor, HasTextLengths) else None
    written = write_exports(
        spec.output,
        saved,
        model,
        preprocessor,
        texts=data.test.texts,
        test=test,
        rule=evaluation.rule,
        temperature=evaluation.temperature,
        report=reporter.report_saving,
    )
    results = Results(
        global_step=fitted.global_step,
        training_loss=fitted.training_loss,
        train_rows=len(data.train),
        validation_rows=len(data.validation),
        runtime_seconds=runtime,
        samples_per_second=fitted.rows_seen / runtime,
        labels=len(data.label_names),
        best_epoch=fitted.best_epoch,
        tokens_per_second=None if fitted.tokens_seen is None else fitted.tokens_seen / runtime,
        peak_memory_bytes=get_peak_bytes(),
        world_size=processes.world_size,
        scaling_efficiency=fitted.scaling_efficiency,
        resumed_from_step=fitted.resumed_from_step,
        data_fingerprint=data.compute_fingerprint(),
        validation_texts_in_train=repeated["validation"],
        test_texts_in_train=repeated["test"],
        validation=evaluation.validation,
        evaluation=evaluation.test,
        label_errors=errors.summary,
        exports=written.exports,
        warnings=_truncate_warnings(
            [
                *reporter.warnings,
                *map(get_downloads().name_addresses, data.list_warnings()),
                *_describe_repeated_texts(repeated, data),
                *(measured.list_warnings() if measured else ()),
                *fitted.warnings,
                *evaluation.warnings,
                *(_list_size_warnings(parts) if destination else ()),
                *written.warnings,
            ]
        ),
        arguments=provenance.collect_arguments(spec, data, preprocessor_name, preprocessor, model),
        versions=provenance.collect_versions((*dataset.packages, *model.packages, *written.packages)),
        model_path=destination and destination.model_path,
        model_uri=destination and destination.model_uri,
        text_lengths=measured.text_lengths if measured else None,
        sources=reporter.report.sources or [],
    )
    provenance.check_finite(results)
    if destination is not None:
        columns = spec.dataset.columns or TableColumns()
        manifest = Manifest(
            task=name,
            model=spec.model.name,
            preprocessor=preprocessor_name,
            labels=data.label_names,
            thresholds=tuple(map(float, evaluation.rule.thresholds)),
            at_least_one=evaluation.rule.at_least_one,
            max_labels=evaluation.rule.max_labels,
            temperature=evaluation.temperature,
            formats=written.formats,
            text_columns=tuple(columns.texts or ()),
            text_column=columns.text,
        )
        write_bundle(
            saved,
            model if written.is_native_written else None,
            preprocessor,
            manifest=manifest,
            results=results,
            curve=fitted.curve,
        )
        _write_error_files(saved, task, data, parts, errors)
        if spec.output is not None and spec.output.tensorboard:
            write_event_files(saved, results, fitted.curve)
        reporter.keep_artifacts([saved / CARD_FILE, saved / RESULTS_FILE])
        destination.publish(saved)
        destination.remove_checkpoints(CHECKPOINT_MANIFEST)
    return results


def _load_classes(spec: TrainingTaskSpec) -> tuple[type[Model], str, type[Preprocessor]]:
    """Return the class of the model, and name and class of the preprocessor."""
    registry.check_name("datasets", spec.dataset.name)  # all names first, before any slow import
    registry.check_name("models", spec.model.name)
    wanted = spec.preprocessor.name if spec.preprocessor else None
    if wanted is not None:
        registry.check_name("preprocessors", wanted)
    model_class: type[Model] = registry.load("models", spec.model.name)
    preprocessor_name = wanted or model_class.preprocessor
    preprocessor_class: type[Preprocessor] = registry.load("preprocessors", preprocessor_name)
    return model_class, preprocessor_name, preprocessor_class


def _decide_labels(
    data: PreparedData, held_out: Mapping[str, ScoredRows], evaluation: Evaluation
) -> list[PredictedRows]:
    """Return the rows that the model was not trained on, with the labels that the saved model would predict."""
    return [
        PredictedRows(name, data.get_splits()[name], rows.probabilities, evaluation.rule.predict(rows.probabilities))
        for name, rows in held_out.items()
    ]


def _list_size_warnings(parts: Sequence[PredictedRows]) -> list[str]:
    from trainingtask_trainer.artifacts.predictions import list_size_warnings  # noqa: PLC0415 - pyarrow

    return list_size_warnings(parts)


def _write_error_files(
    folder: Path, task: TrainingTask, data: PreparedData, parts: Sequence[PredictedRows], errors: LabelErrorReport
) -> None:
    from trainingtask_trainer.artifacts.error_files import write_error_files  # noqa: PLC0415 - pyarrow
    from trainingtask_trainer.artifacts.predictions import Metadata  # noqa: PLC0415

    output = task.spec.output
    write_error_files(
        folder,
        task.metadata.name,
        Metadata(labels=data.label_names, test_fingerprint=data.compute_fingerprint("test")),
        parts,
        errors,
        keep_texts=output is not None and output.keep_texts,
    )


class _Trained(NamedTuple):
    """A trained model's results."""

    fitted: FitResult
    seconds: float
    held_out: dict[str, ScoredRows]
    """By split: validation and test rows, and with folds the training rows."""
    test_seconds: float


def _train_model(
    models: Sequence[Model],
    preprocessor: Preprocessor,
    data: PreparedData,
    features: Mapping[str, Any],
    *,
    reporter: Reporter,
    checkpoints: FolderStore | None,
    seed: int,
) -> _Trained:
    """Fit the first model, and predict the validation and the test rows; the others predict a fold of the training rows each."""
    model, *fold_models = models
    reporter.start_phase(Phase.TRAINING)
    progress = SharedProgress(reporter.report_step, trainings=len(models))
    started = time.perf_counter()
    rows = TrainingRows(
        features["train"], data.train.labels, features["validation"], data.validation.labels, data.label_names
    )
    fitted = model.fit(rows, preprocessor, progress, checkpoints)
    seconds = time.perf_counter() - started
    held_out = {}
    if fold_models:
        folds = assign_folds(data.train, len(fold_models), seed)
        found = predict_out_of_fold(fold_models, rows, folds, preprocessor, progress)
        held_out["train"] = ScoredRows(data.train.labels, found)

    reporter.start_phase(Phase.EVALUATING)
    held_out["validation"] = ScoredRows(data.validation.labels, model.predict(features["validation"]))
    started = time.perf_counter()
    held_out["test"] = ScoredRows(data.test.labels, model.predict(features["test"]))
    return _Trained(fitted, seconds, held_out, time.perf_counter() - started)


def _get_folds(spec: TrainingTaskSpec) -> int | None:
    return spec.evaluation.folds if spec.evaluation else None


def _check_processes(
    spec: TrainingTaskSpec, count: int, model: type[Model], preprocessor: type[Preprocessor], reporter: Reporter
) -> None:
    """Refuse several processes where neither model nor preprocessor uses them; warn of fewer than the task asks for."""
    if count != spec.process_count:
        reporter.add_warning(
            f"{_count_processes(count)} trained this, where resources.nodes and resources.gpus ask for"
            f" {spec.process_count}: speed and memory are not those of the task on a cluster"
        )
    if count == 1:
        return
    if spec.training.loop == Loop.TRAINER:
        raise UserError(
            Reason.INVALID_SPEC, f"training.loop 'trainer' trains in one process, not in {count}: use 'accelerate'"
        )
    if is_distributed(model) and (folds := _get_folds(spec)):
        raise UserError(
            Reason.INVALID_SPEC,
            f"evaluation.folds {folds} trains in one process, not in {count}: remove it, or resources.gpus and"
            " resources.nodes",
        )
    if not (is_distributed(model) or is_distributed(preprocessor)):
        raise UserError(
            Reason.INVALID_SPEC,
            f"model.name '{spec.model.name}' trains in one process, and the task has {count}: remove resources.gpus and"
            f" resources.nodes, or set `is_distributed = True` on {model.__name__} if it trains in several",
        )


def _count_processes(number: int) -> str:
    return "1 process" if number == 1 else f"{number} processes"


def _fetch_dataset(spec: DatasetSpec, root: Path) -> tuple[DatasetSpec, Path]:
    """Return the section and the root folder that the data set reads from; what `uri` names is downloaded first."""
    if spec.uri is None:
        return spec, root
    path = get_downloads().fetch(spec.uri, "dataset.uri")
    return spec.model_copy(update={"path": path.name}), path.parent


def _describe_repeated_texts(repeated: dict[str, int], data: PreparedData) -> list[str]:
    if not any(repeated.values()):
        return []
    counts = " and ".join(
        f"{repeated[name]} of {len(split)} {name} rows" for name, split in data.get_splits().items() if name in repeated
    )
    return [f"{counts} have a text that stands in the training rows as well: remembering it is enough there"]


def _truncate_warnings(warnings: list[str]) -> list[str]:
    """Return warnings as the status has room for them."""
    cut = [text if len(text) <= MAX_MESSAGE_LENGTH else f"{text[: MAX_MESSAGE_LENGTH - 3]}..." for text in warnings]
    kept = MAX_WARNINGS - 1
    return cut if len(cut) <= MAX_WARNINGS else [*cut[:kept], f"{len(cut) - kept} more warnings"]
