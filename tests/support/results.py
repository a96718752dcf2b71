"""Results of a training that never was, for tests of those who pass them on."""

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

RESULTS = Results(
    global_step=8,
    training_loss=0.2,
    train_rows=100,
    validation_rows=10,
    runtime_seconds=4.0,
    samples_per_second=25.0,
    labels=3,
    data_fingerprint="f" * 64,
    validation=ValidationScores(rows=10, loss=0.3, micro_f1=0.55, macro_f1=0.45),
    evaluation=EvaluationResult(
        split="test",
        rows=20,
        threshold=0.4,
        threshold_source="global",
        loss=0.3,
        accuracy_thresh=0.9,
        subset_accuracy=0.4,
        hamming_loss=0.1,
        samples=Averages(precision=0.5, recall=0.5, f1=0.5),
        micro=Averages(precision=0.5, recall=0.6, f1=0.5454),
        macro=Averages(recall=0.5, f1=0.44),
        weighted=Averages(precision=0.4, recall=0.5, f1=0.45),
        intervals=Intervals(micro_f1=Interval(low=0.51, high=0.5812)),
        per_label=[
            LabelScore(label="a|b", precision=0.5, recall=0.6, f1=0.5454, support=7, threshold=0.4),
            LabelScore(label="c", precision=0.4, recall=0.4, f1=0.4, average_precision=0.3, support=4, threshold=0.4),
            LabelScore(label="d", support=0, threshold=0.4),
        ],
        undefined={"macro.precision": "no row is predicted to carry any label"},
        all_zero=Baseline(accuracy_thresh=0.8, micro_f1=0),
        label_prior=Baseline(loss=0.4, accuracy_thresh=0.7, micro_f1=0.3),
        runtime_seconds=1.0,
        samples_per_second=20.0,
    ),
    arguments={"dataset.name": "table", "model.name": "bert", "training.learningRate": 5e-5},
    versions={"python": "3.13.0"},
)
