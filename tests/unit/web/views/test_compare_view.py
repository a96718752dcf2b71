"""Several runs side by side."""

import pytest

from support.sample_runs import detail
from trainingtask_history.read_models import RunDetail
from trainingtask_web.views import compare_view


def test_differences_include_unset_fields() -> None:
    runs = [
        detail(spec={"model": {"name": "bert"}, "training": {"epochs": 3, "seed": 42}}),
        detail(spec={"model": {"name": "knn"}, "training": {"seed": 42}, "device": "cpu"}),
    ]
    assert dict(compare_view.format_differences(runs)) == {
        "model.name": ["bert", "knn"],
        "training.epochs": ["3", None],
        "device": [None, "cpu"],
    }


@pytest.mark.parametrize(
    ("values", "less", "indices"),
    [
        ([0.1, 0.3, None], False, {1}),
        ([0.1, 0.3, None], True, {0}),
        ([0.3, 0.1, 0.3], False, {0, 2}),
        ([0.2, 0.2], False, set()),
        ([0.2, None], False, set()),
        ([], False, set()),
    ],
)
def test_the_best_values_are_found(values: list[float | None], less: bool, indices: set[int]) -> None:
    assert compare_view.find_best(values, less_is_better=less) == indices


def test_labels_are_sorted_by_spread() -> None:
    def run(**f1: float | None) -> RunDetail:
        return detail(evaluate_result={"per_label": [{"label": name, "f1": value} for name, value in f1.items()]})

    lines = compare_view.compare_labels([run(a=0.5, b=0.1, c=None), run(a=0.6, b=0.9, d=0.2)])
    assert [(line.title, line.values, set(line.best)) for line in lines] == [
        ("b", [0.1, 0.9], {1}),
        ("a", [0.5, 0.6], {1}),
        ("d", [None, 0.2], set()),
        ("c", [None, None], set()),
    ]


def test_runs_with_different_fingerprints_have_different_data() -> None:
    mine = detail()
    other = detail(training_result={"data_fingerprint": "f" * 64})
    unknown = detail(training_result=None)
    unscored = detail(training_result={"data_fingerprint": "e" * 64}, evaluate_result=None)
    assert compare_view.has_same_data([mine, mine, unknown, unscored])
    assert not compare_view.has_same_data([mine, other])
