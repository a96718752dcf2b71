"""Time the classical models against plain scikit-learn: the same features, the same fit, the same scores.

    python benchmarks/classical/bench.py [--rows N] [--queries N] [--trees N] [MODEL ...]

Each row is fitted and predicts validation and test rows, first as the trainer does it, then with scikit-learn's own
estimators and wrappers on as many cores; the ratios are scikit-learn's seconds by ours, on the clock and of the
processor's time, which other work on the machine disturbs less. A forest's time grows with its trees one by one, so a
few of them tell the ratio.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import ClassifierChain, MultiOutputClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import LinearSVC

from trainingtask_api.capabilities import CLASSICAL_MODELS, MODELS
from trainingtask_api.names import API_VERSION, KIND
from trainingtask_api.task import TrainingTask
from trainingtask_trainer import registry
from trainingtask_trainer.datasets.splits import prepare_data
from trainingtask_trainer.evaluation import thresholds
from trainingtask_trainer.evaluation.decisions import DecisionRule
from trainingtask_trainer.models.base import TrainingRows
from trainingtask_trainer.preprocessors.tfidf import Tfidf
from trainingtask_trainer.runtime.cgroup import get_cpu_limit
from trainingtask_trainer.volumes import Volumes

DATA = Path(__file__).parents[2] / "../shared/data"
SEED = 42
WRAPPERS: dict[str, Any] = {
    "native": lambda estimator: estimator,
    "one_vs_rest": OneVsRestClassifier,
    "multi_output": MultiOutputClassifier,
    "classifier_chain": ClassifierChain,
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", nargs="*", default=CLASSICAL_MODELS, help="random_forest, knn, ...")
    parser.add_argument("--data-dir", type=Path, default=DATA, help="holds go_emotions")
    parser.add_argument("--rows", type=int, help="training rows (default: all 43,410)")
    parser.add_argument("--queries", type=int, default=5426, help="validation rows, and test rows")
    parser.add_argument("--trees", type=int, default=10)
    options = parser.parse_args()
    data = prepare_rows(options)
    print("| model | strategy | here | scikit-learn | ratio | ratio of CPU time | F1 micro here | scikit-learn |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for name in options.models:
        for strategy in WRAPPERS:
            if strategy != "native" or MODELS[name].is_native_multi_label:
                ours = timed(lambda: here(name, strategy, data, options), data)  # noqa: B023
                theirs = timed(lambda: plain(name, strategy, data, options), data)  # noqa: B023
                times = (f"{ours.seconds:.1f} s", f"{theirs.seconds:.1f} s", f"{theirs.seconds / ours.seconds:.1f}")
                cells = (*times, f"{theirs.cpu / ours.cpu:.1f}", f"{ours.f1:.3f}", f"{theirs.f1:.3f}")
                print(f"| {name} | {strategy} | {' | '.join(cells)} |", flush=True)


def task(name: str, strategy: str, options: argparse.Namespace) -> TrainingTask:
    """Return the task of a row."""
    sample = {} if options.rows is None else {"sampleSize": options.rows}
    spec: dict[str, Any] = {
        "dataset": {"name": "go_emotions", "volumeClaim": "data", "path": "go_emotions"} | sample,
        "model": {"name": name, "strategy": strategy},
        "training": {"trees": options.trees} if name == "random_forest" else {},
    }
    manifest = {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": "bench"}, "spec": spec}
    return TrainingTask.model_validate(manifest)


def prepare_rows(options: argparse.Namespace) -> TrainingRows:
    """Return training rows, with the first test rows after the validation rows as `validation`."""
    some = task("knn", "native", options)
    dataset = registry.load("datasets", "go_emotions")()
    data = prepare_data(dataset.load(some.spec.dataset, options.data_dir), some.spec.dataset)
    tfidf = Tfidf(some.spec, Volumes(Path(), Path(), Path()))
    tfidf.fit(data.train.texts)
    both = [split.take(range(options.queries)) for split in (data.validation, data.test)]
    queries = tfidf.transform([text for split in both for text in split.texts])
    labels = np.concatenate([split.labels for split in both])
    return TrainingRows(tfidf.transform(data.train.texts), data.train.labels, queries, labels, data.label_names)


class Timed(NamedTuple):
    """How a row went."""

    seconds: float
    cpu: float
    """Seconds of all cores together."""
    f1: float
    """Micro-F1 on the test rows with the threshold tuned on the validation rows."""


def timed(work: Callable[[], Any], data: TrainingRows) -> Timed:
    """Time what returns values for the validation rows and then the test rows."""
    started, cpu = time.perf_counter(), time.process_time()
    values = work()
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    half = len(values) // 2
    truth = data.validation_labels
    chosen = thresholds.choose_thresholds(None, truth[:half], values[:half])
    predicted = DecisionRule(chosen.values).predict(values[half:])
    return Timed(seconds, cpu, float(2 * (predicted & truth[half:]).sum() / (predicted.sum() + truth[half:].sum())))


def here(name: str, strategy: str, data: TrainingRows, options: argparse.Namespace) -> Any:
    """Return the trainer's probabilities."""
    spec = task(name, strategy, options).spec
    model = registry.load("models", name)(spec, Volumes(Path(), Path(), Path()))
    model.fit(data, None, lambda step: None, None)
    return model.predict(data.validation_features)


def plain(name: str, strategy: str, data: TrainingRows, options: argparse.Namespace) -> Any:
    """Return scikit-learn's probabilities, or a linear SVC's decision values."""
    estimator = create_estimator(name, options.trees, get_cpu_limit())
    model = WRAPPERS[strategy](estimator).fit(data.features, data.labels)
    queries = data.validation_features
    if name != "linear_svc":
        values = model.predict_proba(queries)
        return np.column_stack([part[:, 1] for part in values]) if isinstance(values, list) else values
    if strategy == "multi_output":
        return np.column_stack([estimator.decision_function(queries) for estimator in model.estimators_])
    return model.decision_function(queries)


def create_estimator(name: str, trees: int, cores: int) -> Any:
    """Return scikit-learn's own estimator, as a person would configure it."""
    return {
        "random_forest": RandomForestClassifier(trees, min_samples_leaf=2, random_state=SEED, n_jobs=cores),
        "knn": KNeighborsClassifier(metric="cosine", n_jobs=cores),
        "linear_svc": LinearSVC(random_state=SEED),
        "logistic_regression": LogisticRegression(C=10, max_iter=1000),
    }[name]


if __name__ == "__main__":
    main()
