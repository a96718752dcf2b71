"""Several runs side by side: what differs in their specs, whose score is the best, and by which label. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from trainingtask_history.queries import RunDetail
from trainingtask_web.views import diff
from trainingtask_web.views.run_view import at, get_number, leaf
from trainingtask_web.views.score_tables import METRICS, build_label_rows

LETTERS = "ABCDEFGHIJ"


@dataclass(frozen=True)
class ComparedScore:
    """A score of each run; `best` are the places of the highest, or of the lowest where less is better."""

    title: str
    values: list[float | None]
    best: frozenset[int]
    note: str = ""


def differences(runs: Sequence[RunDetail]) -> list[tuple[str, list[str | None]]]:
    """Return each path at which the specs are not all the same, with the value of each run as text."""
    return [
        (line.path, [None if value is None else leaf(value) for value in line.values])
        for line in diff.differences([run.spec for run in runs])
    ]


def compare_scores(runs: Sequence[RunDetail]) -> list[ComparedScore]:
    """Return the scores that any of the runs has."""
    lines = []
    for metric in METRICS:
        values = [get_number(run.evaluate_result, *metric.path) for run in runs]
        if any(value is not None for value in values):
            note = "less is better" if metric.less_is_better else ""
            lines.append(
                ComparedScore(metric.title, values, find_best(values, less_is_better=metric.less_is_better), note)
            )
    return lines


def compare_labels(runs: Sequence[RunDetail]) -> list[ComparedScore]:
    """Return F1 of each label that any of the runs has; those on which the runs differ most come first."""
    scores = [{row.label: row.f1 for row in build_label_rows(run.evaluate_result)} for run in runs]
    labels = dict.fromkeys(label for one in scores for label in one)
    lines = [
        ComparedScore(label, values, find_best(values))
        for label in labels
        for values in [[one.get(label) for one in scores]]
    ]
    return sorted(lines, key=lambda line: -_spread(line.values))


def _spread(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return max(known) - min(known) if known else -1.0


def find_best(values: Sequence[float | None], *, less_is_better: bool = False) -> frozenset[int]:
    """Return the places of the best value; none when there is nothing to choose between."""
    known = [value for value in values if value is not None]
    if len(known) < 2 or min(known) == max(known):
        return frozenset()
    wanted = min(known) if less_is_better else max(known)
    return frozenset(place for place, value in enumerate(values) if value == wanted)


def has_same_data(runs: Sequence[RunDetail]) -> bool:
    """Tell whether the runs with scores were trained and scored on the same texts and labels, as far as is known."""
    prints = {at(run.training_result, "data_fingerprint") for run in runs if run.evaluate_result}
    return len(prints - {None}) < 2
