"""Mistakes and suspected labels, on rows whose right answers are known."""

import numpy as np
import pytest

from trainingtask_trainer.datasets.base import LabelMatrix, Split
from trainingtask_trainer.evaluation import label_errors
from trainingtask_trainer.evaluation.label_errors import LabelErrorReport, PredictedRows, report_label_errors
from trainingtask_trainer.evaluation.metrics import Probabilities
from trainingtask_trainer.evaluation.repeated_texts import RepeatedTexts


def report(given: LabelMatrix, probabilities: Probabilities, threshold: float = 0.5) -> LabelErrorReport:
    names = [f"label {index}" for index in range(given.shape[1])]
    halves = np.array_split(np.arange(len(given)), 2)
    parts = [
        PredictedRows(
            name,
            Split([str(row) for row in rows], given[rows]),
            probabilities[rows],
            (probabilities[rows] >= threshold).astype(np.uint8),
        )
        for name, rows in zip(("validation", "test"), halves, strict=True)
    ]
    return report_label_errors(names, parts, None, RepeatedTexts(3, 4))


def test_flipped_labels_are_suspected_and_no_others() -> None:
    generator = np.random.default_rng(0)
    truth = (generator.random((400, 3)) < 0.3).astype(np.uint8)
    probabilities = np.where(truth, 0.9, 0.1) + generator.uniform(-0.005, 0.005, truth.shape)
    flipped = generator.random(truth.shape) < 0.05
    # A mistake of the model that is not sure of itself.
    probabilities[0, 0], flipped[0, 0] = (0.45, False) if truth[0, 0] else (0.55, False)
    found = report(truth ^ flipped.astype(np.uint8), probabilities)
    suspected = found.mistakes.select(found.mistakes.is_suspected)
    assert set(zip(suspected.parts * 200 + suspected.rows, suspected.labels, strict=True)) == set(
        zip(*flipped.nonzero(), strict=True)
    )
    assert len(found.mistakes.rows) == flipped.sum() + 1
    summary = found.summary
    assert summary.suspected_missing == (flipped & (truth == 1)).sum()
    assert summary.suspected_surplus == (flipped & (truth == 0)).sum()
    assert (summary.rows, summary.conflicting_rows, summary.near_duplicate_rows) == (400, 3, 4)


def test_mistakes_begin_with_what_the_model_is_surest_of() -> None:
    given = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], dtype=np.uint8)
    probabilities = np.array([[0.2, 0.6], [0.9, 0.1], [0.7, 0.99], [0.1, 0.05]])
    mistakes = report(given, probabilities).mistakes
    assert mistakes.scores.round(2).tolist() == [0.05, 0.2, 0.3, 0.4]
    assert mistakes.is_missing.tolist() == [False, False, True, True]


def test_a_class_without_a_row_is_never_suspected() -> None:
    given = np.zeros((4, 2), dtype=np.uint8)
    given[:, 1] = 1
    found = report(given, np.tile([0.9, 0.1], (4, 1)))
    assert not found.mistakes.is_suspected.any()
    assert [(label.false_positives, label.false_negatives) for label in found.summary.per_label] == [(4, 0), (0, 4)]


def test_a_pair_names_the_surest_label_predicted_instead() -> None:
    given = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=np.uint8)
    probabilities = np.array([[0.1, 0.6, 0.8], [0.2, 0.1, 0.9], [0.2, 0.3, 0.1], [0.1, 0.2, 0.9]])
    pairs = report(given, probabilities).summary.pairs
    # In the third row nothing is predicted instead of what is given.
    assert [(pair.given, pair.predicted, pair.rows) for pair in pairs] == [("label 0", "label 2", 2)]


def test_a_status_has_room_for_the_labels_with_the_most_errors() -> None:
    generator = np.random.default_rng(1)
    given = (generator.random((60, 300)) < 0.1).astype(np.uint8)
    probabilities = generator.random(given.shape)
    summary = report(given, probabilities).summary
    errors = [label.false_positives + label.false_negatives for label in summary.per_label]
    assert len(errors) == len(summary.pairs) == 50
    assert errors == sorted(errors, reverse=True)


def test_mistakes_beyond_the_limit_are_counted_and_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_errors, "_MAX_KEPT", 5)
    generator = np.random.default_rng(2)
    given = (generator.random((50, 4)) < 0.5).astype(np.uint8)
    found = report(given, generator.random(given.shape))
    assert found.mistakes.is_missing.sum() == (~found.mistakes.is_missing).sum() == 5
    assert sum(label.false_positives for label in found.summary.per_label) > 20


def test_a_run_without_a_mistake_has_an_empty_report() -> None:
    given = np.eye(4, dtype=np.uint8)
    summary = report(given, given.astype(np.float64)).summary
    assert summary.per_label == summary.pairs == []
    assert summary.suspected_missing == summary.suspected_surplus == 0
