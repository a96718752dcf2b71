"""The next step for each reason."""

import re
from pathlib import Path

from trainingtask_api import Reason
from trainingtask_web.views.remediation import NEXT_STEPS, get_next_step


def test_next_steps_equal_those_of_docs_reasons() -> None:
    page = (Path(__file__).parents[4] / "docs" / "reasons.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in re.findall(r"^\| `.*$", page, re.MULTILINE)]
    assert {reason.value: step for reason, step in NEXT_STEPS.items()} == {row[0].strip("`"): row[-1] for row in rows}


def test_no_next_step_where_there_is_nothing_to_do() -> None:
    assert get_next_step("OOMKilled") == NEXT_STEPS[Reason.OOM_KILLED]
    assert get_next_step("Evicted") == "Nothing: it is tried again and goes on from the last checkpoint."
    assert [get_next_step(word) for word in ("Cancelled", "OfSomebodysOwnImage", "", None)] == [None] * 4
