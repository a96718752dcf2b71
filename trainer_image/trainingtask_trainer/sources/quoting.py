r"""Quoting that differs from RFC 4180: a quote in a cell as ``\"``, blanks before a quote, single quotes.

A file is read by another rule than RFC 4180 only where its rows have as many cells as its header by that rule, and not
by RFC 4180.
"""

import csv
import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from trainingtask_api.reasons import Reason
from trainingtask_trainer.errors import UserError

_ESCAPED = re.compile(r'(?<!\\)((?:\\\\)*)\\"')  # after an even number of backslashes
_QUOTED_AFTER_BLANKS = re.compile(r' +"(?:[^"]|"")*" *')


class Quoting(NamedTuple):
    """What a csv reader has to be told; the default is RFC 4180."""

    has_escapes: bool = False
    """A quote in a quoted cell is written with a backslash before it."""
    has_blanks: bool = False
    """There are blanks between a separator and a quote."""

    def read(self, lines: Iterable[str], separator: str) -> "csv._reader":  # type: ignore[name-defined] # of typeshed alone
        """Return a reader of the rows in these lines."""
        # Not csv's own `escapechar`, which removes all other backslashes as well.
        doubled = (_ESCAPED.sub(r'\1""', line) for line in lines) if self.has_escapes else lines
        return csv.reader(doubled, delimiter=separator, strict=True, skipinitialspace=self.has_blanks)

    def describe(self) -> str:
        """Return the rule for a person."""
        rules = [r"\" as a quote in a cell"] * self.has_escapes + ["blanks before quotes"] * self.has_blanks
        return " and ".join(rules)


def detect_quoting(open_lines: Callable[[], Iterator[str]], separator: str, file: str) -> Quoting:
    """Return how the cells of a csv file are quoted.

    Parameters
    ----------
    open_lines
        Yields the lines of the file from its start.
    separator
        Between its cells.
    file
        Its name, for messages.

    Raises
    ------
    UserError
        When its cells are in single quotes.
    """
    has_escapes, has_blanks, has_single = _find_marks(open_lines(), separator)
    rules = [Quoting()]
    rules += [Quoting(has_escapes=True)] * has_escapes + [Quoting(has_blanks=True)] * has_blanks
    rules += [Quoting(has_escapes=True, has_blanks=True)] * (has_escapes and has_blanks)
    if len(rules) == 1 and not has_single:
        return rules[0]
    fitting = next((rule for rule in rules if _is_uniform(rule.read(open_lines(), separator))), None)
    if fitting is None and has_single and _is_uniform(csv.reader(open_lines(), delimiter=separator, quotechar="'")):
        raise UserError(
            Reason.INVALID_DATA,
            f"{file}: its cells are in single quotes, of which csv knows nothing: write double quotes",
        )
    if fitting == Quoting() and has_blanks and _has_quotes_in_cells(fitting.read(open_lines(), separator)):
        return Quoting(has_blanks=True)
    return fitting or Quoting()


def _find_marks(lines: Iterator[str], separator: str) -> tuple[bool, bool, bool]:
    """Return whether there is a backslash before a quote, blanks before one, and a cell that begins with a single quote."""
    blanks, single = re.compile(re.escape(separator) + ' +"'), re.compile(f"(?:^|{re.escape(separator)})'")
    has_escapes = has_blanks = has_single = False
    for line in lines:
        has_escapes = has_escapes or '\\"' in line
        has_blanks = has_blanks or blanks.search(line) is not None
        has_single = has_single or single.search(line) is not None
    return has_escapes, has_blanks, has_single


def _is_uniform(rows: Iterable[list[str]]) -> bool:
    try:
        return len({len(row) for row in rows if row}) == 1
    except csv.Error:
        return False


def _has_quotes_in_cells(rows: Iterable[list[str]]) -> bool:
    """Return whether there are cells of blanks and a quote, all of them quoted in whole."""
    cells = [cell for row in rows for cell in row if cell.lstrip(" ").startswith('"') and cell.startswith(" ")]
    return bool(cells) and all(map(_QUOTED_AFTER_BLANKS.fullmatch, cells))
