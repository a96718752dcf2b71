"""Output: tables for people; JSON, YAML and CSV for programs."""

import csv
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from io import StringIO
from typing import Any

import typer
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from trainingtask_api.formatting import escape_formula
from trainingtask_cli.formatting import Cell, format_cell
from trainingtask_cli.options import Format

# Nothing is cut or wrapped where there is no terminal.
_UNBOUNDED_WIDTH = 100_000
_STYLES = {
    "Succeeded": "green",
    "Complete": "green",
    "Failed": "bold red",
    "Interrupted": "yellow",
    "Suspended": "yellow",
    "Running": "cyan",
    "Cancelled": "dim",
    "Deleted": "dim",
}


@dataclass(frozen=True)
class Table:
    """Rows under columns; the wrapped columns hold prose, all others stay on one line."""

    columns: tuple[str, ...]
    rows: list[tuple[Cell, ...]]
    title: str = ""
    wrapped: frozenset[str] = field(default=frozenset())


def make_console() -> Console:
    """Return a console of standard output, with colours and a width only on a terminal."""
    terminal = sys.stdout.isatty()
    return Console(
        force_terminal=terminal,
        width=None if terminal else _UNBOUNDED_WIDTH,
        markup=False,
        highlight=False,
        emoji=False,
    )


def to_rich_table(table: Table) -> RichTable:
    """Return the table for rich."""
    rich = RichTable(
        box=None, pad_edge=False, show_header=any(table.columns), header_style="bold", padding=(0, 3, 0, 0)
    )
    for column in table.columns:
        rich.add_column(column, no_wrap=column not in table.wrapped, overflow="fold")
    for row in table.rows:
        rich.add_row(*(style_cell(cell) for cell in row))
    return rich


def style_cell(cell: Cell) -> Text:
    """Return a cell; states have colours."""
    return Text(format_cell(cell), style=_STYLES.get(cell, "") if isinstance(cell, str) else "")


def print_sections(*parts: Table | str) -> None:
    """Print tables and sentences; prose alone is wrapped, and nothing is cut."""
    out = make_console()
    width = out.width
    for number, part in enumerate(parts):
        with out.capture() as captured:
            if number:
                out.print()
            if isinstance(part, Table) and part.title:
                out.print(Text(format_cell(part.title)), style="bold")
            out.width = width if isinstance(part, str) or part.wrapped else _UNBOUNDED_WIDTH
            out.print(to_rich_table(part) if isinstance(part, Table) else Text(format_cell(part)))
            out.width = width
        # Without the padding that rich adds to each line.
        sys.stdout.write("".join(line.rstrip() + "\n" for line in captured.get().splitlines()))
    sys.stdout.flush()


def print_note(text: str) -> None:
    """Print a sentence beside the output, to the standard error."""
    typer.echo(format_cell(text), err=True)


def to_csv(columns: Iterable[str], rows: Iterable[Iterable[Cell]], *, header: bool = True) -> str:
    """Return rows as CSV: numbers unrounded, None as an empty cell, no formulas."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if header:
        writer.writerow(columns)
    writer.writerows([_to_csv_cell(cell) for cell in row] for row in rows)
    return text.getvalue()


def _to_csv_cell(cell: Cell) -> Any:
    return format_cell(escape_formula(cell)) if cell and isinstance(cell, str) else cell


def to_document(form: Format, value: Any) -> str:
    """Return an object as JSON or YAML."""
    if form is Format.JSON:
        return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    import yaml  # noqa: PLC0415 - for YAML alone

    text: str = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=10_000)
    return text


def strip_managed_fields(task: Mapping[str, Any]) -> dict[str, Any]:
    """Return an object without its `managedFields`, as kubectl shows it."""
    metadata = {key: value for key, value in task["metadata"].items() if key != "managedFields"}
    return {**task, "metadata": metadata}
