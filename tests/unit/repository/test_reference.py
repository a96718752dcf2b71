"""The pages that `make reference` writes: up to date and complete."""

import re
from pathlib import Path

import pytest

import reference
from trainingtask_api import Condition, Reason

ROOT = Path(__file__).parents[3]
PAGES = reference.pages()


@pytest.mark.parametrize("path", PAGES, ids=str)
def test_generated_page_is_up_to_date(path: Path) -> None:
    assert (ROOT / path).read_text(encoding="utf-8") == PAGES[path], "run `make reference`"


def test_reference_folder_holds_generated_pages_only() -> None:
    generated = {path for path in PAGES if path.parent.name == "reference"}
    assert {path.relative_to(ROOT) for path in (ROOT / "docs" / "reference").iterdir()} == generated


def test_reasons_page_has_each_condition_type() -> None:
    types = re.findall(r"[A-Z]\w+", Condition.model_fields["type"].description or "")
    table = PAGES[reference.REASONS].partition("| Condition |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| (\w+) \|", table, re.MULTILINE) == types


def test_next_step_replaces_the_last_cell_of_a_row() -> None:
    step = reference.NEXT_STEP[Reason.EVICTED]
    assert reference.with_next_steps("| `Evicted` | Drained. | Old. |") == f"| `Evicted` | Drained. | {step} |"
