"""CSV cells that no spreadsheet computes."""

from typing import Any

_FORMULA = ("=", "+", "-", "@", "\t", "\n")


def escape_formula(value: Any) -> Any:
    """Return a cell that spreadsheets show as text: one that begins like a formula gets an apostrophe in front."""
    if not isinstance(value, str):
        return value
    value = value.replace("\r", "\n")  # csv leaves the first of these unquoted, and spreadsheets begin a row with it
    return f"'{value}" if value.startswith(_FORMULA) else value
