"""A sample history of two weeks: 60 runs of four teams in every state, with curves, events and scores."""

import math
import random
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Engine

from trainingtask_api import TrainingTaskSpec
from trainingtask_api.formatting import format_time_left
from trainingtask_api.label_errors import LabelErrorCounts, LabelErrors, LabelPair
from trainingtask_api.scores import (
    Averages,
    Baseline,
    EvaluationResult,
    Interval,
    Intervals,
    LabelScore,
    ValidationScores,
)
from trainingtask_api.status import Results
from trainingtask_history.rows import build_result_columns
from trainingtask_history.store import record_many
from trainingtask_history.tables import MetricPoint, RunEvent, RunStatus, TrainingRun, run_id

EMOTIONS = [
    "admiration",
    "amusement",
    "anger",
    "annoyance",
    "approval",
    "caring",
    "confusion",
    "curiosity",
    "desire",
    "disappointment",
    "disapproval",
    "disgust",
    "embarrassment",
    "excitement",
    "fear",
    "gratitude",
    "grief",
    "joy",
    "love",
    "nervousness",
    "optimism",
    "pride",
    "realization",
    "relief",
    "remorse",
    "sadness",
    "surprise",
    "neutral",
]
TAGS = [
    "bayesian",
    "distributions",
    "hypothesis-testing",
    "machine-learning",
    "probability",
    "r",
    "regression",
    "time-series",
]
TICKETS = ["account", "billing", "bug", "cancellation", "delivery", "feature", "praise", "refund", "security"]
LABELS = {"go_emotions": EMOTIONS, "cross_validated": TAGS, "table": TICKETS, "support_tickets": TICKETS}
NAMESPACES = ("ml-team", "search-relevance", "support-automation", "research")
IMAGE = "registry.example.com/trainingtask-trainer:0.1.0"

# Micro-F1 rounded from docs/results.md.
_F1_BY_MODEL = {
    "distilbert": 0.57, "bert": 0.58, "roberta": 0.60, "xlnet": 0.58, "albert": 0.55, "auto": 0.52,
    "logistic_regression": 0.56, "linear_svc": 0.55, "random_forest": 0.53, "knn": 0.42,
}  # fmt: skip
_TRANSFORMERS = ("distilbert", "bert", "roberta", "xlnet", "albert", "auto")
_FAILURES = {
    "OOMKilled": "The trainer passed its memory limit of 4Gi; it last reported 4102 MiB. Raise resources.memory, or lower training.batchSize.",
    "DatasetNotFound": "dataset.path: there is no 'tickets-2026.csv' in the claim 'training-data'; it has: tickets.csv, tickets-2025.csv.",
    "InvalidData": "tickets.csv, row 1,204: the column 'labels' is empty. Every row of a training file needs at least one label, or the word in dataset.columns.noLabel.",
    "TrainerCrashed": "The trainer ended with exit code 1 and no reason of its own. Its last lines:\nRuntimeError: CUDA error: an illegal memory access was encountered",
    "NonFiniteLoss": "The loss became nan at step 212 of 1,357: lower training.learningRate (0.01), or look at the data.",
}  # fmt: skip


