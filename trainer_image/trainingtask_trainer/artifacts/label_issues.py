"""Files of a model's mistakes beside it: ``label-issues.csv``, and for Label Studio a list of tasks with its configuration."""

import csv
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import NDArray

from trainingtask_api.formatting import escape_formula
from trainingtask_trainer.artifacts.error_file_names import LABEL_STUDIO_CONFIG, LABEL_STUDIO_FILE
from trainingtask_trainer.datasets.base import LabelMatrix
from trainingtask_trainer.evaluation.label_errors import Mistakes, PredictedRows

# Of missing and of surplus labels each.
MAX_ISSUES = 10_000
_LABEL_SEPARATOR = " | "
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_NO_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True)
class Issue:
    """A mistake as people read it; the fields' names are the columns of the file."""

    split: str
    source: str
    row: int
    label: str
    kind: str
    """`missing`: predicted and not given; `surplus`: given and not predicted."""
    probability: float
    """Of the label."""
    score: float
    """Probability of what is given; the lower, the surer is the model that it is wrong."""
    given: str
    predicted: str
    text: str | None


class IssueReader:
    """Reads the mistakes of a model as people do.

    Parameters
    ----------
    label_names
        Names of the labels, shape [labels].
    parts
        The rows that the mistakes are about.
    keep_texts
        Whether issues have the texts of the rows.
    """

    def __init__(self, label_names: Sequence[str], parts: Sequence[PredictedRows], *, keep_texts: bool) -> None:
        self.label_names = label_names
        self.parts = [replace(part, split=part.split.locate(part.name)) for part in parts]
        self.keep_texts = keep_texts

    def read(self, mistakes: Mistakes) -> Iterator[Issue]:
        """Yield the mistakes in their order."""
        scores = mistakes.scores.tolist()
        for index, label, probability, is_missing, score in zip(
            range(len(scores)),
            mistakes.labels.tolist(),
            mistakes.probabilities.tolist(),
            mistakes.is_missing.tolist(),
            scores,
            strict=True,
        ):
            part, row = self.parts[int(mistakes.parts[index])], int(mistakes.rows[index])
            source, number = part.split.find_place(row)
            yield Issue(
                split=part.name,
                source=source,
                row=number,
                label=self.label_names[label],
                kind="missing" if is_missing else "surplus",
                probability=round(probability, 6),
                score=round(score, 6),
                given=_LABEL_SEPARATOR.join(self.list_labels(part.split.labels, row)),
                predicted=_LABEL_SEPARATOR.join(self.list_labels(part.predicted, row)),
                text=part.split.texts[row] if self.keep_texts else None,
            )

    def list_labels(self, matrix: LabelMatrix, row: int) -> list[str]:
        """Return the names of a row's labels."""
        return [self.label_names[label] for label in np.flatnonzero(matrix[row]).tolist()]


def select_suspected(mistakes: Mistakes) -> Mistakes:
    """Return the mistakes where the given label seems wrong, the surest first, at most `MAX_ISSUES` of each kind."""
    suspected = mistakes.select(mistakes.is_suspected)
    counts = np.where(suspected.is_missing, np.cumsum(suspected.is_missing), np.cumsum(~suspected.is_missing))
    return suspected.select(counts <= MAX_ISSUES)


def write_issues(path: Path, issues: Iterable[Issue], *, keep_texts: bool) -> None:
    """Write issues as CSV, in which no cell is a formula of a spreadsheet."""
    columns = [field.name for field in fields(Issue)]
    width = len(columns) if keep_texts else len(columns) - 1
    with path.open("w", encoding="utf-8", errors="replace", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns[:width])
        writer.writerows([escape_formula(cell) for cell in astuple(issue)[:width]] for issue in issues)


def write_label_studio(folder: Path, name: str, suspected: Mistakes, reader: IssueReader) -> None:
    """Write the rows with a suspected label as tasks with the model's predictions, and a configuration for them.

    The format is "Label Studio JSON" with `data` and `predictions` (https://labelstud.io/guide/predictions).

    Parameters
    ----------
    folder
        The folder of the model's files.
    name
        Name of the task, which stands for the version of the model.
    suspected
        The surest first.
    reader
        Reads the rows' labels and texts.
    """
    tasks = [_build_label_studio_task(name, reader.parts[part], row, reader) for part, row in _list_rows(suspected)]
    with (folder / LABEL_STUDIO_FILE).open("w", encoding="utf-8", errors="replace") as file:
        json.dump(tasks, file, ensure_ascii=False, indent=1)
    choices = "".join(
        f"    <Choice value={quoteattr(_NO_XML.sub(_REPLACEMENT, label))}/>\n" for label in reader.label_names
    )
    (folder / LABEL_STUDIO_CONFIG).write_text(
        f"""<View>
  <Text name="text" value="$text"/>
  <Header value="Given labels"/>
  <Text name="given" value="$given"/>
  <Choices name="labels" toName="text" choice="multiple">
{choices}  </Choices>
</View>
""",
        encoding="utf-8",
    )


def _list_rows(mistakes: Mistakes) -> list[tuple[int, int]]:
    """Return each row once, as the index of its part and its own."""
    return list(dict.fromkeys(zip(mistakes.parts.tolist(), mistakes.rows.tolist(), strict=True)))


def _build_label_studio_task(name: str, part: PredictedRows, row: int, reader: IssueReader) -> dict[str, object]:
    source, number = part.split.find_place(row)
    predicted = reader.list_labels(part.predicted, row)
    return {
        "data": {
            "text": part.split.texts[row],
            "given": _LABEL_SEPARATOR.join(reader.list_labels(part.split.labels, row)),
            "split": part.name,
            "source": source,
            "row": number,
        },
        "predictions": [
            {
                "model_version": name,
                "score": _average(part.probabilities[row][part.predicted[row] == 1]),
                "result": [
                    {"from_name": "labels", "to_name": "text", "type": "choices", "value": {"choices": predicted}}
                ],
            }
        ],
    }


def _average(probabilities: NDArray[np.float64]) -> float:
    return round(float(probabilities.mean()), 6) if probabilities.size else 0.0
