"""A run from top to bottom: load, preprocess, fit, evaluate, save."""

import time
from dataclasses import dataclass
from typing import Any

from trainingtask_api.status import EvaluationResult, Phase, Results
from trainingtask_api.task import TrainingTask
from trainingtask_trainer import metrics, record, registry
from trainingtask_trainer.datasets.base import Dataset, LabelMatrix
from trainingtask_trainer.datasets.splits import prepare
from trainingtask_trainer.models.base import Model
from trainingtask_trainer.places import Places
from trainingtask_trainer.preprocessors.base import Preprocessor
from trainingtask_trainer.reporting.reporter import Reporter
from trainingtask_trainer.saved import Card, check_output, save


def train(task: TrainingTask, places: Places, reporter: Reporter) -> Results:
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
    model_class: type[Model] = registry.load("models", spec.model.name)
    wanted = spec.preprocessor.name if spec.preprocessor else None
    preprocessor_name = wanted or model_class.preprocessor
    model = model_class(spec, places)
    preprocessor: Preprocessor = registry.load("preprocessors", preprocessor_name)(spec, places)
    dataset: Dataset = registry.load("datasets", spec.dataset.name)()
    output = check_output(places.output, spec.output.sub_path or task.metadata.name) if spec.output else None

    reporter.phase(Phase.LOADING)
    data = prepare(dataset.load(spec.dataset, places.dataset), spec.dataset)

    reporter.phase(Phase.PREPROCESSING)
    preprocessor.fit(data.train.texts)
    features = {name: preprocessor.transform(split.texts) for name, split in data.splits().items()}

    reporter.phase(Phase.TRAINING)
    started = time.perf_counter()
    fitted = model.fit(features["train"], data.train.labels, data.label_names, preprocessor, reporter.step)
    runtime = time.perf_counter() - started

    reporter.phase(Phase.EVALUATING)
    threshold = _threshold(task, model, features["validation"], data.validation.labels)
    evaluation, warnings = _evaluate(model, features["test"], data.test.labels, data.train.labels, threshold)

    reporter.phase(Phase.SAVING)
    results = Results(
        global_step=fitted.global_step,
        training_loss=fitted.training_loss,
        train_rows=len(data.train),
        validation_rows=len(data.validation),
        runtime_seconds=runtime,
        samples_per_second=fitted.rows_seen / runtime,
        labels=len(data.label_names),
        data_fingerprint=data.fingerprint(),
        evaluation=evaluation,
        warnings=[*fitted.warnings, *warnings],
        arguments=record.arguments(spec, data, preprocessor_name, preprocessor, model),
        versions=record.versions((*dataset.packages, *model.packages)),
        model_path=str(output.relative_to(places.output)) if output else None,
    )
    record.require_finite(results)
    if output is not None:
        card = Card(spec.model.name, preprocessor_name, data.label_names, threshold.value)
        save(output, model, preprocessor, card, results)
    return results


@dataclass(frozen=True)
class _Threshold:
    value: float
    source: str


def _threshold(task: TrainingTask, model: Model, features: Any, truth: LabelMatrix) -> _Threshold:
    """Return the task's threshold, else the one tuned on the validation rows; the test rows have no say."""
    fixed = task.spec.evaluation.threshold if task.spec.evaluation else None
    if fixed is not None:
        return _Threshold(fixed, "fixed")
    return _Threshold(metrics.tune_threshold(truth, model.predict(features)), "tuned")


def _evaluate(
    model: Model, features: Any, truth: LabelMatrix, train: LabelMatrix, threshold: _Threshold
) -> tuple[EvaluationResult, list[str]]:
    """Return the scores on the test rows, and what a reader must know of them."""
    started = time.perf_counter()
    probabilities = model.predict(features)
    runtime = time.perf_counter() - started
    scores = metrics.score(truth, metrics.apply_threshold(probabilities, threshold.value))
    all_zero = metrics.all_zero_baseline(truth)
    most_frequent = metrics.most_frequent_baseline(truth, train)
    result = EvaluationResult(
        split="test",
        rows=len(truth),
        threshold=threshold.value,
        threshold_source=threshold.source,
        loss=metrics.binary_cross_entropy(truth, probabilities),
        **scores._asdict(),
        all_zero=all_zero,
        most_frequent=most_frequent,
        runtime_seconds=runtime,
        samples_per_second=len(truth) / runtime,
    )
    return result, metrics.baseline_warnings(scores, all_zero, most_frequent)
