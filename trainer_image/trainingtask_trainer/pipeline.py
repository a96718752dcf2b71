"""A run from top to bottom: load, preprocess, fit, evaluate, save."""

import time

from trainingtask_api.status import Phase, Results
from trainingtask_api.task import TrainingTask
from trainingtask_trainer import registry
from trainingtask_trainer.artifacts import provenance
from trainingtask_trainer.artifacts.bundle import Manifest, check_output, save
from trainingtask_trainer.datasets.base import Dataset
from trainingtask_trainer.datasets.splits import Data, prepare
from trainingtask_trainer.evaluation.evaluator import Scored, evaluate
from trainingtask_trainer.models.base import Model, TrainingRows
from trainingtask_trainer.models.transformers.checkpointing import discard
from trainingtask_trainer.preprocessors.base import Preprocessor
from trainingtask_trainer.reporting.reporter import Reporter
from trainingtask_trainer.runtime.memory import peak_bytes
from trainingtask_trainer.volumes import Volumes


def train(task: TrainingTask, places: Volumes, reporter: Reporter) -> Results:
    """Train the task's model and return what came out.

    Parameters
    ----------
    task
        What to train.
    places
        Where its volume claims are.
    reporter
        Is told phases and steps; the end is for the caller to tell.

    Raises
    ------
    UserError, Fault
        With a sentence for the person who wrote the task. Anything else is a fault too.
    """
    spec = task.spec
    reporter.phase(Phase.STARTING)
    registry.check("datasets", spec.dataset.name)  # all names first: a misspelt one costs no import
    registry.check("models", spec.model.name)
    wanted = spec.preprocessor.name if spec.preprocessor else None
    if wanted is not None:
        registry.check("preprocessors", wanted)
    model_class: type[Model] = registry.load("models", spec.model.name)
    preprocessor_name = wanted or model_class.preprocessor
    model = model_class(spec, places)
    preprocessor: Preprocessor = registry.load("preprocessors", preprocessor_name)(spec, places)
    dataset: Dataset = registry.load("datasets", spec.dataset.name)()
    output = checkpoints = None
    if spec.output:
        checkpoints = places.checkpoints(task.metadata.uid or task.metadata.name)
        path = spec.output.sub_path or task.metadata.name
        output = check_output(places.output, path, (places.cache, checkpoints))

    reporter.phase(Phase.LOADING)
    data = prepare(dataset.load(spec.dataset, places.dataset), spec.dataset)

    reporter.phase(Phase.PREPROCESSING)
    preprocessor.fit(data.train.texts)
    features = {name: preprocessor.transform(split.texts) for name, split in data.splits().items()}

    reporter.phase(Phase.TRAINING)
    started = time.perf_counter()
    rows = TrainingRows(
        features["train"], data.train.labels, features["validation"], data.validation.labels, data.label_names
    )
    fitted = model.fit(rows, preprocessor, reporter.step, checkpoints)
    runtime = time.perf_counter() - started

    reporter.phase(Phase.EVALUATING)
    validation = Scored(data.validation.labels, model.predict(features["validation"]))
    started = time.perf_counter()
    test = Scored(data.test.labels, model.predict(features["test"]))
    evaluation = evaluate(
        spec.evaluation,
        data.label_names,
        train_labels=data.train.labels,
        validation=validation,
        test=test,
        seconds=time.perf_counter() - started,
    )

    reporter.phase(Phase.SAVING)
    repeated = data.texts_in_train()
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
        peak_memory_bytes=peak_bytes(),
        resumed_from_step=fitted.resumed_from_step,
        data_fingerprint=data.fingerprint(),
        validation_texts_in_train=repeated["validation"],
        test_texts_in_train=repeated["test"],
        validation=evaluation.validation,
        evaluation=evaluation.test,
        warnings=[*data.warnings(), *_repeated_warnings(repeated, data), *fitted.warnings, *evaluation.warnings],
        arguments=provenance.arguments(spec, data, preprocessor_name, preprocessor, model),
        versions=provenance.versions((*dataset.packages, *model.packages)),
        model_path=str(output.relative_to(places.output)) if output else None,
    )
    provenance.require_finite(results)
    if output is not None:
        manifest = Manifest(
            task=task.metadata.name,
            model=spec.model.name,
            preprocessor=preprocessor_name,
            labels=data.label_names,
            thresholds=tuple(evaluation.thresholds.values.tolist()),
        )
        save(output, model, preprocessor, manifest=manifest, results=results, curve=fitted.curve)
    if checkpoints is not None:
        discard(checkpoints)
    return results


def _repeated_warnings(repeated: dict[str, int], data: Data) -> list[str]:
    if not any(repeated.values()):
        return []
    counts = " and ".join(
        f"{repeated[name]} of {len(split)} {name} rows" for name, split in data.splits().items() if name in repeated
    )
    return [f"{counts} have a text that stands in the training rows as well: remembering it is enough there"]
