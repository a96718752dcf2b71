"""The page about reasons, the words in the code, and what the trainer says: one list."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from trainingtask_api import Reason

ROOT = Path(__file__).parents[3]
WORDS = {reason.value for reason in Reason}
# Called with a reason first, or built with one.
SPEAKERS = {"UserError", "Fault", "Cause"}


def spoken(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield each reason that stands in the code as a literal, and where."""
    for file in sorted(folder.rglob("*.py")):
        for item in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(item, ast.Call) and getattr(item.func, "id", "") in SPEAKERS and item.args:
                first = item.args[0]
                if isinstance(first, ast.Constant):
                    yield str(first.value), f"{file.relative_to(ROOT)}:{item.lineno}"


def test_the_page_has_every_reason_once_and_no_other() -> None:
    page = (ROOT / "docs" / "reasons.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    assert sorted(rows) == sorted(WORDS)


def test_every_row_of_the_page_says_what_to_do() -> None:
    page = (ROOT / "docs" / "reasons.md").read_text(encoding="utf-8")
    for row in re.findall(r"^\| `.*$", page, re.MULTILINE):
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert len(cells) in (3, 4), row
        assert all(cells), row


def test_the_trainer_says_no_other_word() -> None:
    found = list(spoken(ROOT / "trainer_image"))
    assert len(found) > 30
    assert [(word, where) for word, where in found if word not in WORDS] == []


def test_the_operator_takes_its_words_from_the_one_place() -> None:
    assert list(spoken(ROOT / "operator")) == []
    reason = re.compile(r"Reason\.([A-Z_]+)")
    used = {name for file in (ROOT / "operator").rglob("*.py") for name in reason.findall(file.read_text())}
    assert used
    assert used <= set(Reason.__members__)