@dataclass
class SampleHistory:
    """Runs with their events and curves."""

    now: datetime
    runs: list[TrainingRun] = field(default_factory=list)
    events: list[RunEvent] = field(default_factory=list)
    points: list[MetricPoint] = field(default_factory=list)
    rng: random.Random = field(default_factory=lambda: random.Random(7))

    def store(self, engine: Engine) -> None:
        """Store everything in a history."""
        record_many(engine, self.runs, events=self.events, points=self.points)

    def get_run(self, name: str, attempt: int = 1) -> TrainingRun:
        """Return a run by its task's name."""
        return next(run for run in self.runs if run.name == name and run.attempt == attempt)

    def add(
        self,
        name: str,
        state: RunStatus,
        *,
        dataset: str = "go_emotions",
        model: str = "distilbert",
        hours: float = 1.0,
        attempt: int = 1,
        namespace: str = "ml-team",
        reason: str | None = None,
        message: str | None = None,
        progress: float = 1.0,
        **changes: Any,
    ) -> TrainingRun:
        """Add a run that was created some hours ago, with its events, curves and results."""
        uid = str(uuid.uuid5(uuid.NAMESPACE_DNS, f"{namespace}/{name}"))
        created = self.now - timedelta(hours=hours)
        is_transformer = model in _TRANSFORMERS
        started = None if state == RunStatus.PENDING else created + timedelta(seconds=self.rng.uniform(6, 40))
        seconds = self.rng.uniform(900, 5400) if is_transformer else self.rng.uniform(20, 240)
        final = state in (RunStatus.SUCCEEDED, RunStatus.FAILED, RunStatus.CANCELLED)
        finished = started + timedelta(seconds=seconds * progress) if final and started else self.now if final else None
        total = self.rng.choice((804, 1357, 4071)) if is_transformer else None
        run = TrainingRun(
            id=run_id(uid, attempt), task_uid=uid, namespace=namespace, namespace_uid=f"uid-of-{namespace}", name=name,
            attempt=attempt, dataset=dataset, model=model, device="gpu" if is_transformer else "cpu", status=state.value,
            create_time=created, start_time=started, finish_time=finished,
            total_time=(finished - started).total_seconds() if finished and started else None,
            labels={"team": namespace.split("-", maxsplit=1)[0], "purpose": self.rng.choice(("nightly", "sweep", "baseline"))},
            phase=None if started is None else "Training" if not final else "Done" if state == RunStatus.SUCCEEDED else "Failed",
            step=int(total * progress) if total and started else None, total_steps=total if started else None,
            eta=format_time_left(seconds * (1 - progress)) if state == RunStatus.RUNNING else None,
            report_time=None if started is None else finished or self.now - timedelta(seconds=3),
            spec=make_spec(dataset, model, self.rng), trainer_image=IMAGE + ("-gpu" if is_transformer else ""),
            node=None if started is None else f"{'gpu' if is_transformer else 'cpu'}-node-{self.rng.randint(1, 4)}",
            error_reason=reason, error_message=message or _FAILURES.get(reason or ""),
            log_tail=make_log(self.rng, started, total, reason) if state == RunStatus.FAILED and started else None,
        )  # fmt: skip
        if state == RunStatus.SUCCEEDED:
            run.sqlmodel_update(build_result_columns(make_results(dataset, model, self.rng, seconds, total)))
        run.sqlmodel_update(changes)
        self.runs.append(run)
        self._add_events(run)
        if is_transformer and run.step:
            self._add_curves(run)
        return run

    def _add_events(self, run: TrainingRun) -> None:
        def event(time: datetime | None, kind: str, reason: str, message: str = "") -> None:
            if time is not None:
                self.events.append(RunEvent(run_id=run.id, time=time, type=kind, reason=reason, message=message))

        assert run.create_time is not None
        event(run.create_time + timedelta(seconds=1), "Accepted", "Accepted", "This cluster can train the task.")
        if run.status == RunStatus.PENDING:
            event(
                run.create_time + timedelta(seconds=3),
                "Running",
                run.error_reason or "Starting",
                run.error_message or "The pod is on its way.",
            )
        if run.start_time is None:
            return
        event(run.start_time, "Running", "TrainerRunning", f"The trainer runs on {run.node}.")
        for phase, seconds in (("Loading", 2), ("Preprocessing", 9), ("Training", 24)):
            event(run.start_time + timedelta(seconds=seconds), "Phase", phase)
        end = run.finish_time or self.now - timedelta(minutes=2)
        if run.status == RunStatus.SUCCEEDED:
            event(end - timedelta(seconds=9), "Phase", "Evaluating")
            event(end - timedelta(seconds=3), "Phase", "Saving")
            event(end, "Complete", "Succeeded", "The model is trained and in claim models, folder " + run.name + ".")
        elif run.status in (RunStatus.FAILED, RunStatus.CANCELLED):
            event(end, "Failed", run.error_reason or "JobFailed", run.error_message or "")
        elif run.status == RunStatus.INTERRUPTED:
            event(end, "Interrupted", run.error_reason or "Evicted", run.error_message or "")
        elif run.status == RunStatus.SUSPENDED:
            event(end, "Suspended", "SuspendedByUser", "runPolicy.suspend is true.")

    def _add_curves(self, run: TrainingRun) -> None:
        total, done = run.total_steps or 1, run.step or 0
        final_score = _F1_BY_MODEL[run.model] * 0.9
        every = max(1, total // 120)
        for step in range(every, done + 1, every):
            part = step / total
            self._add_point(run, "training_loss", step, 0.11 + 0.55 * math.exp(-9 * part) + self.rng.gauss(0, 0.006))
            self._add_point(run, "learning_rate", step, 5e-5 * (part / 0.1 if part < 0.1 else (1 - part) / 0.9))
        for epoch in range(1, 7):
            step = total * epoch // 6
            if step <= done:
                self._add_point(run, "validation_loss", step, 0.12 + 0.2 * math.exp(-0.9 * epoch) + 0.002 * epoch)
                self._add_point(
                    run,
                    "mean_average_precision",
                    step,
                    final_score * (1 - math.exp(-0.75 * epoch)) + self.rng.gauss(0, 0.006),
                )

    def _add_point(self, run: TrainingRun, name: str, step: int, value: float) -> None:
        self.points.append(MetricPoint(run_id=run.id, name=name, step=step, value=round(value, 9)))


# Name, state, and arguments of `SampleHistory.add`.
_RUNS: list[tuple[str, RunStatus, dict[str, Any]]] = [
    ("emotions-roberta-large-batch", RunStatus.RUNNING, {"model": "roberta", "hours": 0.6, "progress": 0.42}),
    ("emotions-distilbert-focal", RunStatus.RUNNING, {"hours": 0.9, "progress": 0.87}),
    ("tickets-weekly", RunStatus.RUNNING, {"dataset": "table", "model": "bert", "hours": 0.15, "namespace": "support-automation", "progress": 0.06}),
    ("queries-auto", RunStatus.PENDING, {"dataset": "table", "model": "auto", "hours": 0.3, "namespace": "search-relevance", "reason": "Unschedulable",
        "message": "0/6 nodes are available: 2 Insufficient nvidia.com/gpu, 4 node(s) didn't match Pod's node affinity/selector."}),
    ("cv-tags-xlnet", RunStatus.PENDING, {"dataset": "cross_validated", "model": "xlnet", "hours": 0.02, "namespace": "research"}),
    ("cv-tags-albert", RunStatus.INTERRUPTED, {"dataset": "cross_validated", "model": "albert", "hours": 2.2, "namespace": "research", "progress": 0.4, "reason": "Evicted",
        "message": "The pod was taken off node gpu-node-2, which is being drained. It is tried again and goes on from step 540."}),
    ("emotions-bert-long", RunStatus.SUSPENDED, {"model": "bert", "hours": 5, "progress": 0.55}),
    ("emotions-bert-base", RunStatus.FAILED, {"model": "bert", "hours": 7, "reason": "OOMKilled", "progress": 0.2}),
    ("emotions-bert-base", RunStatus.SUCCEEDED, {"model": "bert", "hours": 7, "attempt": 2}),
    *(
        (f"tickets-{model.replace('_', '-')}-{hours}", RunStatus.FAILED,
            {"dataset": "table", "model": model, "hours": hours, "namespace": namespace, "reason": reason, "progress": 0.15})
        for hours, (reason, model, namespace) in enumerate(
            [("DatasetNotFound", "linear_svc", "support-automation"), ("InvalidData", "knn", "support-automation"),
             ("TrainerCrashed", "distilbert", "ml-team"), ("NonFiniteLoss", "roberta", "search-relevance")], 10)
    ),
    ("sweep-cancelled", RunStatus.CANCELLED, {"hours": 30, "reason": "Cancelled", "message": "The task was deleted before it ended.", "progress": 0.3}),
]  # fmt: skip
_NAME_PREFIXES = {
    "go_emotions": "emotions",
    "cross_validated": "cv-tags",
    "table": "tickets",
    "support_tickets": "demo",
}


def make_sample_history(now: datetime | None = None) -> SampleHistory:
    """Return the sample, which is a function of the time."""
    sample = SampleHistory(now or datetime.now(UTC))
    for name, state, arguments in _RUNS:
        sample.add(name, state, **arguments)
    models = sorted(_F1_BY_MODEL)
    for number in range(46):
        dataset = sample.rng.choice(sorted(LABELS))
        model = models[number % len(models)]
        name = f"{_NAME_PREFIXES[dataset]}-{model.replace('_', '-')}-{number:02}"
        namespace = NAMESPACES[number % 4]
        sample.add(name, RunStatus.SUCCEEDED, dataset=dataset, model=model, hours=14 + number * 7, namespace=namespace)
    return sample


def make_spec(dataset: str, model: str, rng: random.Random) -> dict[str, Any]:
    """Return the spec of a task."""
    is_transformer = model in _TRANSFORMERS
    source = (
        {"hub": {"id": "google-research-datasets/go_emotions"}}
        if dataset == "go_emotions"
        else {"volumeClaim": "training-data", "path": "tickets.csv" if dataset == "table" else "cross_validated"}
    )
    written: dict[str, Any] = {
        "dataset": {"name": dataset, **({} if dataset == "support_tickets" else source), "seed": 42},
        "model": {"name": model}
        | ({"checkpoint": "sentence-transformers/all-MiniLM-L6-v2"} if model == "auto" else {}),
        "training": {"seed": 42},
        "device": "gpu" if is_transformer else "cpu",
        "resources": {"cpu": "4", "memory": "16Gi" if is_transformer else "4Gi"},
        "output": {"volumeClaim": "models"},
        "runPolicy": {"suspend": False, "retries": 2},
    }
    if is_transformer:
        written["preprocessor"] = {"maxLength": rng.choice((64, 128))}
        written["training"] |= {
            "epochs": rng.choice((3, 6)),
            "batchSize": rng.choice((16, 32, 64)),
            "learningRate": rng.choice((2e-5, 3e-5, 5e-5)),
        }
    else:
        parameter = {"random_forest": "trees", "knn": "neighbors"}.get(model, "inverseRegularization")
        written["training"][parameter] = rng.choice((5, 10, 20))
    return TrainingTaskSpec.model_validate(written).to_json()


def make_results(
    dataset: str, model: str, rng: random.Random, seconds: float, steps: int | None, labels: list[str] | None = None
) -> Results:
    """Return the results of a training."""
    names = labels or LABELS[dataset]
    level = _F1_BY_MODEL[model] + (0.0 if dataset == "go_emotions" else 0.14) + rng.gauss(0, 0.012)
    scores = [_make_label_score(name, level, rng) for name in names]
    known = [score.f1 for score in scores if score.f1 is not None]
    macro = sum(known) / len(known)
    precision = level + 0.03
    warnings = (
        [] if level > 0.45 else [f"accuracy_thresh {0.947:.4f} does not beat predicting no label at all (0.9580)"]
    )
    return Results(
        global_step=steps or 1, training_loss=round(rng.uniform(0.09, 0.14), 4), train_rows=43_410, validation_rows=5_426,
        runtime_seconds=round(seconds * 0.9, 1), samples_per_second=round(43_410 * 3 / seconds, 1), labels=len(names),
        data_fingerprint=(uuid.uuid5(uuid.NAMESPACE_DNS, dataset).hex * 2), test_texts_in_train=37,
        best_epoch=3 if steps else None, tokens_per_second=round(43_410 * 60 / seconds, 1) if steps else None,
        peak_memory_bytes=rng.randint(900, 3500) * 2**20,
        validation=ValidationScores(rows=5_426, loss=0.09, micro_f1=level + 0.01, macro_f1=macro + 0.01, mean_average_precision=level * 0.9),
        evaluation=EvaluationResult(
            split="test", rows=5_427, threshold=0.31, threshold_source="global", loss=round(0.14 - level / 10, 4),
            accuracy_thresh=0.947 if warnings else 0.962, subset_accuracy=level * 0.8, hamming_loss=0.038,
            micro=Averages(precision=precision, recall=level - 0.03, f1=level),
            macro=Averages(precision=macro + 0.04, recall=macro - 0.03, f1=macro),
            weighted=Averages(precision=level + 0.01, recall=level - 0.01, f1=level - 0.01),
            samples=Averages(precision=level, recall=level, f1=level),
            mean_average_precision=level * 0.88, label_ranking_average_precision=level + 0.15, roc_auc=0.92, per_label=scores,
            intervals=Intervals(micro_f1=Interval(low=level - 0.014, high=level + 0.013)),
            undefined={"macro.precision": "a mean over 27 of 28 labels: grief is never predicted"} if dataset == "go_emotions" else {},
            all_zero=Baseline(accuracy_thresh=0.958, micro_f1=0.0, macro_f1=0.0, mean_average_precision=0.042),
            label_prior=Baseline(loss=0.155, accuracy_thresh=0.946, micro_f1=0.304, macro_f1=0.018, mean_average_precision=0.042),
            runtime_seconds=12.0, samples_per_second=450.0,
        ),
        warnings=[*warnings, "37 of 5,427 test texts stand in the training rows as well"] if dataset == "go_emotions" else warnings,
        arguments={"dataset.name": dataset, "dataset.seed": 42, "device": "gpu" if steps else "cpu", "model.name": model, "preprocessor.name": "tokenizer" if steps else "tfidf", "training.batchSize": 32, "training.epochs": 3, "training.learningRate": 5e-5, "training.warmupFraction": 0.1, "training.weightDecay": 0.01},
        versions={"python": "3.13.1", "numpy": "2.4.0", "scikit-learn": "1.8.0", "torch": "2.9.1", "transformers": "5.23.0", "trainingtask": "0.1.0"},
        model_path=f"{dataset.replace('_', '-')}-{model}",
        label_errors=LabelErrors(
            rows=10_853, suspected_missing=412, suspected_surplus=97, conflicting_rows=31, near_duplicate_rows=158,
            per_label=[LabelErrorCounts(label="neutral", false_positives=640, false_negatives=702, suspected_missing=120, suspected_surplus=40)],
            pairs=[LabelPair(given="neutral", predicted="approval", rows=88)],
        ) if dataset == "go_emotions" else None,
    )  # fmt: skip


def _make_label_score(name: str, level: float, rng: random.Random) -> LabelScore:
    if name == "grief":
        return LabelScore(label=name, recall=0.0, f1=0.0, average_precision=0.08, support=6, threshold=0.31)
    f1 = min(0.95, max(0.04, rng.gauss(level - 0.08, 0.16)))
    lean = rng.uniform(-0.08, 0.08)
    return LabelScore(
        label=name, precision=min(1.0, f1 + max(0.0, lean)), recall=max(0.0, f1 + min(0.0, lean)), f1=f1,
        average_precision=max(0.02, f1 - 0.03), support=rng.randint(11, 1787), threshold=0.31,
    )  # fmt: skip


def make_log(rng: random.Random, start: datetime | None, total: int | None, reason: str | None) -> str:
    """Return the last lines of a failed trainer's log."""
    begin = start or datetime.now(UTC)
    lines = [
        f"{begin + timedelta(seconds=30 + step):%Y-%m-%d %H:%M:%S} INFO step {step} of {total or 1}: loss {0.7 - step / 400:.4f}, {rng.uniform(80, 120):.1f} rows/s"
        for step in range(20, 220, 10)
    ]
    return "\n".join([*lines, f"ERROR {reason}: {(_FAILURES.get(reason or '') or '').splitlines()[0]}"])
