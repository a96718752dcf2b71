"""Several runs side by side: differences of their specs, and their scores with the best ones marked. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from trainingtask_api.nested import get_path
from trainingtask_history.read_models import RunDetail
from trainingtask_web.views.diff import diff_specs
from trainingtask_web.views.formatting import format_leaf
from trainingtask_web.views.numbers import get_number
from trainingtask_web.views.score_tables import MAX_SHOWN_LABELS, METRICS, build_label_rows

LETTERS = "ABCDEFGHIJ"
MAX_COMPARED = len(LETTERS)


@dataclass(frozen=True)
class ComparedScore:
    """A score of each run; `best` are the indices of the highest, or of the lowest where less is better."""

    title: str
    values: list[float | None]
    best: frozenset[int]
    note: str = ""


def format_differences(runs: Sequence[RunDetail]) -> list[tuple[str, list[str | None]]]:
    """Return each path at which the specs differ, with the value of each run as text."""
    return [
        (line.path, [None if value is None else format_leaf(value) for value in line.values])
        for line in diff_specs([run.spec for run in runs])
    ]


def compare_scores(runs: Sequence[RunDetail]) -> list[ComparedScore]:
    """Return the scores that at least one of the runs has."""
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
    """Return F1 of the labels on which the runs differ most, sorted by descending spread."""
    scores = [{row.label: row.f1 for row in build_label_rows(run.evaluate_result)} for run in runs]
    labels = dict.fromkeys(label for one in scores for label in one)
    lines = [
        ComparedScore(label, values, find_best(values))
        for label in labels
        for values in [[one.get(label) for one in scores]]
    ]
    return sorted(lines, key=lambda line: -_get_spread(line.values))[:MAX_SHOWN_LABELS]


def _get_spread(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return max(known) - min(known) if known else -1.0


def find_best(values: Sequence[float | None], *, less_is_better: bool = False) -> frozenset[int]:
    """Return the indices of the best value; none with fewer than two values or when all are equal."""
    known = [value for value in values if value is not None]
    if len(known) < 2 or min(known) == max(known):
        return frozenset()
    wanted = min(known) if less_is_better else max(known)
    return frozenset(index for index, value in enumerate(values) if value == wanted)


def has_same_data(runs: Sequence[RunDetail]) -> bool:
    """Return whether all known data fingerprints of the runs with scores are equal."""
    found = [get_path(run.training_result, "data_fingerprint") for run in runs if run.evaluate_result]
    return len({str(fingerprint) for fingerprint in found if fingerprint is not None}) < 2
