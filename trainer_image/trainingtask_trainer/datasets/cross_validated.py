"""Questions of Cross Validated (stats.stackexchange.com) and their tags, as Kaggle has them.

The set is called "Questions from Cross Validated Stack Exchange". A folder holds ``Questions.csv`` (Id, Title, Body),
``Tags.csv`` (Id, Tag) and, for `dataset.includeAnswers`, ``Answers.csv`` (ParentId, Body), in latin-1 and with further
columns; or one SQLite file holds tables of these names. Bodies are HTML.

A row is a question that has a tag: its title and body, and with `dataset.includeAnswers` its answers, as plain text.
All tags are labels, sorted by name; many are rare, so `dataset.topLabels` is advisable.
"""

import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

from trainingtask_api.dataset import Dataset as DatasetSpec
from trainingtask_api.reasons import Reason
from trainingtask_trainer.datasets.base import RawData, Split, encode_multi_hot
from trainingtask_trainer.errors import UserError
from trainingtask_trainer.sources.columns import quote_names
from trainingtask_trainer.sources.data_files import DataFile
from trainingtask_trainer.sources.delimited import read_delimited
from trainingtask_trainer.volumes import describe_contents, resolve_path

# Errors in the file itself; all others of SQLite are faults of the machine.
_BAD_FILE_CODES = {sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


class CrossValidated:
    """Questions of Cross Validated with their tags, from Kaggle's CSV files or its SQLite file."""

    packages: ClassVar[tuple[str, ...]] = ("iterative-stratification", "lxml")

    def load(self, spec: DatasetSpec, root: Path) -> RawData:
        """Read the questions in one split, with their tags, and their answers on request, joined by Id."""
        assert spec.path is not None  # noqa: S101 - a rule of the CRD
        path = resolve_path(root, spec.path, "dataset.path", spec.volume_claim, Reason.DATASET_NOT_FOUND)
        tags = defaultdict(list)
        for where, (question, tag) in _iter_rows(path, "Tags", "Id", "Tag"):
            if not tag.strip():
                raise UserError(Reason.INVALID_DATA, f"{where}, column 'Tag': {tag!r} is not a tag")
            tags[question].append(tag.strip())
        texts = {}
        for where, (question, title, body) in _iter_rows(path, "Questions", "Id", "Title", "Body"):
            if question in texts:
                raise UserError(Reason.INVALID_DATA, f"{where}, column 'Id': question {question} is there twice")
            if question in tags:
                texts[question] = [title.strip(), _strip_html(body)]
        if spec.include_answers:
            for _, (question, body) in _iter_rows(path, "Answers", "ParentId", "Body"):
                if question in texts:
                    texts[question].append(_strip_html(body))
        names = tuple(sorted({tag for question in texts for tag in tags[question]}))
        if len(names) < 2:
            raise UserError(
                Reason.INVALID_DATA,
                f"{path}: the Ids of Questions and of Tags have {len(names)} tags in common, at least 2 are needed",
            )
        index = {name: position for position, name in enumerate(names)}
        labels = encode_multi_hot(([index[tag] for tag in tags[question]] for question in texts), len(names))
        return RawData(names, Split(["\n".join(parts) for parts in texts.values()], labels))


def _strip_html(html: str) -> str:
    # Beautiful Soup returns the same text at 1/4 to 1/8 of the speed.
    from lxml.html import (  # type: ignore[import-untyped]  # noqa: PLC0415 - used by this data set alone
        fragment_fromstring,
    )

    # Behind an element, because lxml refuses control characters in the text that it puts into the parent itself.
    return " ".join(" ".join(fragment_fromstring(f"<br>{html}", create_parent=True).itertext()).split())


def _iter_rows(source: Path, table: str, *columns: str) -> Iterator[tuple[str, list[str]]]:
    """Yield each row of a table: its location, for messages, and its cells in these columns."""
    if source.is_dir():
        file = source / f"{table}.csv"
        if not file.is_file():
            raise UserError(
                Reason.DATASET_NOT_FOUND,
                f"dataset.path ({source}) needs {file.name}, or be the SQLite file; it holds {describe_contents(source)}",
            )
        rows = read_delimited(DataFile(file), [(column,) for column in columns], ",", "latin-1").rows()
    else:
        rows = _iter_sqlite_rows(source, table, columns)
    for where, values in rows:
        yield where, ["" if value is None else str(value) for value in values]


def _iter_sqlite_rows(file: Path, table: str, columns: Sequence[str]) -> Iterator[tuple[str, tuple[Any, ...]]]:
    # Immutable: the volume is mounted read-only, where SQLite could not make its lock files.
    where = f"{file}, table {table}"
    address = f"{file.absolute().as_uri()}?mode=ro&immutable=1"
    try:
        with closing(sqlite3.connect(address, uri=True)) as database:
            database.row_factory = sqlite3.Row
            database.text_factory = lambda text: text.decode("utf-8", "replace")
            for number, row in enumerate(database.execute(f"SELECT * FROM {table}"), start=1):  # noqa: S608 - our names
                missing = [column for column in columns if column not in row.keys()]  # noqa: SIM118 - a Row has no `in`
                if missing:
                    raise UserError(
                        Reason.INVALID_DATA, f"{where}: no column '{missing[0]}', only {quote_names(row.keys(), 20)}"
                    )
                yield f"{where}, row {number}", tuple(row[column] for column in columns)
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode & 0xFF not in _BAD_FILE_CODES:
            raise
        raise UserError(Reason.INVALID_DATA, f"{where}: SQLite says '{error}'") from error
