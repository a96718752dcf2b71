"""The mistakes of a run, as far as its row holds them: counts by label, confused labels, suspected labels. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from trainingtask_api.nested import get_path
from trainingtask_web.views.numbers import get_list, get_number


class LabelErrorRow(NamedTuple):
    """Mistakes on a label; the fields' names are the columns of the file."""

    label: str
    false_positives: int | None
    suspected_missing: int | None
    false_negatives: int | None
    suspected_surplus: int | None


class PairRow(NamedTuple):
    """A label that is predicted where another one is given; the fields' names are the columns of the file."""

    predicted: str
    given: str
    rows: int | None


@dataclass(frozen=True)
class RunErrors:
    """All tables of a run's mistakes."""

    rows: int | None
    folds: int | None
    totals: list[tuple[str, int | None]]
    labels: list[LabelErrorRow]
    pairs: list[PairRow]


_MAX_ROWS = 100  # of a table; a trainer reports at most 50
_TOTALS = {
    "Labels that seem to be missing": "suspected_missing",
    "Labels that seem to be too many": "suspected_surplus",
    "Rows whose text stands in another row with other labels": "conflicting_rows",
    "Rows whose text is nearly another row's": "near_duplicate_rows",
}


def build_errors(training_result: Mapping[str, Any] | None) -> RunErrors | None:
    """Return the mistakes of a run, None where its row holds none."""
    errors = get_path(training_result, "label_errors")
    if not isinstance(errors, Mapping):
        return None
    return RunErrors(
        rows=_get_count(errors, "rows"),
        folds=_get_count(errors, "folds"),
        totals=[(title, _get_count(errors, name)) for title, name in _TOTALS.items()],
        labels=[
            LabelErrorRow(
                label=str(get_path(item, "label")),
                false_positives=_get_count(item, "false_positives"),
                suspected_missing=_get_count(item, "suspected_missing"),
                false_negatives=_get_count(item, "false_negatives"),
                suspected_surplus=_get_count(item, "suspected_surplus"),
            )
            for item in _iter_objects(errors, "per_label")
        ],
        pairs=[
            PairRow(str(get_path(item, "predicted")), str(get_path(item, "given")), _get_count(item, "rows"))
            for item in _iter_objects(errors, "pairs")
        ],
    )


def _iter_objects(value: Any, name: str) -> Iterable[Mapping[str, Any]]:
    return (item for item in get_list(value, name)[:_MAX_ROWS] if isinstance(item, Mapping))


def _get_count(value: Any, name: str) -> int | None:
    number = get_number(value, name)
    return None if number is None else int(number)
