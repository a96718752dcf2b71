"""docs/reasons.md and the enum of reasons name the same ones; that the code raises no others, mypy checks."""

import re
from pathlib import Path

from trainingtask_api import Reason

PAGE = (Path(__file__).parents[3] / "docs" / "reasons.md").read_text(encoding="utf-8")


def test_the_page_has_every_reason_once_and_no_other() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)
    assert sorted(rows) == sorted(reason.value for reason in Reason)


def test_every_row_of_the_page_names_the_next_step() -> None:
    for row in re.findall(r"^\| `.*$", PAGE, re.MULTILINE):
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert len(cells) in (3, 4), row
        assert all(cells), row
