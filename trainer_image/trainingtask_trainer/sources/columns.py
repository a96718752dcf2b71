"""Columns of a file as they were read, and which column of it a name means."""

from array import array
from collections.abc import Hashable, Iterable, Iterator, MutableSequence, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from trainingtask_api.reasons import Reason
from trainingtask_trainer.errors import UserError


@dataclass
class Columns:
    """Cells of one file, column by column.

    Attributes
    ----------
    file
        Name of the file, for messages.
    cells
        Wanted column -> its cells, one per row.
    numbers
        Number of each row by which a person finds it: the line that a text file's row ends on, else counted from 1.
    bad
        Rows that cannot be read; those with a position have cells.
    notes
        What was found out about the file and a person should know, such as an encoding that is not UTF-8.
    """

    file: str
    cells: dict[str, list[Any]]
    numbers: MutableSequence[int] = field(default_factory=lambda: array("q"))
    bad: list["BadRow"] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.numbers)

    def append(self, other: "Columns") -> None:
        """Append the rows of other columns of the same file."""
        for name, cells in other.cells.items():
            self.cells.setdefault(name, []).extend(cells)
        self.numbers.extend(other.numbers)
        self.bad += other.bad
        self.notes += other.notes

    def rows(self) -> Iterator[tuple[str, tuple[Any, ...]]]:
        """Yield the place of each row, for messages, and its cells in the order of the columns.

        Raises
        ------
        UserError
            When there are rows that cannot be read.
        """
        if self.bad:
            raise UserError(Reason.INVALID_DATA, str(self.bad[0]))
        for number, row in zip(self.numbers, zip(*self.cells.values(), strict=True), strict=True):
            yield f"{self.file}, row {number}", row

    def where(self, row: int) -> str:
        """Return the name of a row for messages."""
        return f"{self.file}, row {self.numbers[row]}"


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used.

    Attributes
    ----------
    where
        File and row, for messages.
    why
        What is wrong with it.
    column
        The column that is, when one is.
    row
        Its position in `Columns`, where it has one.
    """

    where: str
    why: str
    column: str | None = None
    row: int | None = None

    def __str__(self) -> str:
        return f"{self.where}{f', column {self.column!r}' if self.column else ''}: {self.why}"


Wanted = Sequence[tuple[str, ...]]
"""The columns to read, each with the names that it may have; the first one stands for it."""


def find_columns(wanted: Wanted | None, header: Sequence[str], file: str) -> dict[str, int]:
    """Return the position of each wanted column (None: of all) in a header, in spite of case and blanks around it.

    Raises
    ------
    UserError
        When a column is not there, or more than one can be meant.
    """
    if wanted is None:
        return {name: position for position, name in enumerate(header)}
    plain = [normalize_name(name) for name in header]
    found = {}
    for names in wanted:
        if len(there := [name for name in names if normalize_name(name) in plain]) > 1:
            raise UserError(
                Reason.INVALID_DATA,
                f"{file} has the columns {quote_names(there)}: name the one to read in dataset.columns.labels",
            )
        for name in names:
            same = header if name in header else plain
            count = same.count(name if same is header else normalize_name(name))
            if count > 1:
                raise UserError(
                    Reason.INVALID_DATA,
                    f"{file}: {count} columns are called '{name}': rename them, or remove all but one",
                )
            if count == 1:
                found[names[0]] = same.index(name if same is header else normalize_name(name))
                break
        else:
            raise UserError(Reason.INVALID_DATA, f"{file}: no column '{names[0]}', only {quote_names(header, 20)}")
    return found


def normalize_name(name: str) -> str:
    """Return a column's name in lower case, without blanks around it."""
    return name.strip().casefold()


def quote_names(names: Sequence[str], limit: int = 5) -> str:
    """Return names for a message, in quotes, so that blanks show."""
    quoted = ", ".join(f"'{name[:80]}'" for name in names[:limit])
    return quoted + (f" and {len(names) - limit} more" if len(names) > limit else "")


def format_cell(value: Any, limit: int = 80) -> str:
    """Return a cell for a message."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}..."


# A number of any type finds its key here: 1, 1.0 and True are one.
_SWITCH = {1: 1, 0: 0, "1": 1, "0": 0, "1.0": 1, "0.0": 0, "true": 1, "false": 0}


def parse_indicator(value: Any) -> int | None:
    """Return the 0 or 1 that a cell of an indicator column holds, None when it holds neither."""
    key = value.strip().lower() if isinstance(value, str) else value
    return _SWITCH.get(key) if isinstance(key, Hashable) else None


def is_text(value: Any) -> bool:
    """Return whether a cell holds text that is not blank."""
    return isinstance(value, str) and not value.isspace() and value != ""


_TYPES: Final = {bool: "a boolean", int: "a number", float: "a number", list: "a list", dict: "an object"}


def describe_non_text(value: Any) -> str | None:
    """Return what a cell is that would count as no text, but holds something; None for text, null and NaN."""
    if isinstance(value, str) or value is None or value != value:  # noqa: PLR0124 - NaN is not itself
        return None
    return _TYPES.get(type(value), f"of type {type(value).__name__}")


def join_texts(parts: Iterable[Any]) -> str:
    """Return several text cells of a row as one text, with line breaks between them; blank ones are left out."""
    return "\n".join(part for part in parts if is_text(part))
