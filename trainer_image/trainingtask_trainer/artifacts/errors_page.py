"""``errors.html`` beside a saved model: its mistakes as a page that a browser opens from a file, without scripts."""

from dataclasses import dataclass
from pathlib import Path

import jinja2
import numpy as np

from trainingtask_api.label_errors import LabelErrorCounts
from trainingtask_trainer.artifacts.label_issues import Issue, IssueReader
from trainingtask_trainer.evaluation.label_errors import LabelErrorReport, Mistakes

_MAX_SHOWN = 10  # mistakes of a label and a kind
_MAX_CHARACTERS = 600  # of a text


@dataclass(frozen=True)
class _LabelMistakes:
    """A label's most confident mistakes."""

    counts: LabelErrorCounts
    missing: list[Issue]
    surplus: list[Issue]


def write_errors_page(path: Path, name: str, report: LabelErrorReport, reader: IssueReader) -> None:
    """Write the page of a model's mistakes.

    Parameters
    ----------
    path
        The file.
    name
        Name of the task.
    report
        The mistakes.
    reader
        Reads the rows' labels and texts.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("trainingtask_trainer.artifacts"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("errors.html.j2").render(
        name=name,
        errors=report.summary,
        labels=[_find_label_mistakes(counts, report.mistakes, reader) for counts in report.summary.per_label],
        has_texts=reader.keep_texts,
        max_shown=_MAX_SHOWN,
        max_characters=_MAX_CHARACTERS,
    )
    path.write_text(page, encoding="utf-8", errors="replace")


def _find_label_mistakes(counts: LabelErrorCounts, mistakes: Mistakes, reader: IssueReader) -> _LabelMistakes:
    of_label = mistakes.labels == reader.label_names.index(counts.label)
    missing, surplus = (
        list(reader.read(mistakes.select(np.flatnonzero(of_label & of_kind)[:_MAX_SHOWN])))
        for of_kind in (mistakes.is_missing, ~mistakes.is_missing)
    )
    return _LabelMistakes(counts, missing, surplus)
