"""The raw edition of GoEmotions, one row per rater and comment, and the rule that merges it to one row per text.

The rule: a text keeps each label that at least two different raters of the text chose, and a text without such a label
is dropped. It is the agreement of two raters by which the authors made the simplified edition (README of
google-research/goemotions), except that they count per comment: here comments of the same text are one text, whose
raters are counted together, so that no text stands twice in the data. Texts are in the order of their first rows.

The columns are text, rater_id, what else is known of the comment, and one 0/1 column per label.
There are no official splits.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from trainingtask_api.reasons import Reason
from trainingtask_trainer.datasets.base import RawData, Split, encode_multi_hot
from trainingtask_trainer.errors import UserError
from trainingtask_trainer.sources.columnar import read_columnar
from trainingtask_trainer.sources.columns import format_cell, is_text, parse_indicator, quote_names
from trainingtask_trainer.sources.data_files import DataFile
from trainingtask_trainer.sources.delimited import read_delimited
from trainingtask_trainer.volumes import describe_contents

_NON_LABEL_COLUMNS = {
    "text", "id", "author", "subreddit", "link_id", "parent_id", "created_utc", "rater_id", "example_very_unclear",
}  # fmt: skip
_MIN_AGREEING_RATERS = 2
# The authors' three files, and the hub's; the hub keeps each configuration in a folder of its own.
_FILE_PATTERNS = ("goemotions_*.csv", "train.parquet", "train-*.parquet", "raw/train-*.parquet")


def read_rows(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each row of a folder's files: its location, for messages, and its cells by column."""
    files = next((files for pattern in _FILE_PATTERNS if (files := sorted(folder.glob(pattern)))), None)
    if files is None:
        there = describe_contents(folder) if folder.is_dir() else "a file, not a folder"
        raise UserError(
            Reason.DATASET_NOT_FOUND,
            f"dataset.path ({folder}) with dataset.config 'raw' needs {' or '.join(_FILE_PATTERNS)}; it holds {there}",
        )
    for file in files:
        part = DataFile(file)
        columns = read_delimited(part, None, ",", "utf-8-sig") if part.kind == ".csv" else read_columnar(part, None)
        for where, cells in columns.rows():
            yield where, dict(zip(columns.cells, cells, strict=True))


def keep_agreed_labels(rows: Iterable[tuple[str, dict[str, Any]]]) -> RawData:
    """Return one row per text on whose labels two raters agree.

    Parameters
    ----------
    rows
        Location, for messages, and cells by column of each row.

    Raises
    ------
    UserError
        When a column is missing, a cell is wrong, or no raters agree.
    """
    names: tuple[str, ...] = ()
    raters: dict[str, dict[int, set[Any]]] = defaultdict(lambda: defaultdict(set))
    for where, row in rows:
        names = names or tuple(column for column in row if column not in _NON_LABEL_COLUMNS)
        for column in ("text", "rater_id", *names):
            if column not in row:
                raise UserError(
                    Reason.INVALID_DATA, f"{where}: no column '{column}', only {quote_names(list(row), 20)}"
                )
        if not is_text(row["text"]):
            raise UserError(Reason.INVALID_DATA, f"{where}, column 'text': {format_cell(row['text'])} is not a text")
        chosen = raters[row["text"]]
        for index, name in enumerate(names):
            value = parse_indicator(row[name])
            if value is None:
                raise UserError(
                    Reason.INVALID_DATA, f"{where}, column '{name}': {format_cell(row[name])} is neither 0 nor 1"
                )
            if value:
                chosen[index].add(row["rater_id"])
    if len(names) < 2:
        raise UserError(Reason.INVALID_DATA, f"the rows have {len(names)} label columns, at least 2 are needed")
    labels = {
        comment: [index for index, voters in chosen.items() if len(voters) >= _MIN_AGREEING_RATERS]
        for comment, chosen in raters.items()
    }
    kept = {comment: indexes for comment, indexes in labels.items() if indexes}
    if not kept:
        raise UserError(Reason.INVALID_DATA, f"no two raters agree on a label of any of the {len(raters)} texts")
    return RawData(names, Split(list(kept), encode_multi_hot(kept.values(), len(names))))
