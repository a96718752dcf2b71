import numpy as np

from trainingtask_trainer.evaluation.decisions import NEVER, DecisionRule

PROBABILITIES = np.array([[0.6, 0.9, 0.7], [0.4, 0.1, 0.4], [0.8, 0.8, 0.8]])


def test_a_probability_that_reaches_its_labels_threshold_counts() -> None:
    assert DecisionRule([0.5, 0.2]).predict(np.array([[0.5, 0.19], [0.49, 0.2]])).tolist() == [[1, 0], [0, 1]]


def test_a_label_that_is_never_predicted_is_not_at_a_probability_of_1_either() -> None:
    assert DecisionRule([NEVER, 0.5]).predict(np.array([[1.0, 1.0]])).tolist() == [[0, 1]]


def test_at_least_one_is_the_most_probable_label_where_there_was_none() -> None:
    rule = DecisionRule(np.full(3, 0.65), at_least_one=True)
    assert rule.predict(PROBABILITIES).tolist() == [[0, 1, 1], [1, 0, 0], [1, 1, 1]]


def test_max_labels_keeps_the_most_probable_of_the_predicted() -> None:
    assert DecisionRule(np.full(3, 0.5), max_labels=2).predict(PROBABILITIES).tolist() == [
        [0, 1, 1],
        [0, 0, 0],
        [1, 1, 0],
    ]


def test_max_labels_never_adds_a_label_below_its_threshold() -> None:
    rule = DecisionRule([0.5, 0.95, 0.5], max_labels=2)
    assert rule.predict(PROBABILITIES[:1]).tolist() == [[1, 0, 1]]


def test_both_bounds_together_give_each_row_one_label() -> None:
    rule = DecisionRule(np.full(3, 0.5), at_least_one=True, max_labels=1)
    assert rule.predict(PROBABILITIES).tolist() == [[0, 1, 0], [1, 0, 0], [1, 0, 0]]


def test_no_row_is_no_error() -> None:
    rule = DecisionRule(np.full(3, 0.5), at_least_one=True, max_labels=1)
    assert rule.predict(np.empty((0, 3))).shape == (0, 3)
